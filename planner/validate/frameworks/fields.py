"""Fields of a measured row, as people fill them in: words are looked for in free text, and numbers may be missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.optimizers import Optimizer, find_optimizer
from planner.parallelism import Parallelism, ZeroStage
from planner.training.job import Recompute
from planner.validate.reading import Counter, Skipped

OPTIMIZERS = (
    # Of several words, the first that is found counts.
    (("4-bit", "4bit"), "adamw-4bit"),
    (("fp8",), "adamw-fp8"),
    (("paged",), "paged-adamw-8bit"),
    (("8-bit", "8bit"), "adamw-8bit"),
    (("adafactor",), "adafactor"),
    (("lion",), "lion"),
    (("muon",), "muon"),
    (("sgd",), "sgd"),
    (("adam", "default"), "adamw"),
)
"""Words of the field `optimizer`, and the optimizer that they stand for."""


def text(row: Mapping[str, Any], *keys: str) -> str:
    """Texts of some fields in small letters, side by side."""
    return " ".join(str(row[key]) for key in keys if row.get(key) is not None).lower()


def number(row: Mapping[str, Any], key: str) -> int | None:
    """A whole number of at least 1; None where the field is missing or null."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1 or value != int(value):
        raise Skipped(f"'{key}' is {value!r}, expected a whole number of at least 1")
    return int(value)


def needed(row: Mapping[str, Any], key: str) -> int:
    """A whole number without which nothing is predicted."""
    found = number(row, key)
    if found is None:
        raise Skipped(f"'{key}' is not stated")
    return found


def parallelism(row: Mapping[str, Any], *, zero: int = 0) -> Parallelism:
    """Degrees of the field `parallel`; a stage of ZeRO that it states counts before `zero`."""
    stated: Mapping[str, Any] = row.get("parallel") or {}

    def degree(key: str) -> int:
        return number(stated, key) or 1

    stage = stated.get("zero")
    chosen = stage if stage in (0, 1, 2, 3) else zero
    tp, pp, cp = degree("tp"), degree("pp"), degree("cp")
    gpus = number(row, "gpus")
    dp = number(stated, "dp") or max(1, (gpus or 1) // (tp * pp * cp))
    return Parallelism(
        tp=tp,
        sequence_parallel=bool(stated.get("sp")) and tp > 1,
        pp=pp,
        vp=degree("vp") if pp > 1 else 1,
        cp=cp,
        dp=dp,
        ep=degree("ep"),
        etp=number(stated, "etp"),
        zero=_stage(chosen),
        shard=_shard(stated, dp * cp),
    )


def _stage(value: Any) -> ZeroStage:
    return value if value in (0, 1, 2, 3) else 0


def _shard(stated: Mapping[str, Any], ranks: int) -> int | None:
    """Ranks that share one copy, where the text of `fsdp` states fewer than there are."""
    found = re.search(r"hsdp\D*shard\D*(\d+)", str(stated.get("fsdp") or "").lower())
    return int(found[1]) if found and int(found[1]) < ranks else None


def optimizer(row: Mapping[str, Any], default: str = "adamw") -> Optimizer:
    """Optimizer of the field of that name."""
    words = text(row, "optimizer")
    if not words:
        return find_optimizer(default)
    for options, name in OPTIMIZERS:
        if any(option in words for option in options):
            return find_optimizer(name)
    raise Skipped(f"the optimizer '{row.get('optimizer')}' is not known")


def recompute(row: Mapping[str, Any], default: Recompute) -> Recompute:
    """Recomputation of the field `act_ckpt`."""
    words = text(row, "act_ckpt")
    if not words or "not stated" in words or "default" in words.split():
        return default
    if "per-op" in words or "per op" in words or "per_op" in words:
        return Recompute(kind="per_op")
    every = re.search(r"every (\d+)", words)
    if words.startswith("full") or "per block" in words or every:
        return Recompute(kind="full", every=int(every[1]) if every else 1)
    if words.startswith(("none", "no ", "off")) or words in ("no", "false"):
        return Recompute()
    if "attention" in words or "attn" in words:
        return Recompute(kind="selective", parts=frozenset({"core_attention", "attention"}))
    if "selective" in words:
        return Recompute(kind="per_op")
    raise Skipped(f"the activation checkpointing '{row.get('act_ckpt')}' is not known")


def counter(row: Mapping[str, Any]) -> Counter:
    """What `peak_mem` says was read."""
    metric = str((row.get("peak_mem") or {}).get("metric") or "").lower()
    if "reserved" in metric:
        return "reserved"
    if "smi" in metric or "device" in metric or "nvml" in metric:
        return "device"
    return "allocated"
