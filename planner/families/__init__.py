"""Every architecture that has a builder, found by its `model_type`.

A family is one file here: a frozen config with the Hugging Face key names, and builders from it to a tree. Its
module is imported when one of its model types is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from planner.errors import UnsupportedError, near_miss
from planner.families.family import Family

MODULES = {
    "albert": ("albert",),
    "bart": ("bart", "marian", "mbart", "pegasus"),
    "bert": ("bert", "roberta", "xlm-roberta"),
    "clip": ("clip", "clip_text_model", "clip_vision_model"),
    "cohere": ("cohere", "cohere2"),
    "dbrx": ("dbrx",),
    "deberta": ("deberta", "deberta-v2"),
    "decilm": ("nemotron-nas",),
    "deepseek": (
        "axk1",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "kimi_k2",
        "minicpm3",
        "mistral4",
        "sarvam_mla",
        "youtu",
    ),
    "deepseek_v4": ("deepseek_v4",),
    "dinov2": ("dinov2", "dinov2_with_registers"),
    "distilbert": ("distilbert",),
    "electra": ("electra",),
    "falcon": ("falcon",),
    "gemma": ("gemma", "gemma2", "gemma3", "gemma3_text"),
    "gemma4": ("gemma4", "gemma4_text"),
    "glm": ("glm", "glm4"),
    "gpt": ("codegen", "gpt_bigcode", "gpt_neo", "gptj", "mpt"),
    "gpt2": ("gpt2",),
    "gpt_oss": ("gpt_oss",),
    "hunyuan_moe": ("hunyuan_v1_moe",),
    "idefics3": ("idefics3", "smolvlm"),
    "jamba": ("jamba",),
    "kimi_k25": ("kimi_k25",),
    "llama": ("llama", "mistral", "qwen2", "qwen3"),
    "llama_like": (
        "ernie4_5",
        "exaone",
        "granite",
        "helium",
        "hunyuan_v1_dense",
        "ministral3",
        "seed_oss",
        "smollm3",
        "stablelm",
    ),
    "llama4": ("llama4", "llama4_text"),
    "llava": ("llava", "vipllava"),
    "longcat": ("longcat_flash",),
    "mamba": ("falcon_mamba", "mamba", "mamba2"),
    "minimax": ("minimax_m2", "minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
    "mistral3": ("mistral3", "pixtral"),
    "mllama": ("mllama", "mllama_text_model"),
    "modernbert": ("modernbert",),
    "mixtral_like": ("granitemoe", "granitemoeshared", "phimoe"),
    "moe": ("mixtral", "qwen2_moe", "qwen3_moe"),
    "nemotron_h": ("nemotron_h",),
    "neox": ("bloom", "gpt_neox", "persimmon"),
    "olmo": ("exaone4", "olmo", "olmo2", "olmo3"),
    "olmoe": ("flex_olmo", "olmoe"),
    "opt": ("biogpt", "opt", "xglm"),
    "paligemma": ("paligemma",),
    "phi": ("phi", "phi3"),
    "qwen3_5": ("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"),
    "qwen3_next": ("qwen3_next",),
    "qwen_vl": ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe"),
    "recurrent_gemma": ("recurrent_gemma",),
    "remote": ("internlm", "internlm2", "orion", "phi3small", "qwen"),
    "rwkv": ("rwkv",),
    "shared_experts": (
        "afmoe",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "glm4_moe",
        "hy_v3",
        "mimo_v2_flash",
        "sarvam_moe",
        "solar_open",
    ),
    "siglip": ("siglip", "siglip_text_model", "siglip_vision_model"),
    "starcoder2": ("apertus", "arcee", "nemotron", "starcoder2"),
    "t5": ("t5", "mt5"),
    "t5gemma": ("t5gemma",),
    "vit": ("vit",),
    "whisper": ("whisper",),
    "xlnet": ("xlnet",),
    "zamba": ("zamba",),
}
"""Model types by the module that builds them."""

MODEL_TYPES = tuple(sorted(model_type for model_types in MODULES.values() for model_type in model_types))


@cache
def family(model_type: str) -> Family:
    """Family that builds a `model_type`.

    Raises
    ------
    UnsupportedError
        No builder knows it; the message says which come close.
    """
    for module, model_types in MODULES.items():
        if model_type in model_types:
            families: tuple[Family, ...] = import_module(f"planner.families.{module}").FAMILIES
            return next(found for found in families if found.model_type == model_type)
    raise UnsupportedError(
        f"no builder for model_type '{model_type}'",
        hint=near_miss(model_type, MODEL_TYPES) or f"known are {', '.join(MODEL_TYPES)}",
    )


def family_of(model_type: str, raw: Mapping[str, Any]) -> Family:
    """Family of a config: that of its `model_type`, or of the whole where the type is that of one of its parts."""
    found = family(model_type)
    if found.composed is not None and isinstance(raw.get("text_config"), Mapping):
        return family(found.composed)
    return found


def all_families() -> tuple[Family, ...]:
    """Every family, in the order of `MODEL_TYPES`."""
    return tuple(family(model_type) for model_type in MODEL_TYPES)
