"""From a scenario file to the rows of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from planner.engines import find_engine
from planner.plan import unread_by
from planner.scenario import INFERENCE, TRAINING, USUAL
from planner.sweep.axes import Axes, Condition, read_axes
from planner.sweep.columns import Coded, Mask
from planner.sweep.evaluate import DEVICE_COLUMNS, Result, evaluate
from planner.sweep.grid import Grid, blank_by_mode, blank_by_model, expand, on_values
from planner.sweep.modelspace import ModelSpace, Progress
from planner.sweep.table import OPTIONAL, RESULTS, Report, input_column, kind_of
from planner.sweep.where import Filter, split_conjunctions


def sweep(
    scenario: str | Path,
    *,
    confirmed: bool = False,
    limit: int | None = None,
    models_dir: Path | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Evaluate a scenario file.

    Parameters
    ----------
    scenario : str or Path
        YAML, see `planner.scenario`.
    confirmed : bool
        Allow a grid of more than `planner.sweep.axes.LARGEST_GRID` rows.
    limit : int, optional
        Rows of the report at most; the first ones are kept. [-]
    models_dir : Path, optional
        Folder of configs that is searched first.
    offline : bool
        Do not ask the hub for a config.
    progress : callable, optional
        Told what is being done, how much of it is done, and how much there is.

    Raises
    ------
    ScenarioError
        The scenario is wrong; file, line and key path are named.
    """
    axes = read_axes(Path(scenario), confirmed=confirmed)
    return evaluate_axes(
        axes, Path(scenario).stem, limit=limit, models_dir=models_dir, offline=offline, progress=progress
    )


def evaluate_axes(
    axes: Axes,
    name: str,
    *,
    limit: int | None = None,
    models_dir: Path | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Report of axes that are read already, under a name; see `sweep`."""
    telling: Progress = progress or (lambda _stage, _done, _total: None)
    expanded = expand(axes)
    _check_uses(expanded)
    conditions = _Conditions(axes.conditions, expanded)
    blanked = blank_by_mode(expanded)
    notes = [*blanked.notes, *_unread(expanded)]
    grid = conditions.about_inputs(blanked.grid)
    if grid.rows == 0:
        return _report(name, grid, {}, [*notes, *_emptied(axes, grid)])
    space = ModelSpace(grid, models_dir=models_dir, offline=offline, progress=telling)
    points = space.points
    grid = grid.with_columns({"class": space.classes(grid.columns["class"])})
    by_model = blank_by_model(grid, {field: used[points.codes] for field, used in space.reads.items()})
    notes += by_model.notes
    # Asked again, so that no row contradicts the conditions by what it shows.
    kept = conditions.mask_of_inputs(by_model.grid)
    grid, points = by_model.grid.take(kept), points.take(kept)
    grid, first = grid.without_duplicates()
    if len(first) < points.rows:
        notes.append(f"{points.rows - len(first):,} rows differed in nothing that applies to them, and stand once")
    points = points.take(first)
    if limit is not None and not conditions.need_results:
        grid, points = grid.head(limit), points.take(np.arange(min(limit, grid.rows)))
    if grid.rows == 0:
        return _report(name, grid, {}, [*notes, *_emptied(axes, grid)])
    results = evaluate(grid, space, points, telling)
    kept = conditions.mask_of_results(grid, results)
    if limit is not None:
        kept &= np.cumsum(kept) <= limit
    grid, points = grid.take(kept), points.take(kept)
    notes += [*_beyond_positions(grid, space, points), *_refused(results, kept), *_emptied(axes, grid)]
    taken = {column: _take(values, kept) for column, values in results.items()}
    return _report(name, grid, taken, notes, tuple(space.assumptions))


def _check_uses(grid: Grid) -> None:
    """Refuse a recipe or an engine that no row can read, and an engine without a device.

    Raises
    ------
    ScenarioError
        Where the file names it.
    """
    modes = grid.columns["mode"].values
    for field, mode, kind in (("recipe", TRAINING, "a training recipe"), ("engine", INFERENCE, "an inference engine")):
        stated = [
            place
            for value, place in zip(grid.columns[field].values, grid.places.get(field, ()), strict=False)
            if value is not None
        ]
        if stated and mode not in modes:
            raise stated[0].error(f"is {kind}, but mode is {modes[0]}")
        if stated and field == "engine" and None in grid.columns["gpu"].values:
            raise stated[0].error("needs a gpu: what it reserves follows from its memory")


def _unread(grid: Grid) -> list[str]:
    """Notes about fields that the file states and that one of its engines does not read."""
    stated = [field for field in grid.places if any(value is not None for value in grid.columns[field].values)]
    return [
        f"{field} is not read by {name}"
        for name in grid.columns["engine"].values
        if name is not None
        for field in unread_by(find_engine(name), stated)
        if field not in ("batch_size", "sequence_length")  # FLOPs follow from these
    ]


def _refused(results: Mapping[str, Result], kept: Mask) -> list[str]:
    """Note about rows whose layout cannot exist."""
    column = results.get("refused")
    if not isinstance(column, Coded):
        return []
    codes = column.codes[kept]
    rows = [(int(np.count_nonzero(codes == code)), reason) for code, reason in enumerate(column.values) if reason]
    found = [(count, reason) for count, reason in rows if count]
    if not found:
        return []
    most = max(found)
    others = f", and {len(found) - 1:,} more reasons in the column 'refused'" if len(found) > 1 else ""
    return [f"{sum(count for count, _ in found):,} rows cannot exist: {most[1]}{others}"]


class _Conditions:
    """Conditions of a scenario, those about inputs apart, since they save work."""

    def __init__(self, conditions: Sequence[Condition], grid: Grid) -> None:
        results = [column.name for column in RESULTS]
        self._inputs: list[Filter] = []
        self._results: list[Filter] = []
        for part in (part for condition in conditions for part in split_conjunctions(condition)):
            found = Filter(part)
            found.check_names([*grid.columns, *results])
            of_devices = sorted(found.names & set(DEVICE_COLUMNS))
            if of_devices and None in grid.columns["gpu"].values:
                raise part.place.error(f"'{of_devices[0]}' needs a gpu, and the scenario names none")
            (self._inputs if found.names <= set(grid.columns) else self._results).append(found)

    @property
    def need_results(self) -> bool:
        """Whether rows can be dropped only after they are evaluated."""
        return bool(self._results)

    def about_inputs(self, grid: Grid) -> Grid:
        """Rows that satisfy every condition about inputs, as far as they are known before a model is built."""
        early = [found for found in self._inputs if "class" not in found.names]
        return grid.take(_all_hold(early, grid, {})) if early else grid

    def mask_of_inputs(self, grid: Grid) -> Mask:
        """Which rows those are."""
        return _all_hold(self._inputs, grid, {})

    def mask_of_results(self, grid: Grid, results: Mapping[str, Result]) -> Mask:
        """Rows that satisfy every condition about results."""
        return _all_hold(self._results, grid, results)


def _all_hold(filters: Sequence[Filter], grid: Grid, results: Mapping[str, Result]) -> Mask:
    kept: Mask = np.ones(grid.rows, dtype=np.bool_)
    for found in filters:
        operands = {name: _operand(grid, results, name) for name in found.names}
        kept &= found.mask(operands, grid.rows)
    return kept


def _operand(grid: Grid, results: Mapping[str, Result], name: str) -> Any:
    """Column as a condition sees it: numbers as float64, truth values and words as they are."""
    values = results[name] if name in results else grid.columns[name]
    if isinstance(values, Coded):
        return values.numbers() if kind_of(values.values) in ("integer", "number") else values
    return values if values.dtype == np.bool_ else values.astype(np.float64)


def _take(values: Result, kept: Mask) -> Result:
    return values.take(kept) if isinstance(values, Coded) else values[kept]


def _beyond_positions(grid: Grid, space: ModelSpace, points: Coded) -> list[str]:
    """Note about steps that are longer than a model's table of positions."""
    length = grid.columns["sequence_length"].numbers() + grid.columns["past"].numbers()
    served = on_values(grid.columns["engine"], lambda name: name is not None)  # an engine has lengths of its own
    beyond = (length > space.longest[points.codes]) & ~served
    if not beyond.any():
        return []
    row = int(np.argmax(beyond))
    model, table = grid.columns["model"].at(row), int(space.longest[points.codes[row]])
    return [
        f"{int(np.count_nonzero(beyond)):,} rows ask for more tokens than the model has positions for "
        f"({model} has {table:,}): the real model cannot run such a step"
    ]


def _emptied(axes: Axes, grid: Grid) -> list[str]:
    return [f"no row is left of {axes.rows:,}: where keeps none"] if grid.rows == 0 else []


def _report(
    name: str, grid: Grid, results: Mapping[str, Result], notes: Sequence[str], assumptions: tuple[str, ...] = ()
) -> Report:
    # Fields of jobs and engines are many: they stand in the report where the file states them.
    shown = [field for field in grid.columns if field in USUAL or field in grid.places or field.startswith("set.")]
    inputs = [input_column(field, grid.columns[field]) for field in shown]
    return Report(
        name=name,
        columns=(*inputs, *(column for column in RESULTS if column.name in results or column.name not in OPTIONAL)),
        data={**{field: grid.columns[field] for field in shown}, **results},
        rows=grid.rows,
        inputs=tuple(shown),
        notes=tuple(notes),
        assumptions=assumptions,
    )
