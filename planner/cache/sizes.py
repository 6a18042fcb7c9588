"""Bytes that requests need, by kind of layer, and what one more token adds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import assert_never

from planner.cache.groups import CacheGroup, Kind, Layout, cache_groups
from planner.formats import Dtype, find_dtype
from planner.formulas.cache import (
    carried_tokens,
    paged_tokens,
    rank_heads,
    state_bytes,
    waiting_tokens,
    window_tokens,
)
from planner.kv_formats import KvFormat, find_kv_format
from planner.memory import Memory, MemoryRow
from planner.nodes import Node
from planner.numeric import Num, all_true

GROWING = frozenset({"full", "latent", "indexer", "pooled"})
"""Kinds that grow with every token of a sequence, however long it is."""

FP32_BITS = 32
"""Of the weights of a token in a pool that overlaps with the next. [bit]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """In what types a cache is kept.

    Attributes
    ----------
    kv : KvFormat
        Keys and values, latents and pooled keys.
    indexer : KvFormat
        Keys of an indexer, which engines quantise by a rule of their own.
    activations : Dtype
        What a layer computes in, and keeps its inputs in: those of convolutions and of pools.
    state : Dtype
        Recurrent states. The classes of transformers keep all of them in fp32.
    """

    kv: KvFormat
    indexer: KvFormat
    activations: Dtype
    state: Dtype


def storage(kv: str = "bf16", *, indexer: str | None = None, activations: str = "bf16", state: str = "fp32") -> Storage:
    """Storage by the names of the catalog; an indexer's keys are stored as `kv` where nothing else is said.

    Raises
    ------
    UnknownNameError
        The catalog does not know one of them.
    """
    return Storage(
        kv=find_kv_format(kv),
        indexer=find_kv_format(kv if indexer is None else indexer),
        activations=find_dtype(activations),
        state=find_dtype(state),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What is kept for equally long sequences.

    Attributes
    ----------
    sequences : Num
        How many. [-]
    tokens : Num
        Of each; for a ``static`` layout, of the longest that it can hold. [token]
    source_tokens : Num
        Of an encoder, for each sequence. [token]
    images : Num
        For each sequence, where a text looks at images in layers of its own. [-]
    new_tokens : Num
        Those of a sequence that one step adds, such as a piece of a prompt: a layer with a window keeps them beside
        what the first of them sees. Of no effect on what transformers keeps between steps. [token]
    """

    sequences: Num = 1
    tokens: Num
    source_tokens: Num = 0
    images: Num = 0
    new_tokens: Num = 1


def paged(requests: Requests, block_size: Num) -> Requests:
    """The same requests with their tokens in whole blocks."""
    return replace(requests, tokens=paged_tokens(requests.tokens, block_size))


def kept_keys(group: CacheGroup, requests: Requests, layout: Layout = "engine") -> Num:
    """Keys of one sequence that one layer of a group keeps. [-]"""
    match group.kind:
        case "cross":
            return requests.source_tokens if group.source is None else group.source
        case "image":
            return requests.images * (1 if group.source is None else group.source)
        case "sliding" | "chunked" | "full" | "latent" | "indexer" | "pooled":
            keys = requests.tokens // group.pool
            if group.window is None:
                return keys
            match layout:
                case "engine":
                    return window_tokens(keys, group.window - 1 + requests.new_tokens)
                case "dynamic":
                    # Between steps, it drops what the next token will not see.
                    return window_tokens(keys, group.window - 1)
                case "static":
                    return window_tokens(keys, group.window)
                case _:
                    assert_never(layout)
        case "pool inputs" | "state" | "convolution":
            return 0
        case _:
            assert_never(group.kind)


def rank_row_bytes(group: CacheGroup, kept_in: Storage, tp: Num = 1) -> Num:
    """What one key leaves in one layer of a group, on one of `tp` ranks. [B]

    Raises
    ------
    UnsupportedError
        The format cannot store it.
    """
    kept = group.row
    if kept is None:
        return 0
    chosen, first, second = kept_in.kv, "keys", "values"
    if kept.kind == "latent":
        first, second = "latent", "rope"
    elif kept.kind == "indexer":
        chosen, first = kept_in.indexer, "indexer"
    row = chosen.part_bytes(first, kept.key_width)
    if not all_true(kept.value_width == 0):
        row = row + chosen.part_bytes(second, kept.value_width)
    return rank_heads(kept.heads, tp) * row


def group_bytes(
    group: CacheGroup, requests: Requests, kept_in: Storage, *, tp: Num = 1, layout: Layout = "engine"
) -> Num:
    """What one layer of a group keeps for all requests, on one of `tp` ranks. [B]"""
    bits = kept_in.activations.element_bits
    match group.kind:
        case "state":
            each = state_bytes(group.state_elements, kept_in.state.element_bits, tp)
        case "convolution":
            each = state_bytes(group.state_elements, bits, tp)
        case "pool inputs":
            waiting = group.waiting * waiting_tokens(requests.tokens, group.pool)
            carried = group.carried * carried_tokens(requests.tokens, group.pool)
            each = state_bytes(waiting + carried, bits) + state_bytes(carried, FP32_BITS)
        case _:
            each = kept_keys(group, requests, layout) * rank_row_bytes(group, kept_in, tp)
    return requests.sequences * each


def cache_bytes(
    tree: Node,
    requests: Requests,
    kept_in: Storage,
    *,
    tp: Num = 1,
    layers: Collection[int] | None = None,
    layout: Layout = "engine",
) -> Memory:
    """What requests need, by kind, on one of `tp` ranks; every row is exact.

    Parameters
    ----------
    tree : Node
        The model.
    requests : Requests
        Sequences, and how long they are.
    kept_in : Storage
        Types.
    tp : Num
        Tensor-parallel ranks. [-]
    layers : collection of int, optional
        Those of a pipeline stage; see `cache_groups`.
    layout : str
        See `Layout`.

    Returns
    -------
    Memory
        A row for each kind, named ``cache: full`` and so on; none for a model that keeps nothing.
    """
    sizes: dict[Kind, Num] = {}
    for group in cache_groups(tree, layout, layers=layers):
        each = group_bytes(group, requests, kept_in, tp=tp, layout=layout)
        sizes[group.kind] = sizes.get(group.kind, 0) + group.copies * each
    return Memory(
        rows=tuple(
            MemoryRow(name=row_name(kind), size_bytes=size, basis="exact", source=_source(kind, kept_in))
            for kind, size in sizes.items()
        )
    )


def row_name(kind: Kind) -> str:
    """Name of the row of a kind in a `Memory`."""
    return f"cache: {kind}"


def _source(kind: Kind, kept_in: Storage) -> str:
    if kind == "state":
        return f"state x {kept_in.state.name}"
    if kind in ("convolution", "pool inputs"):
        return f"inputs x {kept_in.activations.name}"
    chosen = kept_in.indexer if kind == "indexer" else kept_in.kv
    return f"keys x {chosen.name}: {'; '.join(chosen.sources)}"


def bytes_per_token(tree: Node, kept_in: Storage, *, tp: Num = 1, layers: Collection[int] | None = None) -> Num:
    """What one more token of a long sequence adds, on one of `tp` ranks; a pooled key counts as its share. [B]

    Windows are full by then, and states have a fixed size. A fraction where a key of several tokens is no whole number
    of bytes for each.
    """
    total: Num = 0
    for group in cache_groups(tree, layers=layers):
        if group.kind in GROWING and group.window is None:
            row = group.copies * rank_row_bytes(group, kept_in, tp)
            total = total + (row / group.pool if group.is_pooled else row)
    return total


def fixed_bytes(tree: Node, kept_in: Storage, *, tp: Num = 1, layers: Collection[int] | None = None) -> Num:
    """States of one sequence, which do not grow, on one of `tp` ranks. [B]"""
    one = Requests(tokens=0)
    total: Num = 0
    for group in cache_groups(tree, layers=layers):
        if group.kind in ("state", "convolution"):
            total = total + group.copies * group_bytes(group, one, kept_in, tp=tp)
    return total
