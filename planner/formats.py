"""Formats that weights are stored in, from the catalog: plain dtypes, and quantised ones with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from planner.catalog import Fact, read_facts
from planner.errors import CatalogError, UnknownNameError, near_miss

FILENAME = "dtypes.csv"

Blocks = Literal["none", "tensor", "channel", "group", "flat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How weights are stored.

    Attributes
    ----------
    name : str
        As `--weights` takes it.
    element_bits : int
        Bits of one element. [bit]
    quantises : str
        ``all`` tensors, or only the ``matrices`` of linear layers and experts, not those of routers and heads.
    unquantised : str
        Format of the other tensors; its own name where there are none.
    blocks : str
        What shares a scale: ``none``, the ``tensor`` (each expert's matrix its own), an output ``channel``, a
        ``group`` along the input dimension, or a run of the ``flat`` tensor.
    block_elements : int
        Elements of a group or run; 0 for the other kinds. [-]
    scale_bits, zero_bits : int
        Bits of a block's scale and zero point. [bit]
    nested_block, nested_scale_bits : int
        Scales that share a scale of their own, and its bits; 0 where scales are not quantised again. [-, bit]
    sources : tuple of str
        Where the facts were read.
    """

    name: str
    element_bits: int
    quantises: Literal["all", "matrices"]
    unquantised: str
    blocks: Blocks
    block_elements: int
    scale_bits: int
    zero_bits: int
    nested_block: int
    nested_scale_bits: int
    sources: tuple[str, ...]

    @property
    def element_bytes(self) -> float:
        """Bytes of one element. [B]"""
        return self.element_bits / 8


@cache
def load_formats() -> dict[str, WeightFormat]:
    """Every format of the catalog by name.

    Raises
    ------
    CatalogError
        A row is missing or wrong.
    """
    return {name: _format(name, facts) for name, facts in read_facts(FILENAME).items()}


def find_format(name: str) -> WeightFormat:
    """Format by name.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.
    """
    formats = load_formats()
    if name not in formats:
        raise UnknownNameError(
            f"unknown weight format '{name}', expected one of {', '.join(formats)}", hint=near_miss(name, formats)
        )
    return formats[name]


def plain_format(name: str) -> WeightFormat:
    """Format by name that stores every tensor alike, as a trained parameter must be.

    Raises
    ------
    UnknownNameError
        Unknown, or quantised.
    """
    found = find_format(name)
    if found.quantises != "all":
        raise UnknownNameError(f"'{name}' is a quantised format, expected a plain dtype such as bf16")
    return found


def _format(name: str, facts: dict[str, Fact]) -> WeightFormat:
    def bits(parameter: str) -> int:
        return facts[parameter].integer("bit") if parameter in facts else 0

    for required in ("element_bits", "quantises"):
        if required not in facts:
            raise CatalogError(f"'{name}' has no row '{required}'", file=FILENAME)
    scope = facts["quantises"].value
    if scope not in ("all", "matrices"):
        raise CatalogError(f"'{name}' quantises '{scope}', expected all or matrices", file=FILENAME)
    blocks, block_elements = _blocks(name, facts.get("block"))
    return WeightFormat(
        name=name,
        element_bits=bits("element_bits"),
        quantises="all" if scope == "all" else "matrices",
        unquantised=facts["unquantised"].value if "unquantised" in facts else name,
        blocks=blocks,
        block_elements=block_elements,
        scale_bits=bits("scale_bits"),
        zero_bits=bits("zero_bits"),
        nested_block=facts["nested_block"].integer("block") if "nested_block" in facts else 0,
        nested_scale_bits=bits("nested_scale_bits"),
        sources=tuple(dict.fromkeys(fact.source for fact in facts.values())),
    )


def _blocks(name: str, fact: Fact | None) -> tuple[Blocks, int]:
    if fact is None:
        return "none", 0
    if fact.value == "tensor":
        return "tensor", 0
    if fact.value == "channel":
        return "channel", 0
    if fact.unit == "element":
        return "group", fact.integer("element")
    if fact.unit == "flat element":
        return "flat", fact.integer("flat element")
    raise CatalogError(f"'{name}' has the block '{fact.value}', expected tensor, channel or elements", file=FILENAME)
