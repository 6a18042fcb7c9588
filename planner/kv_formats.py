"""Formats that a cache of keys and values is stored in, from the catalog.

A format says in which dtype each part of a row is stored; a row is what one key leaves in the cache. What shares a
scale in a dtype is read along the row: a ``channel`` is the whole row of one token and head. A scale that a whole
tensor shares is a few bytes a layer and is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import assert_never

from planner.catalog import Fact, read_facts
from planner.errors import CatalogError, UnknownNameError, UnsupportedError, near_miss
from planner.formats import Dtype, find_dtype, load_dtypes
from planner.formulas.cache import row_bytes
from planner.formulas.memory import grouped_blocks
from planner.numeric import Num, divides

FILENAME = "kv_formats.csv"

PARTS = ("keys", "values", "latent", "rope", "indexer")
"""Parts of a row: keys and values of a head, or the latent and the rotated part of a key, or an indexer's key."""

LIKE = {"values": "keys", "latent": "keys", "rope": "latent", "indexer": "keys"}
"""The part whose dtype a part has where a format does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvFormat:
    """How a cache is stored.

    Attributes
    ----------
    name : str
        As the catalog calls it.
    dtypes : mapping of str to Dtype
        By part; a part that the format cannot store is not in it.
    sources : tuple of str
        Where the facts were read.
    """

    name: str
    dtypes: Mapping[str, Dtype]
    sources: tuple[str, ...]

    def part_bytes(self, part: str, width: Num) -> Num:
        """Bytes of one part of a row. [B]

        Parameters
        ----------
        part : str
            One of `PARTS`.
        width : Num
            Its numbers. [-]

        Raises
        ------
        UnsupportedError
            The format has no such part, or the width is no whole number of its blocks.
        """
        dtype = self.dtypes.get(part)
        if dtype is None:
            raise UnsupportedError(
                f"the cache format '{self.name}' stores {' and '.join(self.dtypes)}, and no {part}",
                key="kv_dtype",
                hint="choose another, such as bf16 or fp8",
            )
        if dtype.fallback is not None and not divides(dtype.block_elements, width):
            raise UnsupportedError(
                f"the cache format '{self.name}' stores blocks of {dtype.block_elements}, which do not divide {width}",
                key="kv_dtype",
            )
        scale_bits = dtype.scale_bits + dtype.zero_bits
        return row_bytes(width, dtype.code_bits, dtype.code_elements, _scales(dtype, width), scale_bits)


@cache
def load_kv_formats() -> dict[str, KvFormat]:
    """Every cache format of the catalog by name.

    Raises
    ------
    CatalogError
        A row names no part or no dtype; file and line are named.
    """
    return {name: _format(name, facts) for name, facts in read_facts(FILENAME).items()}


def find_kv_format(name: str) -> KvFormat:
    """Cache format by name; ``_`` and ``-`` are the same.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.

    Examples
    --------
    >>> find_kv_format("fp8_ds_mla").name
    'fp8-ds-mla'
    """
    formats = load_kv_formats()
    for spelling in (name, name.replace("_", "-")):
        if spelling in formats:
            return formats[spelling]
    raise UnknownNameError(
        f"unknown cache format '{name}', expected one of {', '.join(formats)}", hint=near_miss(name, formats)
    )


def _scales(dtype: Dtype, width: Num) -> Num:
    """Scales of a row."""
    match dtype.blocks:
        case "none" | "tensor":
            return 0
        case "channel":
            return 1
        case "group" | "flat":
            return grouped_blocks(1, 1, width, dtype.block_elements)
        case _:
            assert_never(dtype.blocks)


def _format(name: str, facts: Mapping[str, Fact]) -> KvFormat:
    dtypes: dict[str, Dtype] = {}
    for part, fact in facts.items():
        if part not in PARTS:
            raise CatalogError(f"'{name}' states '{part}', expected one of {', '.join(PARTS)}", file=FILENAME)
        if fact.value not in load_dtypes():
            raise CatalogError(f"'{name}' stores its {part} as '{fact.value}', which is no dtype", file=FILENAME)
        dtypes[part] = find_dtype(fact.value)
    for part, other in LIKE.items():
        if part not in dtypes and other in dtypes:
            dtypes[part] = dtypes[other]
    own = tuple(fact.source for fact in facts.values())
    of_dtypes = tuple(source for dtype in dtypes.values() for source in dtype.sources)
    return KvFormat(name=name, dtypes=dtypes, sources=tuple(dict.fromkeys((*own, *of_dtypes))))
