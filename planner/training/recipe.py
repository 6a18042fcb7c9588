"""Training recipes, from the catalog: what a framework keeps, replicates and makes for a moment.

One file a recipe in `catalog/recipes/`, one fact a row; `DEFAULTS` says what a recipe that is silent does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypeAlias, get_args

from planner.catalog import Fact, read_facts
from planner.errors import CatalogError, UnknownNameError, near_miss

FOLDER = "recipes"

Gradients: TypeAlias = Literal["kept", "freed"]
"""Whether gradients stay allocated between steps (a buffer), or are freed by `zero_grad(set_to_none=True)`."""

StepTemporary: TypeAlias = Literal["foreach", "fused", "none"]
"""What the optimizer makes while it steps: one temporary as large as what it updates, or nothing."""

Accumulation: TypeAlias = Literal["sharded", "unsharded", "unsharded with pipeline"]
"""How gradients add up over micro-batches: reduced at each, or whole on every rank until the last (no_sync)."""

RootGroup: TypeAlias = Literal["whole", "head", "none"]
"""What FSDP keeps gathered outside of the blocks, see `planner.training.transients`."""

Reshard: TypeAlias = Literal["yes", "no", "no with pipeline"]
"""Whether FSDP frees gathered parameters between forward and backward."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "gradients": get_args(Gradients),
    "step_temporary": get_args(StepTemporary),
    "accumulation": get_args(Accumulation),
    "root_group": get_args(RootGroup),
    "reshard_after_forward": get_args(Reshard),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe: the habits of one framework.

    Attributes
    ----------
    name : str
        As `--recipe` takes it.
    facts : mapping of str to Fact
        Every fact with its unit and source.
    """

    name: str
    facts: Mapping[str, Fact]

    def word(self, parameter: str, default: str = "") -> str:
        """A fact that is a word; `default` where the recipe is silent."""
        fact = self.facts.get(parameter)
        if fact is None:
            return default
        allowed = WORDS.get(parameter)
        if allowed is not None and fact.value not in allowed:
            raise CatalogError(f"'{parameter}' of recipe '{self.name}' is '{fact.value}', expected one of {allowed}")
        return fact.value

    def number(self, parameter: str, unit: str, default: float = 0) -> float:
        """A fact that is a number in that unit; `default` where the recipe is silent."""
        fact = self.facts.get(parameter)
        if fact is None:
            return default
        found = fact.number(unit)
        return int(found) if found == int(found) else found

    def source(self, parameter: str) -> str:
        """Where a fact was read; empty where the recipe is silent."""
        fact = self.facts.get(parameter)
        return "" if fact is None else fact.source


@cache
def load_recipes() -> dict[str, Recipe]:
    """Every recipe of the catalog by name."""
    folder = files("planner.catalog").joinpath(FOLDER)
    found: dict[str, Recipe] = {}
    stated: dict[str, Mapping[str, Fact]] = {}
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".csv"):
            stated |= read_facts(f"{FOLDER}/{entry.name}")
    for name in stated:
        found[name] = Recipe(name=name, facts=_with_likeness(name, stated))
    return found


def _with_likeness(name: str, stated: Mapping[str, Mapping[str, Fact]]) -> Mapping[str, Fact]:
    """Facts of a recipe over those of the one that it is like, if it says so."""
    facts = stated[name]
    base = facts.get("like")
    if base is None:
        return facts
    if base.value not in stated or base.value == name:
        raise CatalogError(f"recipe '{name}' is like '{base.value}', which is none", hint=near_miss(base.value, stated))
    return {**_with_likeness(base.value, stated), **facts}


def find_recipe(name: str) -> Recipe:
    """Recipe by name.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.
    """
    recipes = load_recipes()
    if name not in recipes:
        raise UnknownNameError(
            f"unknown recipe '{name}', expected one of {', '.join(recipes)}", hint=near_miss(name, recipes)
        )
    return recipes[name]
