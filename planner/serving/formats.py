"""Which format of the catalog weights and cache are stored in, from what flags, configs and logs call it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.errors import UnknownNameError, near_miss
from planner.formats import WeightFormat, find_format, load_formats
from planner.kv_formats import load_kv_formats

PLAIN: Mapping[str, str] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp32": "fp32",
    "f16": "fp16",
    "f32": "fp32",
}
"""Names of types."""

METHODS_OF_CONFIGS = ("fp8", "gptq", "gptq_marlin", "awq", "awq_marlin", "compressed-tensors")
"""Methods whose groups and blocks a checkpoint's config states."""

METHODS: tuple[tuple[str, str], ...] = (
    (r"mxfp4", "mxfp4"),
    (r"nvfp4|fp4", "nvfp4"),
    (r"fbgemm|mlps? only", "fp8-mlp"),
    (r"fp8\b.*\bblock|block\b.*\bfp8", "fp8-block128"),
    (r"fp8\b.*\b(dynamic|channel|marlin|e4m3|w8a8)|ptpc", "fp8-channel"),
    (r"fp8|modelopt|e4m3", "fp8"),
    (r"int8", "w8a8-int8"),
    (r"int4\b.*\b(experts|moe)|(experts|moe)\b.*\bint4", "int4-experts"),
    (r"awq", "awq-int4"),
    (r"w4a16|compressed tensors\b.*\bint4", "w4a16"),
    (r"w8a8", "w8a8-int8"),
    (r"gptq\b.*\b8", "gptq-int8"),
    (r"gptq", "gptq-int4"),
    (r"nf4|bitsandbytes|bnb", "nf4-double-quant"),
    (r"int4|w4", "int4"),
)
"""Whole words in the names of methods, and the format that they mean; the first that fits decides."""

FLAGS = ("awq", "awq_marlin", "gptq", "gptq_marlin", "bitsandbytes", "modelopt", "fbgemm_fp8", "none")
"""Words of ``--quantization`` beside the names of formats."""


def format_of(name: str, raw: Mapping[str, Any] | None = None) -> WeightFormat:
    """Format of the catalog by its own name, by what an engine's ``--quantization`` calls it, or as logs describe it.

    Parameters
    ----------
    name : str
        Such as ``fp8``, ``gptq_marlin`` or ``int4 w4a16 g128``.
    raw : mapping, optional
        The model's config, which knows the group or block where the name does not.

    Raises
    ------
    UnknownNameError
        Nothing in the name is known.

    Examples
    --------
    >>> format_of("fp8 block-128").name, format_of("bitsandbytes").name, format_of("bfloat16").name
    ('fp8-block128', 'nf4-double-quant', 'bf16')
    """
    spelled = name.strip().lower()
    if spelled in PLAIN:
        return find_format(PLAIN[spelled])
    if "fp8" in spelled and raw is not None and raw.get("expert_dtype") == "fp4":
        raise UnknownNameError(
            f"'{name}' does not say how the tensors beside the experts, which the config stores in fp4, are stored",
            key="quantization",
        )
    known = load_formats()
    if raw is not None and spelled in METHODS_OF_CONFIGS:
        own = configured_format(raw)
        if own is not None:
            return own
    if spelled in known:
        return known[spelled]
    gguf = re.search(r"\b(i?q\d\w*|mxfp4_moe|f16|bf16|f32)\b", spelled) if "gguf" in spelled else None
    if gguf is not None:
        found = known.get(f"gguf-{gguf[1]}")
        if found is not None:
            return found
    elif "/" not in spelled and "gguf" not in spelled:
        words = re.sub(r"[^a-z0-9]+", " ", spelled)
        for pattern, meant in METHODS:
            if re.search(rf"\b({pattern})\b", words):
                return known[meant]
    raise UnknownNameError(
        f"unknown quantization '{name}'", key="quantization", hint=near_miss(spelled, [*known, *FLAGS])
    )


def check_quantization(name: str) -> None:
    """Refuse what neither `format_of` nor llama.cpp knows: a type of GGUF files is known without its prefix.

    Raises
    ------
    UnknownNameError
        Nothing in the name is known.
    """
    spelled = name.strip().lower()
    if spelled not in ("none", "compressed-tensors") and f"gguf-{spelled}" not in load_formats():
        format_of(name)


def configured_format(raw: Mapping[str, Any]) -> WeightFormat | None:
    """Format that a config's ``quantization_config`` describes; None where it has none.

    Raises
    ------
    UnknownNameError
        It describes one that the catalog does not know.
    """
    text = raw.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, Mapping) else None
    stated = raw.get("quantization_config") or inner
    if not isinstance(stated, Mapping):
        if raw.get("expert_dtype") == "fp4":
            raise UnknownNameError(
                "is needed: the config stores experts in fp4, and does not say how it stores the rest",
                key="quantization",
                hint="mxfp4 counts the rest in 16 bits, and none counts all of it so",
            )
        return None
    method = str(stated.get("quant_method", "")).lower()
    known = load_formats()
    match method:
        case "fp8":
            return known["fp8-block128" if stated.get("weight_block_size") else "fp8"]
        case "mxfp4":
            return known["mxfp4"]
        case "fbgemm_fp8":
            return known["fp8-mlp"]
        case "bitsandbytes":
            eight = bool(stated.get("load_in_8bit"))
            double = bool(stated.get("bnb_4bit_use_double_quant"))
            return known["int8" if eight else "nf4-double-quant" if double else "nf4"]
        case "awq":
            return known["awq-int4"]
        case "gptq":
            return _gptq(stated, known)
        case "compressed-tensors":
            return _compressed(stated, known)
        case "modelopt":
            algorithm = str(stated.get("quant_algo") or "").upper()
            return known["nvfp4" if "FP4" in algorithm else "fp8"]
    raise UnknownNameError(f"unknown quantization '{method}'", key="quantization_config.quant_method")


def _gptq(stated: Mapping[str, Any], known: Mapping[str, WeightFormat]) -> WeightFormat:
    group = {32: "-g32", 64: "-g64", -1: "-channel"}.get(stated.get("group_size", 128), "")
    name = f"gptq-int{stated.get('bits', 4)}{group}"
    if name not in known:
        raise UnknownNameError(f"unknown format '{name}'", key="quantization_config", hint=near_miss(name, known))
    return known[name]


def _compressed(stated: Mapping[str, Any], known: Mapping[str, WeightFormat]) -> WeightFormat:
    groups = stated.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    described: Mapping[str, Any] = weights if isinstance(weights, Mapping) else {}
    bits, kind, strategy = described.get("num_bits"), described.get("type"), described.get("strategy")
    if bits == 8 and kind == "float":
        return known[{"block": "fp8-block128", "tensor": "fp8"}.get(str(strategy), "fp8-channel")]
    if bits == 8:
        return known["w8a8-int8"]
    if bits == 4 and kind == "float":
        return known["nvfp4"]
    if bits == 4:
        return known["int4-experts" if described.get("group_size") == 32 else "w4a16"]
    raise UnknownNameError(f"unknown format of {bits} bits and type '{kind}'", key="quantization_config.config_groups")


def element_dtype(dtype: str, raw: Mapping[str, Any]) -> str:
    """Type of activations: as stated, or as the config says, in 16 bits where that is fp32.

    Raises
    ------
    UnknownNameError
        No such type.
    """
    if dtype != "auto":
        if dtype.lower() not in PLAIN:
            raise UnknownNameError(f"unknown dtype '{dtype}'", key="dtype", hint=near_miss(dtype, PLAIN))
        return PLAIN[dtype.lower()]
    text = raw.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    stated = raw.get("dtype") or raw.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
    found = PLAIN.get(str(stated).lower(), "bf16")
    return "bf16" if found == "fp32" else found


def kv_format_of(name: str, dtype: str) -> str:
    """Name of the catalog for ``--kv-cache-dtype``; ``auto`` is the type of activations.

    Raises
    ------
    UnknownNameError
        No such format.

    Examples
    --------
    >>> kv_format_of("auto", "bf16"), kv_format_of("fp8_e4m3", "bf16"), kv_format_of("fp8 (fp8_ds_mla)", "bf16")
    ('bf16', 'fp8', 'fp8-ds-mla')
    """
    spelled = re.sub(r"\(.*?\)", " ", name).strip().lower().replace(" ", "-")
    if "ds_mla" in name.lower():
        return "fp8-ds-mla"
    if spelled.startswith(("auto", "16-bit")):
        return dtype
    if spelled in ("fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8-e4m3", "fp8-e5m2"):
        return "fp8"
    spelled = PLAIN.get(spelled, spelled).replace("_", "-") if spelled not in load_kv_formats() else spelled
    if spelled not in load_kv_formats():
        raise UnknownNameError(
            f"unknown cache format '{name}', expected auto or one of {', '.join(load_kv_formats())}",
            key="kv_cache_dtype",
            hint=near_miss(spelled, load_kv_formats()),
        )
    return spelled
