"""Formats that weights are stored in, from the catalog.

A *dtype* says how one tensor is stored: its codes, and the scales and zero points beside them. A *format* says which
tensor of a model gets which dtype. A plain format has one rule for all tensors; a quantised one names those that it
quantises and what it leaves alone; a GGUF mixture gives more bits to some layers. Nothing here knows a model.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from planner.catalog import Fact, read_facts, read_text
from planner.errors import CatalogError, UnknownNameError, near_miss

DTYPES = "dtypes.csv"
FORMATS = "formats.csv"

Blocks = Literal["none", "tensor", "channel", "group", "flat"]

Label = Literal[
    "all",
    "attention",
    "convolution",
    "down",
    "embedding",
    "experts",
    "head",
    "key",
    "latent",
    "matrix",
    "mlp",
    "output",
    "query",
    "router",
    "shared",
    "table",
    "tied",
    "tower",
    "tower matrix",
    "up",
    "value",
    "vector",
]
"""What a rule may call a tensor.

``matrix`` is a weight of a linear layer or of experts inside the layers of the model. It is also one of
``attention``, ``mlp``, ``shared`` and ``experts``, and one of ``query``, ``key``, ``value`` (or all three in one),
``latent`` (what turns a latent into keys and values), ``output``, ``up`` (the gate included) and ``down``.
``embedding`` is the token table, ``tied`` where it is the output head as well, and ``table`` any other.
``vector`` is a norm, a bias or a bare parameter; ``tower`` whatever belongs to a vision or audio tower or joins it to
the model, and ``tower matrix`` a linear layer in it.
"""

When = Literal["", "70b", "experts!=8", "experts=8", "experts>=4", "gqa>=4", "ragged"]
"""Condition of a rule on the model or tensor: 80 layers with shared key/value heads; its number of experts; query
heads for each key/value head; rows that do not fill blocks of 256."""

LayerRule = Literal[
    "", "first 16th", "first 2", "first 4", "first 8th", "first 8th met", "inner", "middle", "more bits"
]
"""Layers that a rule is about, all of them where it does not say; see `planner.quantisation.layers_chosen_below`.

``first 8th met`` is where llama.cpp counts tensors and not layers, which differs where a layer has two of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """How one tensor is stored.

    Attributes
    ----------
    name : str
        As rules and optimizer states call it.
    code_bits, code_elements : int
        Bits that this many elements take, without scales: 4 for 1, or, where codes do not fall on whole bits, those of
        a block. [bit, -]
    blocks : str
        What shares a scale: ``none``, the ``tensor`` (each expert's matrix its own), an output ``channel``, a
        ``group`` along the input dimension, or a run of the ``flat`` tensor.
    block_elements, block_rows : int
        Elements of a group or run, and rows that share it, 1 but for square blocks; 0 for the other kinds. [-]
    scale_bits, zero_bits : int
        Bits of a block's scale and zero point. [bit]
    nested_block, nested_scale_bits : int
        Scales that share a scale of their own, and its bits; 0 where scales are not quantised again. [-, bit]
    matrix_bits, input_bits : int
        Bits kept once a matrix, such as a code book, and once an input feature, such as the order of groups. [bit]
    fallback : str or None
        Dtype of a tensor whose rows are no whole number of blocks; None where a last block may be incomplete.
    sources : tuple of str
        Where the facts were read.
    """

    name: str
    code_bits: int
    code_elements: int
    blocks: Blocks
    block_elements: int
    block_rows: int
    scale_bits: int
    zero_bits: int
    nested_block: int
    nested_scale_bits: int
    matrix_bits: int
    input_bits: int
    fallback: str | None
    sources: tuple[str, ...]

    @property
    def element_bits(self) -> int | float:
        """Bits of one element, without scales; an int where they are whole. [bit]"""
        whole, rest = divmod(self.code_bits, self.code_elements)
        return self.code_bits / self.code_elements if rest else whole

    @property
    def has_scales(self) -> bool:
        """Whether anything is stored beside the codes."""
        return self.blocks != "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which tensors a format stores in which dtype.

    Attributes
    ----------
    tensors : str
        One of `Label`.
    when : str
        One of `When`; empty for always.
    layers : str
        One of `LayerRule`; empty for all.
    dtype : Dtype
        What they are stored in.
    source : str
        Where it was read.
    """

    tensors: Label
    when: When
    layers: LayerRule
    dtype: Dtype
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the weights of a model are stored.

    Attributes
    ----------
    name : str
        As `--weights` takes it.
    rules : tuple of Rule
        The first that is about a tensor and whose condition holds decides; the last is about all.
    """

    name: str
    rules: tuple[Rule, ...]

    @property
    def is_plain(self) -> bool:
        """Whether every tensor is stored alike, without scales."""
        return len(self.rules) == 1 and not self.rules[0].dtype.has_scales

    @property
    def element_bits(self) -> int | float:
        """Bits of an element of the tensors that no other rule is about: of all, in a plain format. [bit]"""
        return self.rules[-1].dtype.element_bits

    @property
    def has_scales(self) -> bool:
        """Whether anything is stored beside the codes."""
        return any(rule.dtype.has_scales for rule in self.rules)

    @property
    def layer_rules(self) -> frozenset[LayerRule]:
        """How layers are told apart; empty where they are not."""
        return frozenset(rule.layers for rule in self.rules if rule.layers)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the facts were read."""
        return tuple(dict.fromkeys(source for rule in self.rules for source in (rule.source, *rule.dtype.sources)))


@cache
def load_dtypes() -> dict[str, Dtype]:
    """Every dtype of the catalog by name.

    Raises
    ------
    CatalogError
        A row is missing or wrong.
    """
    table = read_facts(DTYPES)
    dtypes = {name: _dtype(name, _with_likeness(name, table)) for name in table}
    for dtype in dtypes.values():
        if dtype.fallback is not None and dtype.fallback not in dtypes:
            raise CatalogError(f"'{dtype.name}' falls back to '{dtype.fallback}', which is no dtype", file=DTYPES)
    return dtypes


def find_dtype(name: str) -> Dtype:
    """Dtype by name.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.
    """
    dtypes = load_dtypes()
    if name not in dtypes:
        raise UnknownNameError(
            f"unknown dtype '{name}', expected one of {', '.join(dtypes)}", hint=near_miss(name, dtypes)
        )
    return dtypes[name]


@cache
def load_formats() -> dict[str, WeightFormat]:
    """Every format of the catalog by name.

    Raises
    ------
    CatalogError
        A row is missing or wrong.
    """
    rules = _read_rules()
    # What has no rule for all tensors is only there to be included.
    return {name: WeightFormat(name=name, rules=found) for name, found in rules.items() if found[-1].tensors == "all"}


def find_format(name: str) -> WeightFormat:
    """Format by name; a GGUF mixture also by the name that its files have, such as ``Q4_K_M``.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.

    Examples
    --------
    >>> find_format("Q4_K_M").name
    'gguf-q4_k_m'
    """
    formats = load_formats()
    for spelling in (name, f"{GGUF}-{name.lower()}", name.lower()):
        if spelling in formats:
            return formats[spelling]
    raise UnknownNameError(
        f"unknown weight format '{name}', expected one of {', '.join(formats)}", hint=near_miss(name, formats)
    )


def plain_format(name: str) -> WeightFormat:
    """Format by name that stores every tensor alike, as a trained parameter must be.

    Raises
    ------
    UnknownNameError
        Unknown, or quantised.
    """
    found = find_format(name)
    if not found.is_plain:
        raise UnknownNameError(f"'{name}' is a quantised format, expected a plain dtype such as bf16")
    return found


GGUF = "gguf"
"""Prefix of the mixtures that llama.cpp makes."""

_INCLUDE = "include"
_LIKE = "like"


def _with_likeness(name: str, table: Mapping[str, Mapping[str, Fact]]) -> dict[str, Fact]:
    """Facts of a dtype; those that it does not state itself are those of the dtype that it is like."""
    facts = dict(table[name])
    model = facts.pop(_LIKE, None)
    if model is None:
        return facts
    if model.value not in table:
        raise CatalogError(f"'{name}' is like '{model.value}', which is no dtype", file=DTYPES)
    return {**_with_likeness(model.value, table), **facts}


def _dtype(name: str, facts: Mapping[str, Fact]) -> Dtype:
    def bits(parameter: str) -> int:
        return facts[parameter].integer("bit") if parameter in facts else 0

    blocks, block_elements = _blocks(name, facts.get("block"))
    if "block_bytes" in facts:  # a block as one record, scales included, which is how GGML states its types
        codes = 8 * facts["block_bytes"].integer("B") - bits("scale_bits"), block_elements
    elif "element_bits" in facts:
        codes = bits("element_bits"), 1
    else:
        raise CatalogError(f"'{name}' has neither 'element_bits' nor 'block_bytes'", file=DTYPES)
    return Dtype(
        name=name,
        code_bits=codes[0],
        code_elements=codes[1],
        blocks=blocks,
        block_elements=block_elements,
        block_rows=facts["block_rows"].integer("element") if "block_rows" in facts else min(block_elements, 1),
        scale_bits=bits("scale_bits"),
        zero_bits=bits("zero_bits"),
        nested_block=facts["nested_block"].integer("block") if "nested_block" in facts else 0,
        nested_scale_bits=bits("nested_scale_bits"),
        matrix_bits=bits("matrix_bits"),
        input_bits=bits("input_bits"),
        fallback=facts["fallback"].value if "fallback" in facts else None,
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
    raise CatalogError(f"'{name}' has the block '{fact.value}', expected tensor, channel or elements", file=DTYPES)


def _read_rules() -> dict[str, tuple[Rule, ...]]:
    rules: dict[str, tuple[Rule, ...]] = {}
    reader = csv.DictReader(read_text(FORMATS).splitlines())
    for row in reader:
        line = reader.line_num
        if not row["source"]:
            raise CatalogError("the cell 'source' is empty", file=FORMATS, line=line)
        if row["tensors"] == _INCLUDE:
            if row["dtype"] not in rules:
                raise CatalogError(f"'{row['dtype']}' is not stated above", file=FORMATS, line=line)
            found = rules[row["dtype"]]
        else:
            found = (_rule(row, line),)
        rules[row["format"]] = rules.get(row["format"], ()) + found
    return rules


def _rule(row: Mapping[str, str], line: int) -> Rule:
    for column, words in (("tensors", get_args(Label)), ("when", get_args(When)), ("layers", get_args(LayerRule))):
        if row[column] not in words:
            raise CatalogError(f"expected one of {', '.join(words)} in '{column}'", file=FORMATS, line=line)
    dtypes = load_dtypes()
    if row["dtype"] not in dtypes:
        raise CatalogError(f"'{row['dtype']}' is no dtype", file=FORMATS, line=line)
    return Rule(
        tensors=row["tensors"],  # type: ignore[arg-type]  # checked above
        when=row["when"],  # type: ignore[arg-type]
        layers=row["layers"],  # type: ignore[arg-type]
        dtype=dtypes[row["dtype"]],
        source=row["source"],
    )
