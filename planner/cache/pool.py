"""What a paged pool reserves for a token slot, and how large its blocks are where it keeps states as well."""

from __future__ import annotations

from collections.abc import Collection

from planner.cache.groups import cache_groups
from planner.cache.sizes import GROWING, Storage, fixed_bytes, rank_row_bytes
from planner.errors import UnsupportedError
from planner.formulas.cache import padded_layers, state_block_tokens
from planner.nodes import Node
from planner.numeric import Num, all_true, ceil_div

PAGED = GROWING | {"sliding", "chunked"}
"""Kinds that a pool keeps in blocks of tokens."""


def pool_bytes_per_token(
    tree: Node,
    kept_in: Storage,
    *,
    tp: Num = 1,
    layers: Collection[int] | None = None,
    grouped: bool = True,
) -> Num:
    """What a paged pool reserves for one token slot, on one of `tp` ranks: every layer as if it had no window. [B]

    Where `grouped`, as vLLM's manager of hybrid caches does: kinds of layers with equal rows share the pool in groups
    of one size, and the last group of each kind is padded. Layers with a state are a kind of their own, whose pages are
    as large as those of the others. Rows of different sizes are added up without padding, and without states.
    """
    every = cache_groups(tree, layers=layers)
    groups = [group for group in every if group.kind in PAGED]
    rows = [rank_row_bytes(group, kept_in, tp) for group in groups]
    if grouped and rows and all(_same(row, rows[0]) for row in rows):
        states = [group.copies for group in every if group.kind == "state"]
        return padded_layers([*(group.copies for group in groups), *states]) * rows[0]
    total: Num = 0
    for group, row in zip(groups, rows, strict=True):
        share = group.copies * row
        total = total + (share / group.pool if group.is_pooled else share)
    return total


def state_block_size(
    tree: Node, kept_in: Storage, *, tp: Num = 1, layers: Collection[int] | None = None, multiple: Num = 16
) -> Num:
    """Token slots of a block of a pool that keeps states as well, on one of `tp` ranks. [token]

    It is no smaller than a state. A sequence takes one such block for each layer that has a state, however long it is.

    Raises
    ------
    UnsupportedError
        The model has no layers with a state beside layers with keys.
    """
    groups = cache_groups(tree, layers=layers)
    keys = [group for group in groups if group.kind in PAGED]
    states: Num = 0
    for group in groups:
        if group.kind == "state":
            states = states + group.copies
    if not keys or all_true(states == 0):
        raise UnsupportedError("no pool keeps states beside keys, as the model has only one of them")
    each = ceil_div(fixed_bytes(tree, kept_in, tp=tp, layers=layers), states)
    return state_block_tokens(each, rank_row_bytes(keys[0], kept_in, tp), multiple)


def _same(first: Num, second: Num) -> bool:
    return first is second or all_true(first == second)
