"""Rows of a sweep that ask for a run: each distinct run is computed once, on columns of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from planner.errors import PlannerError
from planner.models import Model
from planner.nodes import Node
from planner.scenario import FIELDS
from planner.sweep.columns import Coded, Codes, Mask, Numbers, distinct, groups
from planner.sweep.grid import Grid
from planner.sweep.modelspace import ModelSpace

Answer: TypeAlias = Callable[[Model, Node, Mapping[str, Any]], Mapping[str, Any]]
"""Results of one run by name, for a model, its tree and the fields of a scenario, of which numbers may be columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of run.

    Attributes
    ----------
    words : tuple of str
        Fields that decide which formulas apply: a run is computed for each combination of them.
    numbers : tuple of str
        Fields that are numbers in those formulas, and so columns; where one may be left out, whether it is decides too.
    results : tuple of str
        What is found, see `planner.sweep.table`.
    answer : callable
        See `Answer`.
    """

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    results: tuple[str, ...]
    answer: Answer

    @property
    def fields(self) -> tuple[str, ...]:
        """Everything that a run depends on beside the model."""
        return (*self.words, *self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """Results of the rows that ask for a kind of run.

    Attributes
    ----------
    numbers : mapping of str to array
        By the names of the kind's results; NaN where there is none.
    refused : dict of int to str
        By row, why its layout cannot exist.
    """

    numbers: Mapping[str, Numbers]
    refused: Mapping[int, str]


def run_results(kind: Kind, grid: Grid, space: ModelSpace, points: Coded, rows: Mask) -> RunResults:
    """Results of some rows.

    Parameters
    ----------
    kind : Kind
        What they ask for.
    grid, space, points : Grid, ModelSpace, Coded
        All rows, their models, and for each row its model.
    rows : array of bool
        Those that ask.
    """
    asked = np.flatnonzero(rows)
    runs = _Runs(kind, grid.take(asked), space, points.take(asked))
    numbers = {name: np.full(grid.rows, np.nan) for name in kind.results}
    for name, column in runs.numbers.items():
        numbers[name][asked] = column[runs.inverse]
    refused = {int(row): runs.refused[run] for row, run in zip(asked, runs.inverse, strict=True) if run in runs.refused}
    return RunResults(numbers=numbers, refused=refused)


class _Runs:
    """The distinct runs of some rows."""

    def __init__(self, kind: Kind, grid: Grid, space: ModelSpace, points: Coded) -> None:
        found = distinct([points, *(grid.columns[name] for name in kind.fields)], grid.rows)
        self.inverse = found.inverse
        self.numbers = {name: np.full(found.count, np.nan) for name in kind.results}
        self.refused: dict[int, str] = {}
        self._kind = kind
        self._space = space
        self._points = points.codes[found.first]
        self._columns = {name: grid.columns[name].take(found.first) for name in kind.fields}
        structure = Coded(tuple(range(space.group_count)), space.group_of[self._points])
        keys = [self._columns[name] for name in kind.words]
        stated = [_is_stated(self._columns[name]) for name in kind.numbers]
        for (number, *values), members in groups([structure, *keys, *stated], found.count):
            words = dict(zip(kind.words, values[: len(keys)], strict=True))
            given = [name for name, is_given in zip(kind.numbers, values[len(keys) :], strict=True) if is_given]
            self._evaluate(number, words, given, members)

    def _evaluate(self, structure: int, words: Mapping[str, Any], given: Sequence[str], members: Codes) -> None:
        numbers = {name: _plain_if_equal(self._columns[name].take(members).numbers()) for name in given}
        fields = {**_DEFAULTS, **words, **dict.fromkeys(self._kind.numbers), **numbers}
        tree = self._space.tree(structure, self._points[members])
        try:
            found = self._kind.answer(self._space.model(structure), tree, fields)
        except PlannerError as error:
            self._refuse(structure, words, given, members, error)
            return
        for name, size in found.items():
            self.numbers[name][members] = size

    def _refuse(
        self, structure: int, words: Mapping[str, Any], given: Sequence[str], members: Codes, error: PlannerError
    ) -> None:
        """Runs apart: one whose layout cannot exist takes no other with it, and some formulas know no columns."""
        points = Coded(tuple(range(self._space.count)), self._points[members])
        every = [points, *(self._columns[name].take(members) for name in given)]
        named = [self._columns[name].take(members) for name in given if name == error.key]
        # What the error is about tells good from bad with the fewest parts; all runs apart are the last resort.
        for columns in (named, [points], every):
            apart = distinct(columns, len(members))
            if apart.count > 1:
                break
        if apart.count == 1:
            self.refused |= dict.fromkeys(members.tolist(), str(error))
            return
        for run in range(apart.count):
            self._evaluate(structure, words, given, members[apart.inverse == run])


_DEFAULTS: Mapping[str, Any] = {name: field.default for name, field in FIELDS.items()}


def _is_stated(column: Coded) -> Coded:
    stated = np.array([value is not None for value in column.values], dtype=np.int64)
    return Coded((False, True), stated[column.codes])


def _plain_if_equal(column: Numbers) -> Any:
    if len(column) and np.all(column == column[0]):
        return int(column[0]) if column[0] == int(column[0]) else float(column[0])
    return column


def blank_where_missing(column: Numbers) -> Coded:
    """Column of whole numbers in which some are missing."""
    known, codes = np.unique(column, return_inverse=True)
    values = tuple(None if np.isnan(value) else int(value) for value in np.rint(known))
    return Coded(values, codes.astype(np.int64))
