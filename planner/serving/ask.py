"""The inverse questions of serving: longest context, most requests, smallest GPU, fewest ranks, best format that fits.

A number is read off a column: all candidates are evaluated at once by the function that answers a single question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from planner.devices import Device, load_devices
from planner.engines import Engine
from planner.errors import PlannerError
from planner.models import Model
from planner.numeric import Num
from planner.serving.options import ServeOptions, changed
from planner.serving.serve import Serving, divides_heads, longest, serve_on

MOST_CANDIDATES = 2**16
"""Most numbers that are looked at for one question. [-]"""

MOST_REQUESTS = 4096
"""Most sequences that are looked at. [-]"""

DEGREES = (1, 2, 4, 8, 16, 32)
"""Tensor-parallel ranks that are looked at."""

FORMATS = ("bf16", "fp8", "nvfp4", "w4a16")
"""Formats that engines serve, from the one that changes least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Answer to an inverse question.

    Attributes
    ----------
    value : int, str or None
        The best candidate; None where none starts.
    serving : Serving or None
        What it leads to.
    note : str
        What bounds it, or why there is none.
    """

    value: int | str | None
    serving: Serving | None
    note: str = ""


def longest_context(
    model: Model,
    engine: Engine,
    memory_bytes: Num,
    options: ServeOptions,
    device: Device | None = None,
    *,
    most: int | None = None,
) -> Found:
    """Largest ``max_model_len`` with which the engine starts, in whole blocks, up to what the model allows. [token]"""
    bound = longest(model) if most is None else most
    block = int(options.block_size or engine.number("block_size", 16))
    step = max(block, -(-bound // MOST_CANDIDATES // block) * block)
    candidates = _multiples(step, bound)
    return _last_that_starts(model, engine, memory_bytes, options, device, "max_model_len", candidates)


def most_requests(
    model: Model, engine: Engine, memory_bytes: Num, options: ServeOptions, device: Device | None = None
) -> Found:
    """Most sequences at full length that the pool holds, with ``max_num_seqs`` set to just as many. [-]"""
    import numpy as np

    candidates = np.arange(1, MOST_REQUESTS + 1, dtype=np.float64)
    serving = serve_on(model, engine, memory_bytes, changed(options, max_num_seqs=candidates), device=device)
    fits = np.broadcast_to(serving.concurrency, candidates.shape) >= candidates
    if not fits.any():
        return Found(value=None, serving=None, note="not even one request at full length fits")
    value = int(candidates[fits][-1])
    note = f"more than {value:,} were not looked at" if value == MOST_REQUESTS else ""
    chosen = serve_on(model, engine, memory_bytes, changed(options, max_num_seqs=value), device=device)
    return Found(value=value, serving=chosen, note=note)


def fewest_ranks(
    model: Model, engine: Engine, memory_bytes: Num, options: ServeOptions, device: Device | None = None
) -> Found:
    """Smallest ``tensor_parallel_size`` with which the engine starts, among those that divide the heads. [-]"""
    degrees = allowed_degrees(model)
    found = first_that_starts(model, engine, memory_bytes, options, device, "tensor_parallel_size", degrees)
    return found or Found(value=None, serving=None, note=f"none of {', '.join(map(str, degrees))} ranks is enough")


def smallest_device(
    model: Model, engine: Engine, options: ServeOptions, devices: Iterable[Device] | None = None
) -> Found:
    """Device with least memory on which the engine starts."""
    known = load_devices().values() if devices is None else devices
    for device in sorted(known, key=lambda item: item.memory_bytes):
        serving = serve_on(model, engine, device.memory_bytes, options, device=device)
        if serving.starts:
            return Found(value=device.name, serving=serving)
    return Found(value=None, serving=None, note="no device of the catalog has memory enough")


def best_format(
    model: Model,
    engine: Engine,
    memory_bytes: Num,
    options: ServeOptions,
    device: Device | None = None,
    *,
    formats: Sequence[str] = FORMATS,
) -> Found:
    """First of some formats, from the one that changes least, with which the engine starts."""
    for name in formats:
        serving = serve_on(model, engine, memory_bytes, changed(options, quantization=name), device=device)
        if serving.starts:
            return Found(value=name, serving=serving)
    return Found(value=None, serving=None, note=f"none of {', '.join(formats)} is small enough")


def allowed_degrees(model: Model) -> tuple[int, ...]:
    """Tensor-parallel ranks that divide the query heads of a model."""
    tree = model.tree
    return tuple(ranks for ranks in DEGREES if divides_heads(tree, ranks))


def first_that_starts(
    model: Model,
    engine: Engine,
    memory_bytes: Num,
    options: ServeOptions,
    device: Device | None,
    flag: str,
    candidates: Sequence[float],
) -> Found | None:
    """First candidate of a flag with which the engine starts; None where there is none."""
    import numpy as np

    if not candidates:
        return None
    column = np.asarray(candidates, dtype=np.float64)
    try:
        starts = serve_on(model, engine, memory_bytes, changed(options, **{flag: column}), device=device).starts
    except PlannerError:
        return None  # such a layout cannot exist
    fitting = [value for value, fits in zip(candidates, np.broadcast_to(starts, column.shape), strict=True) if fits]
    if not fitting:
        return None
    value: Any = fitting[0]
    chosen = serve_on(model, engine, memory_bytes, changed(options, **{flag: value}), device=device)
    return Found(value=value, serving=chosen)


def _last_that_starts(
    model: Model,
    engine: Engine,
    memory_bytes: Num,
    options: ServeOptions,
    device: Device | None,
    flag: str,
    candidates: Any,
) -> Found:
    import numpy as np

    starts = serve_on(model, engine, memory_bytes, changed(options, **{flag: candidates}), device=device).starts
    fitting = candidates[np.broadcast_to(starts, candidates.shape)]
    if not fitting.size:
        return Found(value=None, serving=None, note=f"{flag} {int(candidates[0]):,} is already too much")
    value = int(fitting[-1])
    chosen = serve_on(model, engine, memory_bytes, changed(options, **{flag: value}), device=device)
    note = "as much as the model allows" if value == int(candidates[-1]) else ""
    return Found(value=value, serving=chosen, note=note)


def _multiples(step: int, bound: int) -> Any:
    import numpy as np

    whole = np.arange(1, bound // step + 1, dtype=np.float64) * step
    return whole if whole.size and whole[-1] == bound else np.append(whole, float(bound))
