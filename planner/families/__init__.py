"""Every architecture that has a builder, found by its `model_type`.

A family is one file here: a frozen config with the Hugging Face key names, and builders from it to a tree. Its
module is imported when one of its model types is asked for.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from planner.errors import UnsupportedError, near_miss
from planner.families.family import Family

MODULES = {
    "bert": ("bert", "roberta", "xlm-roberta"),
    "deepseek": ("deepseek_v3", "kimi_k2"),
    "gemma": ("gemma", "gemma2", "gemma3", "gemma3_text"),
    "gpt2": ("gpt2",),
    "gpt_oss": ("gpt_oss",),
    "llama": ("llama", "mistral", "qwen2", "qwen3"),
    "moe": ("mixtral", "qwen2_moe", "qwen3_moe"),
    "t5": ("t5", "mt5"),
    "vit": ("vit",),
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


def all_families() -> tuple[Family, ...]:
    """Every family, in the order of `MODEL_TYPES`."""
    return tuple(family(model_type) for model_type in MODEL_TYPES)
