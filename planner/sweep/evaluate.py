"""The engine: every quantity is computed once for each distinct combination of what it depends on.

The stages are those of `planner.plan`, called on columns; there is no second arithmetic. A thousand GPUs do not make
one model's memory be computed twice, and the FLOPs know no GPU at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from planner.sweep.columns import Coded, Codes, Mask, Numbers, distinct, groups
from planner.sweep.grid import Grid, on_values
from planner.sweep.modelspace import ModelSpace, Progress
from planner.sweep.runs import blank_where_missing, run_results
from planner.sweep.serving import SERVING_RUN
from planner.sweep.training import TRAINING_RUN
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
        runs = _runs(grid, space, points)
        return {**results, **runs.columns(), **_devices(grid, results, runs)}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Results of the rows that ask for more than weights and states.

    Attributes
    ----------
    rows : array of bool
        Which rows those are.
    numbers : mapping of str to array
        Results by name, NaN where a row has none; empty where no row asks.
    refused : mapping of int to str
        By row, why its layout cannot exist.
    """

    rows: Mask
    numbers: Mapping[str, Numbers]
    refused: Mapping[int, str]

    def columns(self) -> dict[str, Result]:
        """Columns of the report."""
        if not self.numbers:
            return {}
        reasons = (None, *dict.fromkeys(self.refused.values()))
        position = {reason: code for code, reason in enumerate(reasons)}
        codes = np.zeros(len(self.rows), dtype=np.int64)
        for row, reason in self.refused.items():
            codes[row] = position[reason]
        numbers = {name: _numbers_or_blank(name, column) for name, column in self.numbers.items()}
        return {**numbers, "refused": Coded(reasons, codes)}

    def needed(self, states: Numbers) -> Numbers:
        """Bytes that one device must hold: of a run, or the states where nothing more is asked. [B]"""
        return np.where(self.rows, self.numbers["device_bytes"], states) if self.numbers else states

    def fits(self, held: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether a device holds it; for an engine, whether it starts."""
        starts = self.numbers.get("starts")
        return held if starts is None else np.where(np.isnan(starts), held, starts == 1)


def _numbers_or_blank(name: str, column: Numbers) -> Result:
    if name == "starts":
        return Coded((None, False, True), np.where(np.isnan(column), 0, 1 + (column == 1)).astype(np.int64))
    if name == "max_concurrency":
        known, codes = np.unique(column, return_inverse=True)
        return Coded(tuple(None if np.isnan(value) else float(value) for value in known), codes.astype(np.int64))
    return blank_where_missing(column)


def _runs(grid: Grid, space: ModelSpace, points: Coded) -> _Runs:
    asking = np.zeros(grid.rows, dtype=np.bool_)
    numbers: dict[str, Numbers] = {}
    refused: dict[int, str] = {}
    for field, kind in (("recipe", TRAINING_RUN), ("engine", SERVING_RUN)):
        rows = on_values(grid.columns[field], lambda value: value is not None)
        if not rows.any():
            continue
        asking |= rows
        found = run_results(kind, grid, space, points, rows)
        refused |= found.refused
        for name, column in found.numbers.items():
            numbers[name] = np.where(rows, column, numbers[name]) if name in numbers else column
    return _Runs(rows=asking, numbers=numbers, refused=refused)


def _devices(grid: Grid, results: Mapping[str, Result], runs: _Runs) -> dict[str, Result]:
    gpu = grid.columns["gpu"]
    if None in gpu.values:
        return {}
    devices = load_devices()
    memory = np.array([devices[name].memory_bytes for name in gpu.values], dtype=np.float64)
    total = results["total_bytes"]
    assert isinstance(total, np.ndarray)  # noqa: S101 - bytes are numbers
    row_memory = memory[gpu.codes]
    spread = fit(row_memory, total.astype(np.float64))
    found = fit(row_memory, runs.needed(total.astype(np.float64)))
    headroom = np.asarray(found.headroom_bytes)
    return {
        "gpu_memory_bytes": exact_integers(memory)[gpu.codes],
        "headroom_bytes": exact_integers(headroom) if not runs.numbers else blank_where_missing(headroom),
        "fits": runs.fits(np.asarray(found.fits)),
        "min_gpus": exact_integers(np.asarray(spread.min_gpus)),
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
