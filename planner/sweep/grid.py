"""The rows of a sweep as columns of codes: never a list of dicts, and a field with one value takes no memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from planner.located import Place
from planner.precisions import find_precision
from planner.scenario import FIELDS, SERVING_ONLY, TRAINING, TRAINING_ONLY
from planner.sweep.axes import Axes, Axis
from planner.sweep.columns import Coded, Codes, Mask, distinct
from planner.training.recipe import find_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Inputs of every row.

    Attributes
    ----------
    columns : mapping of str to Coded
        By field, in the order of the report; each changed config key is ``set.<key>``.
    rows : int
        Rows. [-]
    places : mapping of str to tuple of Place
        Where the values of each stated field stand, as long as its column's values were at first.
    whole : Place
        The file.
    """

    columns: Mapping[str, Coded]
    rows: int
    places: Mapping[str, tuple[Place, ...]]
    whole: Place

    def take(self, rows: Codes | Mask) -> Grid:
        """Some of the rows."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        kept = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
        return replace(self, columns=columns, rows=kept)

    def head(self, rows: int) -> Grid:
        """The first rows."""
        return self.take(np.arange(min(rows, self.rows))) if rows < self.rows else self

    def with_columns(self, columns: Mapping[str, Coded]) -> Grid:
        """The same rows with some columns changed."""
        return replace(self, columns={**self.columns, **columns})

    def without_duplicates(self) -> tuple[Grid, Codes]:
        """Each combination once, where it first stands; and which rows those are."""
        first = distinct(list(self.columns.values()), self.rows).first
        return (self, first) if len(first) == self.rows else (self.take(first), first)

    def place(self, name: str, row: int) -> Place:
        """Where the value that a row has for a field stands; the file where it is not stated."""
        places = self.places.get(name, ())
        code = int(self.columns[name].codes[row])
        return places[code] if code < len(places) else self.whole

    @property
    def overrides(self) -> tuple[str, ...]:
        """Names of the columns that change config keys."""
        return tuple(name for name in self.columns if name.startswith("set."))


def expand(axes: Axes) -> Grid:
    """Grid of all combinations, the first axis of the file slowest."""
    rows = axes.rows
    columns: dict[str, Coded] = {}
    places: dict[str, tuple[Place, ...]] = {}
    inner = rows
    for group in axes.groups:
        length = len(group[0].values)
        inner //= length
        positions = np.tile(np.repeat(np.arange(length), inner), rows // (length * inner))
        for axis in group:
            columns[axis.name], places[axis.name] = _column(axis, positions)
    ordered = {name: columns.get(name) or Coded.constant(_default(name), rows) for name in _order(axes)}
    return Grid(columns=ordered, rows=rows, places=places, whole=axes.whole)


def _order(axes: Axes) -> list[str]:
    overrides = [name for name in axes.names if name.startswith("set.")]
    return [name for key in FIELDS for name in (overrides if key == "set" else [key])]


def _default(name: str) -> Any:
    return FIELDS[name].default


def _column(axis: Axis, positions: Codes) -> tuple[Coded, tuple[Place, ...]]:
    """Column of an axis whose values are listed once, and the places of those."""
    numbers: dict[str, int] = {}
    first: list[int] = []
    codes = np.empty(len(axis.values), dtype=np.int64)
    for position, value in enumerate(axis.values):
        # By their text, since 1, 1.0 and true are equal and a value of a config key may be a list.
        key = json.dumps(value)
        if key not in numbers:
            numbers[key] = len(first)
            first.append(position)
        codes[position] = numbers[key]
    values = tuple(axis.values[position] for position in first)
    if len(values) == 1:
        return Coded.constant(values[0], len(positions)), (axis.place(0),)
    return Coded(values, codes[positions]), tuple(axis.place(position) for position in first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blanked:
    """A grid in which fields that do not apply are blank.

    Attributes
    ----------
    grid : Grid
        The rows.
    notes : tuple of str
        What a user who stated such a field should know.
    """

    grid: Grid
    notes: tuple[str, ...]


def blank_by_mode(grid: Grid) -> Blanked:
    """Blank what a row's mode does not read: `weights` follow from `precision` in training, which has no `past`."""
    columns = grid.columns
    training = on_values(columns["mode"], lambda mode: mode == TRAINING)
    changed = {
        "weights": _weights_of_precision(columns["weights"], columns["precision"], training),
        "precision": columns["precision"].replaced(~training, None),
        "optimizer": columns["optimizer"].replaced(~training, None),
        "past": columns["past"].replaced(training, 0),
    }
    cached = on_values(columns["past"], lambda past: past > 0) & training
    notes = ["past is 0 in training, which keeps no cache"] if cached.any() else []
    for names, rows in ((TRAINING_ONLY, ~training), (SERVING_ONLY, training)):
        changed |= {name: columns[name].replaced(rows, FIELDS[name].default) for name in names}
    if "weights" in grid.places:
        changed["quantization"] = _stored(changed["engine"], changed["quantization"], columns["weights"])
    with_habits = grid.with_columns(changed)
    return Blanked(grid=with_habits.with_columns(_recipe_habits(with_habits)), notes=tuple(notes))


def _stored(engine: Coded, quantization: Coded, weights: Coded) -> Coded:
    """How an engine stores weights, where the file says so by `weights` and not by the engine's own word."""
    silent = on_values(engine, lambda name: name is not None) & on_values(quantization, lambda name: name is None)
    for name in weights.values:
        rows = silent & on_values(weights, lambda value, name=name: value == name)  # type: ignore[misc]
        quantization = quantization.replaced(rows, name)
    return quantization


def _recipe_habits(grid: Grid) -> dict[str, Coded]:
    """Precision and optimizer of each row's recipe, where the file states none."""
    changed: dict[str, Coded] = {}
    recipe = grid.columns["recipe"]
    for name in ("precision", "optimizer"):
        column = grid.columns[name]
        if name in grid.places:
            continue
        for used in recipe.values:
            if used is not None:
                rows = on_values(recipe, lambda value, used=used: value == used)  # type: ignore[misc]
                column = column.replaced(rows, find_recipe(used).word(name, FIELDS[name].default))
        changed[name] = column
    return changed


def _weights_of_precision(weights: Coded, precision: Coded, training: Mask) -> Coded:
    for name in precision.values:
        rows = training & on_values(precision, lambda value, name=name: value == name)  # type: ignore[misc]
        if rows.any():
            weights = weights.replaced(rows, find_precision(name).parameters.name)
    return weights


def blank_by_model(grid: Grid, reads: Mapping[str, Mask]) -> Blanked:
    """Blank what a row's model does not read.

    Parameters
    ----------
    grid : Grid
        The rows.
    reads : mapping of str to array of bool
        For `past`, `source_length` and `images`, whether the model of each row has a use for it.
    """
    blanks = {"past": 0, "source_length": None, "images": 0}
    reasons = {
        "past": "models without a cache",
        "source_length": "models without an encoder beside the decoder",
        "images": "models that read no images beside text",
    }
    changed: dict[str, Coded] = {}
    notes = []
    for name, blank in blanks.items():
        column = grid.columns[name]
        stated = on_values(column, lambda value, blank=blank: value != blank) & ~reads[name]  # type: ignore[misc]
        if stated.any():
            changed[name] = column.replaced(stated, blank)
            notes.append(
                f"{name} does not apply to {reasons[name]}, and is {'blank' if blank is None else blank} there"
            )
    return Blanked(grid=grid.with_columns(changed), notes=tuple(notes))


def on_values(column: Coded, test: Callable[[Any], bool]) -> Mask:
    """Answer for each row, found once for each distinct value."""
    return np.array([bool(test(value)) for value in column.values], dtype=np.bool_)[column.codes]
