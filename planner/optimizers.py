"""Optimizers, from the catalog: one row a state that they keep."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from planner.catalog import read_text
from planner.errors import CatalogError, UnknownNameError, near_miss
from planner.formats import WeightFormat, find_dtype, load_dtypes

FILENAME = "optimizers.csv"

Tensors = Literal["all", "matrices", "vectors", "hidden", "other"]
Elements = Literal["none", "all", "rows", "columns", "block squares", "dimension squares", "projected", "projection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One state of an optimizer.

    Attributes
    ----------
    name : str
        As the implementation calls it.
    tensors : str
        Which parameters have it: ``all``; ``matrices`` (two dimensions or more) or ``vectors``; the ``hidden``
        matrices, or the ``other`` tensors, which are embeddings, heads and vectors.
    elements : str
        How large it is: ``all`` elements of the parameter, its ``rows`` or ``columns``, or ``none``; ``block squares``,
        a square matrix for each dimension of each block of at most `size`; ``dimension squares``, one for each
        dimension of at most `size`; ``projected``, the gradient in a subspace of rank `size`; ``projection``, what
        leads there.
    size : int
        What `elements` needs to know; 0 where it needs nothing. [-]
    dtype : str
        Dtype, or ``parameter`` for that of what is optimised.
    block, scale_bits, table_bits : int
        Elements that share a scale, its bits, and those of a code book kept with every tensor; 0 where it is not
        quantised. [-, bit, bit]
    smallest : int
        A parameter with fewer elements keeps the state unquantised. [-]
    whole_blocks : bool
        Whether a parameter whose elements do not fill blocks keeps it unquantised too.
    otherwise : str
        Dtype of an unquantised one, or ``parameter``; empty where none is quantised.
    source : str
        Where it was read.
    """

    name: str
    tensors: Tensors
    elements: Elements
    size: int
    dtype: str
    block: int
    scale_bits: int
    table_bits: int
    smallest: int
    whole_blocks: bool
    otherwise: str
    source: str

    def element_bits(self, optimised: WeightFormat) -> int | float:
        """Bits of one element. [bit]"""
        return _bits(self.dtype, optimised)

    def unquantised_bits(self, optimised: WeightFormat) -> int | float:
        """Bits of one element of a parameter that is too small to be quantised. [bit]"""
        return _bits(self.otherwise, optimised)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimizer.

    Attributes
    ----------
    name : str
        As `--optimizer` takes it.
    states : tuple of State
        What it keeps for the parameters.
    """

    name: str
    states: tuple[State, ...]


@cache
def load_optimizers() -> dict[str, Optimizer]:
    """Every optimizer of the catalog by name.

    Raises
    ------
    CatalogError
        A row is wrong; file and line are named.
    """
    states: dict[str, list[State]] = {}
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    for row in reader:
        states.setdefault(row["optimizer"], []).append(_state(row, reader.line_num))
    return {name: Optimizer(name=name, states=tuple(found)) for name, found in states.items()}


def find_optimizer(name: str) -> Optimizer:
    """Optimizer by name.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.
    """
    optimizers = load_optimizers()
    if name not in optimizers:
        raise UnknownNameError(
            f"unknown optimizer '{name}', expected one of {', '.join(optimizers)}", hint=near_miss(name, optimizers)
        )
    return optimizers[name]


PARAMETER = "parameter"
"""Word for the dtype of what is optimised."""


def _bits(dtype: str, optimised: WeightFormat) -> int | float:
    return optimised.element_bits if dtype == PARAMETER else find_dtype(dtype).element_bits


def _state(row: dict[str, str], line: int) -> State:
    def whole(column: str) -> int:
        if row[column] and not row[column].isdigit():
            raise CatalogError(f"expected a whole number in '{column}'", file=FILENAME, line=line)
        return int(row[column] or 0)

    for column, words in (("tensors", get_args(Tensors)), ("elements", get_args(Elements))):
        if row[column] not in words:
            raise CatalogError(f"expected one of {', '.join(words)} in '{column}'", file=FILENAME, line=line)
    dtypes = [row["dtype"], *([row["otherwise"]] if row["block"] else [])]
    if unknown := [name for name in dtypes if name != PARAMETER and name not in load_dtypes()]:
        raise CatalogError(f"'{unknown[0]}' is no dtype", file=FILENAME, line=line)
    if not row["source"]:
        raise CatalogError("the cell 'source' is empty", file=FILENAME, line=line)
    return State(
        name=row["state"],
        tensors=row["tensors"],  # type: ignore[arg-type]  # checked above
        elements=row["elements"],  # type: ignore[arg-type]
        size=whole("size"),
        dtype=row["dtype"],
        block=whole("block"),
        scale_bits=whole("scale_bits"),
        table_bits=whole("table_bits"),
        smallest=whole("smallest"),
        whole_blocks=row["whole_blocks"] == "yes",
        otherwise=row["otherwise"],
        source=row["source"],
    )
