"""What the fields of a measured training step may hold, checked before anything reads them: rows are untrusted.

Fields that nothing is known of are left alone, and so is every text, which the readers search for words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from planner.validate.reading import Skipped

OBJECTS = ("model", "parallel", "finetune", "peak_mem", "source", "extra")
"""Fields that hold fields of their own."""

SIZE = 2**24
"""Largest width, vocabulary, sequence, batch or number of ranks that is believed."""

MOST_LAYERS = 10_000
"""Most layers, pipeline stages and chunks that are believed; each is looked at one by one."""

NUMBERS: Mapping[str, Mapping[str, int]] = {
    "": {"micro_batch_per_gpu": SIZE, "global_batch": SIZE, "grad_accum": SIZE, "gpus": SIZE, "seq_len": SIZE},
    "model": {
        "layers": MOST_LAYERS,
        "hidden": SIZE,
        "heads": SIZE,
        "kv_heads": SIZE,
        "head_dim": SIZE,
        "kv_channels": SIZE,
        "ffn": SIZE,
        "vocab": SIZE,
        "learned_positions": SIZE,
        "decoder-num-layers": MOST_LAYERS,
        "encoder-num-layers": MOST_LAYERS,
        "mtp-num-layers": MOST_LAYERS,
    },
    "model.moe": {"experts": SIZE, "topk": SIZE, "moe_ffn": SIZE, "shared": SIZE, "shared_ffn": SIZE},
    "model.mla": {"kv_lora": SIZE, "q_lora": SIZE, "qk_nope": SIZE, "qk_rope": SIZE, "v_head": SIZE},
    "parallel": {
        "tp": SIZE,
        "pp": MOST_LAYERS,
        "dp": SIZE,
        "cp": SIZE,
        "ep": SIZE,
        "etp": SIZE,
        "vp": MOST_LAYERS,
        "vpp": MOST_LAYERS,
        "vpp_layers": MOST_LAYERS,
        "vpp_stages": MOST_LAYERS,
    },
    "finetune": {"rank": SIZE},
}
"""Most that a number may be, by the object that it stands in; a number is whole, and no less than 0."""

FROM_ONE = frozenset(
    {"seq_len", "micro_batch_per_gpu", "hidden", "heads", "kv_heads", "ffn", "experts", "topk", "tp", "pp", "cp"}
)
"""Numbers that are no less than 1; a benchmark of a loss alone has no layers, and one of layers alone no vocabulary."""


def checked_row(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with whole numbers as such, where it was written by a program that knows only fractions.

    Raises
    ------
    Skipped
        A field holds what it cannot; it is named.

    Examples
    --------
    >>> checked_row({"id": "a", "model": {"layers": 32.0}})["model"]
    {'layers': 32}
    """
    found = dict(row)
    for name in OBJECTS:
        if found.get(name) is not None:
            found[name] = dict(_object(found[name], name))
    model = found.get("model") or {}
    for name in ("moe", "mla"):
        if model.get(name):
            model[name] = dict(_object(model[name], f"model.{name}"))
    for place, limits in NUMBERS.items():
        holder = _at(found, place)
        for name, most in limits.items():
            if holder.get(name) is not None:
                holder[name] = _whole(holder[name], f"{place}.{name}".lstrip("."), most)
    return found


def measured_bytes(row: Mapping[str, Any], name: str) -> float | None:
    """A measured size; None where the row has none. [B]

    Raises
    ------
    Skipped
        What stands there is no size.
    """
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf or value > 2**63:
        raise Skipped(f"{name} is {_shown(value)}, expected a number of bytes")
    return value


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Skipped(f"{name} is {_shown(value)}, expected an object")
    return value


def _at(row: dict[str, Any], place: str) -> dict[str, Any]:
    holder: Any = row
    for part in place.split(".") if place else ():
        holder = holder.get(part) or {}
    assert isinstance(holder, dict)  # noqa: S101 - made one above
    return holder


def _whole(value: object, name: str, most: int) -> int:
    least = 1 if name.rpartition(".")[2] in FROM_ONE else 0
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise Skipped(f"{name} is {_shown(value)}, expected a whole number from {least} to {most:,}")
    if value != int(value):
        raise Skipped(f"{name} is {value}, expected a whole number")
    return int(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
