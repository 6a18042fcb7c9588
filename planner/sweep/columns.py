"""Columns of a grid: a few distinct values, and for each row the position of its value among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Codes: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

_LARGEST_KEY = 2**62
"""A combined key beyond this is renumbered before another column is mixed in."""

_SCATTER_FACTOR = 4
"""A key space up to this many times the rows is renumbered without sorting."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A column as codes.

    Attributes
    ----------
    values : tuple
        Distinct values, any of which no row may have.
    codes : array of int
        For each row, the position in `values`. [-]
    """

    values: tuple[Any, ...]
    codes: Codes

    @classmethod
    def constant(cls, value: Any, rows: int) -> Coded:
        """The same value in every row, which takes no memory."""
        return cls((value,), np.broadcast_to(np.int64(0), (rows,)))

    @property
    def rows(self) -> int:
        """Rows. [-]"""
        return len(self.codes)

    def take(self, rows: Codes | Mask) -> Coded:
        """Some of the rows."""
        return Coded(self.values, self.codes[rows])

    def numbers(self) -> Numbers:
        """Values as numbers, row by row; what is no number is NaN."""
        return np.array([_number(value) for value in self.values], dtype=np.float64)[self.codes]

    def at(self, row: int) -> Any:
        """Value of one row."""
        return self.values[self.codes[row]]

    def replaced(self, where: Mask, value: Any) -> Coded:
        """The same column with one value in some rows."""
        known = self.values.index(value) if value in self.values else len(self.values)
        values = self.values if known < len(self.values) else (*self.values, value)
        return Coded(values, np.where(where, known, self.codes))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


@dataclass(frozen=True, slots=True)
class Distinct:
    """Distinct combinations of some columns.

    Attributes
    ----------
    first : array of int
        For each combination, the first row that has it, in ascending order. [-]
    inverse : array of int
        For each row, its combination. [-]
    """

    first: Codes
    inverse: Codes

    @property
    def count(self) -> int:
        """Combinations. [-]"""
        return len(self.first)


def distinct(columns: Sequence[Coded], rows: int) -> Distinct:
    """Combinations that occur, in the order in which they first do.

    Parameters
    ----------
    columns : sequence of Coded
        All with as many rows.
    rows : int
        How many. [-]
    """
    key: Codes = np.zeros(rows, dtype=np.int64)
    space = 1
    for column in columns:
        count = len(column.values)
        if count == 1:
            continue
        if space > _LARGEST_KEY // count:
            renumbered = _renumbered(key, space)
            key, space = renumbered.inverse, renumbered.count
        key = key * count + column.codes
        space *= count
    return _renumbered(key, space)


def _renumbered(key: Codes, space: int) -> Distinct:
    rows = len(key)
    if space <= max(_SCATTER_FACTOR * rows, 1024):
        # Written from the last row to the first, so that the first one stays.
        first_of_key = np.full(space, rows, dtype=np.int64)
        first_of_key[key[::-1]] = np.arange(rows - 1, -1, -1)
        used = np.flatnonzero(first_of_key < rows)
        first = first_of_key[used]
        order = np.argsort(first, kind="stable")
        number = np.empty(space, dtype=np.int64)
        number[used[order]] = np.arange(len(used))
        return Distinct(first[order], number[key])
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Distinct(first[order], rank[inverse])


def groups(keys: Sequence[Coded], rows: int) -> Iterator[tuple[tuple[Any, ...], Codes]]:
    """Rows that agree in all of the keys, with the values that they agree in.

    Parameters
    ----------
    keys : sequence of Coded
        All with as many rows.
    rows : int
        How many. [-]
    """
    found = distinct(keys, rows)
    order = np.argsort(found.inverse, kind="stable")
    bounds = np.searchsorted(found.inverse[order], np.arange(found.count + 1))
    for position in range(found.count):
        members = order[bounds[position] : bounds[position + 1]]
        yield tuple(key.at(int(members[0])) for key in keys), members
