"""Precision recipes of training, from the catalog: what parameters, gradients and master weights are kept in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from planner.catalog import read_facts
from planner.errors import CatalogError, UnknownNameError, near_miss
from planner.formats import WeightFormat, plain_format

FILENAME = "precisions.csv"

DEFAULT_PRECISION = "autocast"
"""What the Hugging Face Trainer's `bf16=True` does to a model that was loaded in fp32."""

DEFAULT_OPTIMIZER = "adamw"
"""The optimizer of nearly every published transformer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A precision recipe.

    Attributes
    ----------
    name : str
        As `--precision` takes it.
    parameters, gradients : WeightFormat
        What forward and backward read and write.
    masters : WeightFormat or None
        Copy of the parameters that the optimizer updates; None where it updates the parameters themselves.
    parameters_source, gradients_source, masters_source : str
        Where each was read.
    """

    name: str
    parameters: WeightFormat
    gradients: WeightFormat
    masters: WeightFormat | None
    parameters_source: str
    gradients_source: str
    masters_source: str

    @property
    def optimised(self) -> WeightFormat:
        """What the optimizer updates, whose dtype its states have unless they say otherwise."""
        return self.masters or self.parameters


@cache
def load_precisions() -> dict[str, Precision]:
    """Every recipe of the catalog by name.

    Raises
    ------
    CatalogError
        A row is missing.
    """
    recipes = {}
    for name, facts in read_facts(FILENAME).items():
        missing = {"parameters", "gradients", "masters"} - facts.keys()
        if missing:
            raise CatalogError(f"'{name}' has no row '{min(missing)}'", file=FILENAME)
        masters = facts["masters"].value
        recipes[name] = Precision(
            name=name,
            parameters=plain_format(facts["parameters"].value),
            gradients=plain_format(facts["gradients"].value),
            masters=None if masters == "none" else plain_format(masters),
            parameters_source=facts["parameters"].source,
            gradients_source=facts["gradients"].source,
            masters_source=facts["masters"].source,
        )
    return recipes


def find_precision(name: str) -> Precision:
    """Recipe by name.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.
    """
    recipes = load_precisions()
    if name not in recipes:
        raise UnknownNameError(
            f"unknown precision '{name}', expected one of {', '.join(recipes)}", hint=near_miss(name, recipes)
        )
    return recipes[name]


def precision_for(weights: str | None, precision: str | None) -> Precision:
    """Recipe by name, or the one that trains parameters of a dtype.

    Parameters
    ----------
    weights : str, optional
        Dtype of the trained parameters.
    precision : str, optional
        Name of a recipe; where it is left out, the first of the catalog whose parameters are in `weights`.

    Raises
    ------
    UnknownNameError
        A name is unknown, or the two contradict each other.
    """
    if precision is not None:
        recipe = find_precision(precision)
        if weights is not None and plain_format(weights) != recipe.parameters:
            raise UnknownNameError(
                f"precision '{recipe.name}' trains parameters in {recipe.parameters.name}, not in {weights}",
                hint="leave one of the two out",
            )
        return recipe
    if weights is None:
        return find_precision(DEFAULT_PRECISION)
    dtype = plain_format(weights)
    for recipe in load_precisions().values():
        if recipe.parameters == dtype:
            return recipe
    raise UnknownNameError(f"no precision recipe trains parameters in {weights}")
