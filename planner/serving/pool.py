"""The pool of blocks that keeps keys, values and states: what a token slot takes, and what a request needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from planner.cache import (
    CacheGroup,
    Requests,
    Storage,
    bytes_per_token,
    cache_groups,
    group_bytes,
    paged,
    pool_bytes_per_token,
    rank_row_bytes,
    state_block_size,
    storage,
)
from planner.engines import Engine
from planner.errors import UnsupportedError
from planner.nodes import Node
from planner.numeric import Num, all_true, ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Sizes of a pool's parts, on one rank.

    Attributes
    ----------
    slot_bytes : Num
        What the pool reserves for one token, over all layers of the stage. [B]
    token_bytes : Num
        What one more token of a long request takes. [B]
    request_bytes : Num
        What one request at full length takes, in whole blocks. [B]
    block_size : Num
        Slots of a block. [token]
    """

    slot_bytes: Num
    token_bytes: Num
    request_bytes: Num
    block_size: Num

    @property
    def block_bytes(self) -> Num:
        """One block over all layers. [B]"""
        return self.slot_bytes * self.block_size


def storage_of(kv: str, element: str, engine: Engine) -> Storage:
    """Types in which an engine keeps a cache: states in that of activations unless it says otherwise."""
    chosen = engine.word("state_dtype", "auto")
    indexer = engine.word("indexer_cache", kv)
    return storage(kv, indexer=indexer, activations=element, state=element if chosen == "auto" else chosen)


def pool_of(
    tree: Node,
    kept_in: Storage,
    engine: Engine,
    *,
    tp: Num,
    layers: Collection[int] | None,
    block_size: Num,
    stated_block: bool,
    max_model_len: Num,
    max_num_batched_tokens: Num,
    images: Num = 0,
) -> Pool:
    """Pool of one rank of a stage.

    Parameters
    ----------
    tree : Node
        The model.
    kept_in : Storage
        Types.
    engine : Engine
        How it groups layers and rounds rows.
    tp : Num
        Ranks. [-]
    layers : collection of int or None
        Those of the stage.
    block_size : Num
        Slots of a block; where the model keeps states beside keys, and `stated_block` is False, as large as a state.
    stated_block : bool
        Whether the user chose the block size.
    max_model_len, max_num_batched_tokens : Num
        Longest request, and new tokens of a step, which a layer with a window keeps beside what it sees. [token]
    images : Num
        Of a request. [-]

    Raises
    ------
    UnsupportedError
        The model keeps no keys.
    """
    groups = cache_groups(tree, layers=layers)
    grouped = engine.word("cache_groups", "no") == "yes"
    slot = pool_bytes_per_token(tree, kept_in, tp=tp, layers=layers, grouped=grouped)
    if all_true(slot == 0) and layers is not None and cache_groups(tree):
        raise UnsupportedError(
            f"layers {min(layers)} to {max(layers)} keep no keys, so that their stage has no pool of blocks",
            key="pipeline_parallel_size",
        )
    if all_true(slot == 0):
        raise UnsupportedError(
            "keeps no keys of the tokens that it sees, so that an engine has no pool of blocks for it", key="model"
        )
    multiple = engine.size("latent_row_multiple", 1)
    for group in groups:
        if group.kind == "latent":
            row = rank_row_bytes(group, kept_in, tp)
            slot = slot + group.copies * (ceil_div(row, multiple) * multiple - row)
    keeps_states = any(group.kind == "state" for group in groups)
    keeps_keys = any(group.row is not None for group in groups)
    if grouped and keeps_states and keeps_keys and not stated_block:
        block_size = state_block_size(tree, kept_in, tp=tp, layers=layers)
    request = Requests(tokens=max_model_len, images=images, new_tokens=max_num_batched_tokens)
    in_blocks = paged(request, block_size)
    needed: Num = 0
    for group in groups:
        if group.kind == "state" and grouped and keeps_keys:
            row = _row_of_keys(groups, kept_in, tp)
            needed = needed + group.copies * block_size * row
        elif group.kind == "convolution" and grouped and keeps_keys:
            continue  # part of the state's page
        else:
            needed = needed + group.copies * group_bytes(group, in_blocks, kept_in, tp=tp)
    return Pool(
        slot_bytes=slot,
        token_bytes=bytes_per_token(tree, kept_in, tp=tp, layers=layers),
        request_bytes=needed,
        block_size=block_size,
    )


def _row_of_keys(groups: Collection[CacheGroup], kept_in: Storage, tp: Num) -> Num:
    return next((rank_row_bytes(group, kept_in, tp) for group in groups if group.row is not None), 0)
