"""From a scenario file to axes: what varies, how long each list is, and how large the grid would be.

The size is known before anything is expanded, so a grid that is too large costs nothing but its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.devices import load_devices
from planner.errors import near_miss
from planner.located import Located, Place
from planner.scenario import (
    EVERY_GPU,
    FIELDS,
    NUMBERS,
    RANGE_KEYS,
    check_document,
    checked_value,
    is_range,
    read_document,
    stated_fields,
)

LARGEST_GRID = 1_000_000
"""Rows before filters that nobody has to confirm."""

LARGEST_CONFIRMED_GRID = 10_000_000
"""Rows before filters that fit into 8 GB of memory; more is refused even with --yes."""

LARGEST_AXIS = 1_000_000
"""Values of one field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One field and its values.

    Attributes
    ----------
    name : str
        Key of the field, or ``set.<key>``.
    values : tuple
        Checked, under catalog names; at least one.
    places : tuple of Place
        Where each value stands; a range has one place for all of them.
    """

    name: str
    values: tuple[Any, ...]
    places: tuple[Place, ...]

    def place(self, position: int) -> Place:
        """Where one of the values stands."""
        return self.places[position if len(self.places) > 1 else 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition of ``where``.

    Attributes
    ----------
    text : str
        As written.
    place : Place
        Where.
    """

    text: str
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """What a scenario file asks.

    Attributes
    ----------
    groups : tuple of tuple of Axis
        The grid is the product of the groups, the first one slowest; the axes of a group go together.
    conditions : tuple of Condition
        What a row must satisfy.
    whole : Place
        The file.
    """

    groups: tuple[tuple[Axis, ...], ...]
    conditions: tuple[Condition, ...]
    whole: Place

    @property
    def rows(self) -> int:
        """Rows of the grid before filters. [-]"""
        return math.prod(len(group[0].values) for group in self.groups)

    @property
    def names(self) -> tuple[str, ...]:
        """Fields that are stated, in the order of the file."""
        return tuple(axis.name for group in self.groups for axis in group)

    def axis(self, name: str) -> Axis | None:
        """Axis of a field; None where it is not stated."""
        return next((axis for group in self.groups for axis in group if axis.name == name), None)


def read_axes(path: Path, *, confirmed: bool = False) -> Axes:
    """Axes of a scenario file.

    Parameters
    ----------
    path : Path
        YAML.
    confirmed : bool
        Allow more than `LARGEST_GRID` rows.

    Raises
    ------
    ScenarioError
        The file is wrong, or the grid is too large; file, line and key path are named.
    """
    return axes_of(read_document(path), confirmed=confirmed)


def axes_of(document: Located, *, confirmed: bool = False) -> Axes:
    """Axes of a scenario document; see `read_axes`."""
    check_document(document)
    assert isinstance(document.value, Mapping)  # noqa: S101 - just checked
    lists = {name: _List.of(name, found) for name, found in stated_fields(document)}
    grouped = _groups(lists, document.value.get("zip"))
    _check_size(grouped, document.place, confirmed=confirmed)
    groups = tuple(tuple(stated.axis() for stated in group) for group in grouped)
    return Axes(groups=groups, conditions=_conditions(document.value.get("where")), whole=document.place)


@dataclass(frozen=True, slots=True)
class _List:
    """Values of a field as the file states them, counted but not expanded."""

    name: str
    found: Located
    length: int

    @classmethod
    def of(cls, name: str, found: Located) -> _List:
        if is_range(found):
            if name not in NUMBERS and not name.startswith("set."):
                raise found.place.error("a range counts numbers, expected a value or a list")
            return cls(name, found, _Range.of(found).length)
        items = found.value if isinstance(found.value, tuple) else (found,)
        if not items:
            raise found.place.error("is an empty list, expected at least one value")
        if name == "gpu" and len(items) > 1:
            for item in items:
                if item.value is None:
                    raise item.place.error("is nothing, expected the name of an accelerator")
        return cls(name, found, sum(_expanded_length(name, item) for item in items))

    def axis(self) -> Axis:
        if is_range(self.found):
            numbers = _Range.of(self.found)
            # Bounds are the only rules of these fields, so the two ends speak for all.
            for end in (numbers.values[0], numbers.values[-1]):
                checked_value(self.name, Located(value=end, place=self.found.place))
            return Axis(name=self.name, values=tuple(numbers.values), places=(self.found.place,))
        values: list[Any] = []
        places: list[Place] = []
        for item in self.found.value if isinstance(self.found.value, tuple) else (self.found,):
            expanded = _expanded(self.name, item)
            values += expanded
            places += [item.place] * len(expanded)
        return Axis(name=self.name, values=tuple(values), places=tuple(places))


def _is_every_gpu(name: str, item: Located) -> bool:
    return name == "gpu" and item.value == EVERY_GPU


def _expanded_length(name: str, item: Located) -> int:
    return len(load_devices()) if _is_every_gpu(name, item) else 1


def _expanded(name: str, item: Located) -> list[Any]:
    return list(load_devices()) if _is_every_gpu(name, item) else [checked_value(name, item)]


@dataclass(frozen=True, slots=True)
class _Range:
    """Whole numbers that a range stands for."""

    values: Sequence[int]

    @property
    def length(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, found: Located) -> _Range:
        assert isinstance(found.value, Mapping)  # noqa: S101 - `is_range` was asked
        for key, inner in found.value.items():
            if key not in RANGE_KEYS:
                raise inner.place.error(
                    "unknown key of a range, expected start, stop and step or factor", near_miss(key, RANGE_KEYS)
                )
        numbers = {key: _whole(inner) for key, inner in found.value.items()}
        missing = [key for key in ("start", "stop") if key not in numbers]
        if missing or ("step" in numbers) == ("factor" in numbers):
            raise found.place.error(
                f"a range has start, stop and either step or factor, got {', '.join(found.value)}",
                "for example {start: 1, stop: 64, factor: 2}",
            )
        start, stop = numbers["start"], numbers["stop"]
        values = _stepped(found, start, stop, numbers["step"]) if "step" in numbers else None
        if values is None:
            values = _multiplied(found, start, stop, numbers["factor"])
        if not values:
            raise found.place.error(f"a range from {start} to {stop} in this direction is empty")
        # A range of Python counts itself without being expanded.
        if _length(values) > LARGEST_AXIS:
            raise found.place.error(f"a range of {_length(values):,} values, expected at most {LARGEST_AXIS:,}")
        return cls(values)


def _length(values: Sequence[int]) -> int:
    # len() of a range refuses what does not fit an index
    return (values[-1] - values[0]) // values.step + 1 if isinstance(values, range) else len(values)


def _whole(found: Located) -> int:
    value = found.value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise found.place.error(f"a range counts in whole numbers, got {found.plain()!r}")
    return value


def _stepped(found: Located, start: int, stop: int, step: int) -> Sequence[int]:
    if step == 0:
        raise found.place.error("a step of 0 never arrives")
    return range(start, stop + (1 if step > 0 else -1), step)


def _multiplied(found: Located, start: int, stop: int, factor: int) -> Sequence[int]:
    if factor < 2 or start < 1:
        raise found.place.error(f"a factor of at least 2 and a start of at least 1 arrive, got {factor} and {start}")
    values = []
    value = start
    while value <= stop:
        values.append(value)
        value *= factor
    return values


def _groups(lists: Mapping[str, _List], zipped: Located | None) -> list[list[_List]]:
    """Axes that go together, in the order in which the first of each group stands in the file."""
    partners: dict[str, list[str]] = {}
    for group in _zip_groups(lists, zipped):
        for name in group:
            partners[name] = group
    grouped: list[list[_List]] = []
    taken: set[str] = set()
    for name in lists:
        if name not in taken:
            group = partners.get(name, [name])
            taken.update(group)
            grouped.append([lists[member] for member in group])
    return grouped


def _zip_groups(lists: Mapping[str, _List], zipped: Located | None) -> Iterable[list[str]]:
    if zipped is None:
        return
    if not isinstance(zipped.value, tuple) or not all(isinstance(group.value, tuple) for group in zipped.value):
        raise zipped.place.error("expected lists of fields that go together", "for example [[model, batch_size]]")
    seen: set[str] = set()
    for group in zipped.value:
        assert isinstance(group.value, tuple)  # noqa: S101 - just checked
        if len(group.value) < 2:
            raise group.place.error("one field alone goes together with nothing, expected at least two")
        names = [_zip_name(lists, found) for found in group.value]
        for name, found in zip(names, group.value, strict=True):
            if name in seen:
                raise found.place.error(f"'{name}' is zipped twice")
            seen.add(name)
        lengths = {name: lists[name].length for name in names}
        if len(set(lengths.values())) > 1:
            counted = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise group.place.error(f"fields that go together need lists of one length, got {counted}")
        yield names


def _zip_name(lists: Mapping[str, _List], found: Located) -> str:
    name = found.value
    if not isinstance(name, str):
        raise found.place.error(f"expected the name of a field, got {found.plain()!r}")
    if name not in lists:
        if name in FIELDS and name != "set":
            raise found.place.error(f"'{name}' is zipped, but the file does not state it")
        raise found.place.error(f"unknown field '{name}'", near_miss(name, lists) or f"stated are {', '.join(lists)}")
    return name


def _check_size(grouped: Sequence[Sequence[_List]], whole: Place, *, confirmed: bool) -> None:
    rows = math.prod(group[0].length for group in grouped)
    if rows <= (LARGEST_CONFIRMED_GRID if confirmed else LARGEST_GRID):
        return
    longest = max((stated for group in grouped for stated in group), key=lambda stated: stated.length)
    factors = " x ".join(f"{group[0].name} {group[0].length:,}" for group in grouped if group[0].length > 1)
    limit, hint = (
        (LARGEST_CONFIRMED_GRID, "split the scenario")
        if confirmed or rows > LARGEST_CONFIRMED_GRID
        else (LARGEST_GRID, "--yes evaluates it nevertheless")
    )
    place = Place(file=whole.file, line=longest.found.place.line, key=longest.found.place.key)
    raise place.error(f"the grid has {rows:,} rows ({factors}), the limit is {limit:,}", hint)


def _conditions(found: Located | None) -> tuple[Condition, ...]:
    if found is None:
        return ()
    items = found.value if isinstance(found.value, tuple) else (found,)
    if not items:
        raise found.place.error("is an empty list, expected at least one condition")
    conditions = []
    for item in items:
        if not isinstance(item.value, str):
            raise item.place.error(f"expected a condition as text, got {item.plain()!r}", "for example 'fits'")
        conditions.append(Condition(text=item.value, place=item.place))
    return tuple(conditions)
