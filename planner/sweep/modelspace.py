"""The distinct models of a grid, each built once, with columns in place of the dimensions that vary.

A tree's structure depends on a few keys only. All rows that agree in those share one tree, whose dimensions are
columns; the others, such as a list of layer kinds, make a tree for each of their values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from planner.compute import compute, longest_sequence
from planner.errors import ConfigError, PlannerError, ScenarioError, UnsupportedError
from planner.families.config import dimension_names, field_of, validate_value
from planner.located import Place
from planner.models import Model, build_model
from planner.nodes import Node
from planner.plan import CONVENTION
from planner.sources import ConfigSource, find_config
from planner.sweep.columns import Coded, Codes, Mask, Numbers, distinct, groups
from planner.sweep.grid import Grid
from planner.workload import Step

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(slots=True)
class _Group:
    """Points that share the structure of their tree.

    Attributes
    ----------
    model : Model
        The first of them.
    columns : dict of str to array
        Dimensions that vary, by config field, one element a point.
    """

    model: Model
    columns: dict[str, Numbers]
    _plain: Node | None = field(default=None, init=False)

    def tree(self, at: Codes) -> Node:
        """Tree of the points at some positions of the columns; with plain numbers where they are all one."""
        if not self.columns:
            if self._plain is None:
                self._plain = self.model.tree
            return self._plain
        if np.all(at == at[0]):
            chosen: dict[str, Any] = {name: int(column[at[0]]) for name, column in self.columns.items()}
        else:
            chosen = {name: column[at] for name, column in self.columns.items()}
        return self.model.tree_of(self.model.config.replaced(chosen))


class ModelSpace:
    """Distinct combinations of model, class and config changes in a grid.

    Parameters
    ----------
    grid : Grid
        The rows.
    models_dir : Path, optional
        Folder of configs that is searched first.
    offline : bool
        Do not ask the hub.
    progress : callable
        See `Progress`.

    Attributes
    ----------
    points : Coded
        For each row its point, a number.
    group_of : array of int
        For each point the group of points that share a structure.
    reads : mapping of str to array of bool
        For `past`, `source_length` and `images`, whether the model of each point has a use for it.
    longest : array
        For each point the longest sequence that its position table holds; infinite where it has none. [token]
    assumptions : dict with str as keys
        What the configs left open, each line once, in order, with its model.

    Raises
    ------
    ScenarioError
        A model, class or change of a config cannot be; it names the place in the scenario.
    """

    def __init__(self, grid: Grid, *, models_dir: Path | None, offline: bool, progress: Progress) -> None:
        self._grid = grid
        self._models_dir = models_dir
        self._offline = offline
        self._sources: dict[str, ConfigSource] = {}
        self._names = ("model", "class", *grid.overrides)
        found = distinct([grid.columns[name] for name in self._names], grid.rows)
        self._rows = found.first
        self.points = Coded(tuple(range(found.count)), found.inverse)
        self.group_of: Codes = np.zeros(found.count, dtype=np.int64)
        self.longest: Numbers = np.full(found.count, np.inf)
        self._position: Codes = np.zeros(found.count, dtype=np.int64)
        self.reads: dict[str, Mask] = {
            name: np.zeros(found.count, dtype=np.bool_) for name in ("past", "source_length", "images")
        }
        self.assumptions: dict[str, None] = {}
        self._groups: list[_Group] = []
        self._at = grid.take(self._rows)
        keys = [self._at.columns[name] for name in ("model", "class")]
        for _, members in groups(keys, found.count):
            self._add_class(members, progress)

    @property
    def count(self) -> int:
        """Points. [-]"""
        return len(self.points.values)

    @property
    def group_count(self) -> int:
        """Groups. [-]"""
        return len(self._groups)

    def classes(self, stated: Coded) -> Coded:
        """Class that is counted in each row, also where none is stated."""
        for number, group in enumerate(self._groups):
            rows = self.group_of[self.points.codes] == number
            stated = stated.replaced(rows, group.model.class_name)
        return stated

    def model(self, group: int) -> Model:
        """Model of one group, as its first point states it."""
        return self._groups[group].model

    def tree(self, group: int, points: Codes) -> Node:
        """Tree of some points of one group; its dimensions are columns where the points differ."""
        return self._groups[group].tree(self._position[points])

    def _add_class(self, members: Codes, progress: Progress) -> None:
        """Points of one model and class, which one family serves."""
        first = self._build(int(members[0]))
        fields = self._column_fields(first, members)
        structural = [self._at.columns[name].take(members) for name in self._at.overrides if name not in fields]
        structures = distinct(structural, len(members)).count
        for done, (_, inside) in enumerate(groups(structural, len(members)), start=1):
            self._add_group(members[inside], fields, first if inside[0] == 0 else None)
            progress("models", done, structures)

    def _add_group(self, members: Codes, fields: Mapping[str, str], first: Model | None) -> None:
        model = first or self._build(int(members[0]))
        columns = {
            attribute: self._at.columns[name].take(members).numbers()
            for name, attribute in fields.items()
            if len(members) > 1
        }
        number = len(self._groups)
        self._groups.append(_Group(model=model, columns=columns))
        self._position[members] = np.arange(len(members))
        self.group_of[members] = number
        self.assumptions.update(dict.fromkeys(f"{model.name}: {line}" for line in model.assumptions))
        try:
            tree = self.tree(number, members)
        except PlannerError as error:
            raise self._first_wrong(number, members, error) from None
        self._describe(number, members, tree)

    def _describe(self, group: int, members: Codes, tree: Node) -> None:
        self.longest[members] = longest_sequence(tree)
        one = self.tree(group, members[:1])
        for name, used in self.reads.items():
            used[members] = _reads(one, name)

    def _build(self, point: int) -> Model:
        """Model of one point, with every change of its config."""
        name = self._at.columns["model"].at(point)
        try:
            if name not in self._sources:
                self._sources[name] = find_config(name, models_dir=self._models_dir, offline=self._offline)
            return build_model(self._sources[name], self._overrides(point), self._at.columns["class"].at(point))
        except PlannerError as error:
            raise self._located(point, error) from None

    def _overrides(self, point: int) -> dict[str, Any]:
        return {name.removeprefix("set."): self._at.columns[name].at(point) for name in self._at.overrides}

    def _column_fields(self, model: Model, members: Codes) -> dict[str, str]:
        """Config field of every changed key that can be a column, by the name of its axis."""
        kind = type(model.config)
        fields: dict[str, str] = {}
        for name in self._at.overrides:
            attribute = field_of(kind, name.removeprefix("set."))
            column = self._at.columns[name].take(members)
            used = np.unique(column.codes)
            values = [column.values[code] for code in used]
            if attribute is None or attribute not in dimension_names(kind) or not all(map(_is_whole, values)):
                continue
            if attribute in fields.values():
                raise self._place(name, int(members[0])).error(f"changes {attribute}, which another key changes too")
            self._check_values(name, attribute, model, values, members)
            if _takes_column(model, attribute):
                fields[name] = attribute
        return fields

    def _check_values(self, name: str, attribute: str, model: Model, values: Sequence[int], members: Codes) -> None:
        # A dimension has bounds and no other rule, so the two ends speak for all values between them.
        for value in {min(values), max(values)}:
            try:
                validate_value(type(model.config), attribute, value)
            except ConfigError as error:
                column = self._at.columns[name].take(members)
                point = members[next(row for row in range(len(members)) if column.at(row) == value)]
                raise self._place(name, int(point)).error(error.message, error.hint) from None

    def _first_wrong(self, group: int, members: Codes, error: PlannerError) -> ScenarioError:
        """Error of the first point whose keys contradict each other, found by halving."""
        while len(members) > 1:
            half = members[: len(members) // 2]
            try:
                self.tree(group, half)
                members = members[len(members) // 2 :]
            except PlannerError as inside:
                members, error = half, inside
        point = int(members[0])
        # Built from plain numbers once more, whose message shows them.
        try:
            self._build(point)
        except ScenarioError as found:
            return found
        return self._located(point, error)

    def _place(self, name: str, point: int) -> Place:
        return self._at.place(name, point)

    def _located(self, point: int, error: PlannerError) -> ScenarioError:
        """The same error, at the place in the scenario that brought it about."""
        changed = f"set.{error.key}" if error.key else ""
        overrides = self._overrides(point)
        combination = ", ".join(f"set.{key} = {value}" for key, value in overrides.items())
        hint = error.hint or (f"with {combination}" if len(overrides) > 1 else None)
        if changed in self._at.overrides:
            return self._place(changed, point).error(error.message, hint)
        stated_class = self._at.columns["class"].at(point)
        if stated_class is not None and f"'{stated_class}'" in error.message:
            return self._place("class", point).error(error.message, hint)
        place = self._place("model", point)
        inside = ": ".join(part for part in (error.file, error.key) if part)
        return place.error(f"{inside}: {error.message}" if inside else error.message, hint)


_TWO_STEPS = {
    "past": (Step(past=0), Step(past=1)),
    "source_length": (Step(source_length=1), Step(source_length=2)),
    "images": (Step(images=0), Step(images=1)),
}
"""Steps that differ in one field, for each field that only some models read."""


def _reads(tree: Node, name: str) -> bool:
    """Whether a field changes what a step of the model takes; a past that the model refuses does not."""
    try:
        first, second = (compute(tree, step).conventions[CONVENTION].forward for step in _TWO_STEPS[name])
    except UnsupportedError:
        return False
    return bool(first != second)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _takes_column(model: Model, attribute: str) -> bool:
    """Whether the tree can be built with a column there: a builder that lists layers or windows needs a number.

    Trying is surer than a list of keys that every new family would have to complete.
    """
    value = float(getattr(model.config, attribute))
    config = model.config.model_copy(update={attribute: np.array([value, value])})
    try:
        model.tree_of(config)
    except (TypeError, ValueError):
        return False
    return True
