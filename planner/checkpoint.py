"""What a checkpoint holds beyond the parameters of a class, so that a published total is explained term by term.

A published total is the number of elements in somebody's files, or a count by somebody's own definition. Each term
between it and the count of a class has a name from the closed list `KINDS`, and its size is computed from the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planner.catalog.models import FILENAME, CatalogModel, find_catalog_model
from planner.counts import Counts, count, tensors
from planner.errors import CatalogError, near_miss
from planner.families.beside import (
    CAUSAL_MASKS,
    EXPERT_TABLES,
    IMAGE_POSITION_IDS,
    LOGITS_BIAS,
    MTP_TABLES,
    NOTHING,
    POSITION_IDS,
    ROTARY_FREQUENCIES,
    ROUTER_BIASES,
    UNUSED_TENSORS,
    stated,
    stated_whole,
)
from planner.formats import find_format
from planner.models import Model
from planner.nodes import Embedding, Linear, Node, walk
from planner.numeric import Num, exact_quotient
from planner.quantisation import stored_weights

MTP = "mtp"
TIED_HEAD = "tied_head_twice"
FP8_SCALES = "fp8_block_scales"

BLOCK_FORMAT = "fp8-block128"
"""Format whose scales are counted: one a block of 128 x 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One difference between what a class counts and what is stored or published.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    parameters : Num
        Elements, negative where they are left out. [-]
    why : str
        What they are.
    """

    kind: str
    parameters: Num
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """A class's count, and what lies between it and a published total.

    Attributes
    ----------
    class_name : str
        Class of transformers from which the terms go on: the one that is published, where a total is.
    total : Num
        Its parameters. [-]
    terms : tuple of Term
        What the published total holds besides; empty where none is known.
    others : tuple of Term
        What checkpoints of the family may hold as well, and the published total, if one is known, does not.
    published_total : int or None
        Parameters that somebody published for just this config. [-]
    published_source : str or None
        Who.
    """

    class_name: str
    total: Num
    terms: tuple[Term, ...]
    others: tuple[Term, ...]
    published_total: int | None
    published_source: str | None

    @property
    def explained(self) -> Num:
        """The class's parameters and all terms. [-]"""
        explained = self.total
        for term in self.terms:
            explained = explained + term.parameters
        return explained

    @property
    def unexplained(self) -> Num | None:
        """What the published total holds beyond them; None where there is no published total. [-]"""
        return None if self.published_total is None else self.published_total - self.explained


def reconcile(model: Model) -> Reconciliation:
    """Explain a model's published total, where the catalog knows one; else name what its checkpoints may hold.

    Raises
    ------
    CatalogError
        The model's row names a term that is not in `KINDS`.
    """
    entry = _published(model)
    if entry is None:
        stored = _Stored(model, model.class_name, _modules(model))
        return Reconciliation(
            class_name=model.class_name,
            total=stored.counts.total,
            terms=(),
            others=_possible(stored, frozenset()),
            published_total=None,
            published_source=None,
        )
    extras = entry.published_extras
    class_name = entry.published_class or _own_class(model)
    stored = _Stored(model, class_name, extras.get(MTP, 0))
    possible = _Stored(model, class_name, _modules(model))
    return Reconciliation(
        class_name=class_name,
        total=stored.counts.total,
        terms=tuple(_term(kind, times, stored, entry.id) for kind, times in extras.items()),
        others=_possible(possible, frozenset(extras)),
        published_total=entry.published_total,
        published_source=entry.published_source,
    )


def _published(model: Model) -> CatalogModel | None:
    """Row of the catalog whose total is about this model: the same name, and the same config."""
    entry = find_catalog_model(model.name)
    if entry is None or entry.published_total is None or dict(entry.config) != dict(model.raw):
        return None
    return entry


def _own_class(model: Model) -> str:
    """Class that the config names, whichever one was asked for."""
    named = model.raw.get("architectures")
    return str(named[0]) if named else model.family.default_class


def _modules(model: Model) -> int:
    """Modules of multi-token prediction that the config states."""
    prediction = model.family.prediction
    if prediction is None:
        return 0
    key = next((key for key in prediction.count_keys if stated(model.raw, key) is not None), None)
    return prediction.unless_stated if key is None else stated_whole(model.raw, key, 0)


class _Stored:
    """A model and what its family stores beside it, each counted when it is asked for."""

    def __init__(self, model: Model, class_name: str, modules: int) -> None:
        self._model = model
        self.modules = modules
        self.tree = model.family.classes[class_name](model.config)

    @cached_property
    def counts(self) -> Counts:
        """Of the class."""
        return count(self.tree)

    @cached_property
    def module(self) -> Node:
        """One module of multi-token prediction."""
        prediction = self._model.family.prediction
        return NOTHING if prediction is None else prediction.module(self._model.config, self._model.raw)

    @cached_property
    def in_module(self) -> Mapping[str, Num]:
        """Elements of such a module by bucket."""
        return count(self.module).breakdown

    @cached_property
    def beside(self) -> Mapping[str, Num]:
        """Elements of the tensors beside the class, by kind."""
        build = self._model.family.beside
        return {} if build is None else count(build(self._model.config, self._model.raw)).breakdown

    @property
    def has_blocks(self) -> bool:
        """Whether the config says that the weights are stored in FP8 with a scale a block."""
        quantisation = self._model.raw.get("quantization_config")
        return isinstance(quantisation, Mapping) and quantisation.get("weight_block_size") == [128, 128]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a term may be.

    Attributes
    ----------
    why : str
        What it is, for the reader of a reconciliation.
    each : callable
        Elements of one of them, from what is stored. [-]
    by_module : bool
        There is one for each module of multi-token prediction.
    stored : bool
        Whether checkpoints hold it; where they do not, somebody's definition differs from that of the class.
    """

    why: str
    each: Callable[[_Stored], Num]
    by_module: bool = False
    stored: bool = True


def _beside(kind: str, why: str) -> Kind:
    return Kind(why=why, each=lambda stored: stored.beside.get(kind, 0))


def _module_alone(stored: _Stored) -> Num:
    """A module without its tables and the biases of its router, which are terms of their own."""
    apart = (MTP_TABLES, ROUTER_BIASES)
    return _sum(held for bucket, held in stored.in_module.items() if bucket not in apart)


def _router_biases(stored: _Stored) -> Num:
    return stored.beside.get(ROUTER_BIASES, 0) + stored.modules * stored.in_module.get(ROUTER_BIASES, 0)


def _block_scales(stored: _Stored) -> Num:
    blocks = find_format(BLOCK_FORMAT)
    scale_bytes = exact_quotient(blocks.rules[0].dtype.scale_bits, 8)
    held = stored_weights(stored.tree, blocks).scales + stored.modules * stored_weights(stored.module, blocks).scales
    return exact_quotient(held, scale_bytes)


def _bucket(stored: _Stored, ending: str) -> Num:
    return _sum(held for bucket, held in stored.counts.breakdown.items() if bucket.endswith(ending))


def _last_projection(stored: _Stored) -> Num:
    last = [row for row in walk(stored.tree) if isinstance(row.leaf, Linear)][-1]
    return _sum(tensor.numel for tensor in tensors(last.leaf))


def _position_row(stored: _Stored) -> Num:
    return _sum(
        row.copies * row.leaf.embedding_dim
        for row in walk(stored.tree)
        if isinstance(row.leaf, Embedding) and row.bucket.endswith("embeddings.position")
    )


KINDS: Mapping[str, Kind] = {
    TIED_HEAD: Kind(
        why="output matrix that is tied to the input table, stored as a second tensor",
        each=lambda stored: stored.counts.total_with_untied_head - stored.counts.total,
    ),
    MTP: Kind(
        why="modules of multi-token prediction, which the class does not have",
        each=_module_alone,
        by_module=True,
    ),
    MTP_TABLES: Kind(
        why="copies of the input table and the output matrix in those modules",
        each=lambda stored: stored.in_module.get(MTP_TABLES, 0),
        by_module=True,
    ),
    ROUTER_BIASES: Kind(
        why="a number for each output of each router that balances the experts: a buffer in the class",
        each=_router_biases,
    ),
    EXPERT_TABLES: _beside(EXPERT_TABLES, "experts of each token in the layers that route by a table: a buffer"),
    FP8_SCALES: Kind(why="a scale for each block of 128 x 128 of the weights in FP8", each=_block_scales),
    CAUSAL_MASKS: _beside(CAUSAL_MASKS, "causal mask of each layer, which older files keep: a buffer"),
    ROTARY_FREQUENCIES: _beside(
        ROTARY_FREQUENCIES, "rotary frequencies of each layer, which older files keep: a buffer"
    ),
    POSITION_IDS: _beside(POSITION_IDS, "positions counted from 0, which older files keep: a buffer"),
    IMAGE_POSITION_IDS: _beside(IMAGE_POSITION_IDS, "the same in the image tower"),
    LOGITS_BIAS: _beside(LOGITS_BIAS, "bias of the logits that is always zero: a buffer"),
    UNUSED_TENSORS: _beside(UNUSED_TENSORS, "tensors that no code uses"),
    "head_left_out": Kind(
        why="the definition that is published has no head over the vocabulary or the classes",
        each=lambda stored: -_bucket(stored, "other.lm_head"),
        stored=False,
    ),
    "last_projection_left_out": Kind(
        why="the definition that is published ends before the last projection",
        each=lambda stored: -_last_projection(stored),
        stored=False,
    ),
    "spare_positions_left_out": Kind(
        why="the definition that is published has no rows for positions that no token has",
        each=lambda stored: -_position_row(stored),
        stored=False,
    ),
    "token_types_left_out": Kind(
        why="the definition that is published has no table of token types",
        each=lambda stored: -_bucket(stored, "embeddings.type"),
        stored=False,
    ),
    "positions_twice": Kind(
        why="the definition that is published has a second table of positions, for another size of image",
        each=lambda stored: _bucket(stored, "embeddings.position"),
        stored=False,
    ),
}
"""Every term by its name, in the order in which they are listed."""


def _term(kind: str, times: int, stored: _Stored, model_id: str) -> Term:
    if kind not in KINDS:
        raise CatalogError(
            f"'{model_id}' names the unknown term '{kind}', expected one of {', '.join(KINDS)}",
            file=FILENAME,
            hint=near_miss(kind, KINDS),
        )
    return Term(kind=kind, parameters=times * KINDS[kind].each(stored), why=KINDS[kind].why)


def _possible(stored: _Stored, counted: frozenset[str]) -> tuple[Term, ...]:
    """What checkpoints of the model's family may hold, without what is counted already."""
    terms = []
    for name, kind in KINDS.items():
        if name in counted or not kind.stored or (name == FP8_SCALES and not stored.has_blocks):
            continue
        each = kind.each(stored)
        parameters = stored.modules * each if kind.by_module else each
        if parameters:
            terms.append(Term(kind=name, parameters=parameters, why=kind.why))
    return tuple(terms)


def _sum(numbers: Any) -> Num:
    # sum() starts from 0; its stub does not know Num
    return sum(numbers)  # type: ignore[no-any-return]
