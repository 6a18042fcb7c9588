"""The engine: every quantity is computed once for each distinct combination of what it depends on.

The stages are those of `planner.plan`, called on columns; there is no second arithmetic. A thousand GPUs do not make
one model's memory be computed twice, and the FLOPs know no GPU at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.counts import count
from planner.devices import load_devices
from planner.errors import PlannerError, ScenarioError
from planner.memory import GRADIENTS, MASTERS, OPTIMIZER, SCALES, WEIGHTS, Memory
from planner.models import BUILDER
from planner.numeric import Num, exact_integers
from planner.plan import fit, flops_per_token, states, work
from planner.sweep.columns import Coded, Codes, Numbers, distinct, groups
from planner.sweep.grid import Grid
from planner.sweep.modelspace import ModelSpace, Progress
from planner.workload import Step

BLOCK_ROWS = 65_536
"""Combinations that are computed at a time: the columns of one block stay in the processor's cache."""

MEMORY_COLUMNS: Mapping[str, str] = {
    WEIGHTS: "weights_bytes",
    SCALES: "scales_bytes",
    GRADIENTS: "gradients_bytes",
    MASTERS: "master_weights_bytes",
    OPTIMIZER: "optimizer_bytes",
}
"""Column of each row of `planner.memory.Memory`; together they are the total."""

DEVICE_COLUMNS = ("gpu_memory_bytes", "headroom_bytes", "fits", "min_gpus")
"""Results that a row without a GPU does not have."""

USE = ("mode", "weights", "precision", "optimizer")
"""Fields that the memory depends on beside the model."""

Result = npt.NDArray[Any] | Coded
"""Column of a result: integers, floats, truth values, or words."""


def evaluate(grid: Grid, space: ModelSpace, points: Coded, progress: Progress) -> dict[str, Result]:
    """Every result of every row.

    Parameters
    ----------
    grid : Grid
        The rows, fields that do not apply blank.
    space : ModelSpace
        Their models.
    points : Coded
        For each row its point in `space`.
    progress : callable
        See `Progress`.

    Returns
    -------
    dict of str to array or Coded
        By the name of the column; counts and bytes are int64. Columns about a GPU are missing where none is asked
        about.

    Raises
    ------
    ScenarioError
        A number is too large to be exact, or a model cannot do what is asked of it.
    """
    try:
        results: dict[str, Result] = {
            **_counts(space, points),
            **_memory(grid, space, points, progress),
            **_flops(grid, space, points, progress),
        }
        return {**results, **_devices(grid, results)}
    except (OverflowError, PlannerError) as error:
        message = error.message if isinstance(error, PlannerError) else str(error)
        raise ScenarioError(message, file=grid.whole.file) from None


def _counts(space: ModelSpace, points: Coded) -> dict[str, Result]:
    total, active = _empty(space.count), _empty(space.count)
    group = Coded(tuple(range(space.group_count)), space.group_of)
    for (number,), members in groups([group], space.count):
        for block in _blocks(members):
            counts = count(space.tree(number, block))
            total[block], active[block] = counts.total, counts.active
    return {
        "total_parameters": exact_integers(total)[points.codes],
        "active_parameters": exact_integers(active)[points.codes],
    }


def _memory(grid: Grid, space: ModelSpace, points: Coded, progress: Progress) -> dict[str, Result]:
    found = distinct([points, *(grid.columns[name] for name in USE)], grid.rows)
    at = points.codes[found.first]
    keys = [grid.columns[name].take(found.first) for name in USE]
    sizes = {column: _empty(found.count) for column in (*MEMORY_COLUMNS.values(), "total_bytes")}
    largest = np.zeros(found.count, dtype=np.int64)
    for (group, *use), members in _grouped(space, at, keys, progress, "memory"):
        memory = states(space.tree(group, at[members]), *use)
        for row in memory.rows:
            sizes[MEMORY_COLUMNS[row.name]][members] = row.size_bytes
        sizes["total_bytes"][members] = memory.total_bytes
        largest[members] = _largest_row(memory, len(members))
    integers: dict[str, Result] = {name: exact_integers(size)[found.inverse] for name, size in sizes.items()}
    return {**integers, "largest_row": Coded(tuple(MEMORY_COLUMNS), largest[found.inverse])}


def _largest_row(memory: Memory, count_: int) -> Codes:
    """For each combination, the position in `MEMORY_COLUMNS` of its largest row."""
    sizes = np.stack([np.broadcast_to(np.asarray(row.size_bytes, np.float64), (count_,)) for row in memory.rows])
    positions = np.array([list(MEMORY_COLUMNS).index(row.name) for row in memory.rows])
    result: Codes = positions[np.argmax(sizes, axis=0)]
    return result


def _flops(grid: Grid, space: ModelSpace, points: Coded, progress: Progress) -> dict[str, Result]:
    names = ("batch_size", "sequence_length", "past", "source_length", "logits", "images")
    found = distinct([points, *(grid.columns[name] for name in names)], grid.rows)
    at = points.codes[found.first]
    fields = {name: grid.columns[name].take(found.first) for name in names}
    numbers = {name: column.numbers() for name, column in fields.items() if name != "logits"}
    own_source = Coded((False, True), np.isnan(numbers["source_length"]).astype(np.int64))
    forward, training = _empty(found.count), _empty(found.count)
    for (group, logits, no_source), members in _grouped(space, at, [fields["logits"], own_source], progress, "FLOPs"):
        asked = {name: _plain_if_equal(column[members]) for name, column in numbers.items() if name != "source_length"}
        source = None if no_source else _plain_if_equal(numbers["source_length"][members])
        model, tree = space.model(group), space.tree(group, at[members])
        if model.method == BUILDER:
            step = Step(**asked, source_length=source, logits=logits)
            flops = flops_per_token(work(model, tree, step))
            forward[members], training[members] = flops.forward, flops.training
            continue
        for member in members:
            # A real class is traced for one step at a time.
            one = {name: int(column[member]) for name, column in numbers.items() if name != "source_length"}
            own = None if no_source else int(numbers["source_length"][member])
            flops = flops_per_token(work(model, tree, Step(**one, source_length=own, logits=logits)))
            forward[member], training[member] = flops.forward, flops.training
    return {
        "forward_flops_per_token": forward[found.inverse],
        "training_flops_per_token": training[found.inverse],
    }


def _devices(grid: Grid, results: Mapping[str, Result]) -> dict[str, Result]:
    gpu = grid.columns["gpu"]
    if None in gpu.values:
        return {}
    devices = load_devices()
    memory = np.array([devices[name].memory_bytes for name in gpu.values], dtype=np.float64)
    total = results["total_bytes"]
    assert isinstance(total, np.ndarray)  # noqa: S101 - bytes are numbers
    row_memory = memory[gpu.codes]
    found = fit(row_memory, total.astype(np.float64))
    return {
        "gpu_memory_bytes": exact_integers(memory)[gpu.codes],
        "headroom_bytes": exact_integers(np.asarray(found.headroom_bytes)),
        "fits": np.asarray(found.fits),
        "min_gpus": exact_integers(np.asarray(found.min_gpus)),
    }


def _grouped(
    space: ModelSpace, at: Codes, keys: Sequence[Coded], progress: Progress, stage: str
) -> Iterator[tuple[tuple[Any, ...], Codes]]:
    """Blocks of combinations that share a tree's structure and the values of the keys."""
    group = Coded(tuple(range(space.group_count)), space.group_of[at])
    done = 0
    for values, members in groups([group, *keys], len(at)):
        for block in _blocks(members):
            yield values, block
            done += len(block)
            progress(stage, done, len(at))


def _blocks(members: Codes) -> Iterator[Codes]:
    for start in range(0, len(members), BLOCK_ROWS):
        yield members[start : start + BLOCK_ROWS]


def _plain_if_equal(column: Numbers) -> Num:
    """A plain integer where all elements are equal, so that one step stays exact beyond 2**53."""
    return int(column[0]) if np.all(column == column[0]) else column


def _empty(rows: int) -> Numbers:
    return np.zeros(rows, dtype=np.float64)
