"""Which layers of a model keep what: keys and values, latents, pooled keys, states; equal layers once."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from planner.errors import UnsupportedError
from planner.formulas.cache import convolution_state
from planner.nodes import Attention, Cached, Convolution, Node, Row, Scan, walk
from planner.numeric import Num, all_true, is_column

Kind: TypeAlias = Literal[
    "full", "sliding", "chunked", "cross", "image", "latent", "indexer", "pooled", "pool inputs", "state", "convolution"
]
"""What a layer keeps.

``full``: every key and value; ``sliding`` and ``chunked``: those of a window; ``cross``: those of an encoder's tokens,
and ``image`` those of the images, once a request; ``latent``: what keys and values are made of; ``indexer``: keys that
only choose; ``pooled``: one key for several tokens; ``pool inputs``: tokens whose pool is not whole, or overlaps with
the next; ``state``: that of a recurrence; ``convolution``: the last inputs of a convolution, or of a shift by one.
"""

Layout: TypeAlias = Literal["engine", "dynamic", "static"]
"""Who keeps it; see the module."""

Indices: TypeAlias = tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers that keep the same.

    Attributes
    ----------
    kind : str
        See `Kind`.
    paths : tuple of str
        Where they stand in the tree.
    copies : Num
        How many they are. [-]
    indices : tuple of int or None
        Positions in their list of blocks, one for each copy; None where the number is a column or a symbol.
    row : Cached or None
        What one key leaves; None for a state of fixed size.
    window : Num or None
        Tokens that are kept at most. [token]
    pool : Num
        Tokens that share a key. [token]
    source : Num or None
        Keys of a request, or of each of its images, where the config and not the request says how many. [-]
    state_elements : Num
        Numbers of a state for each sequence. [-]
    waiting, carried : Num
        As for `planner.nodes.Attention`. [-]
    """

    kind: Kind
    paths: tuple[str, ...]
    copies: Num
    indices: Indices
    row: Cached | None = None
    window: Num | None = None
    pool: Num = 1
    source: Num | None = None
    state_elements: Num = 0
    waiting: Num = 0
    carried: Num = 0

    @property
    def elements_per_key(self) -> Num:
        """Numbers that one key leaves, over all heads. [-]"""
        return 0 if self.row is None else self.row.heads * (self.row.key_width + self.row.value_width)

    @property
    def is_pooled(self) -> bool:
        """Whether a key stands for several tokens."""
        return not all_true(self.pool == 1)


def cache_groups(
    tree: Node, layout: Layout = "engine", *, layers: Collection[int] | None = None
) -> tuple[CacheGroup, ...]:
    """What the layers of a model keep, equal layers once.

    Parameters
    ----------
    tree : Node
        The model.
    layout : str
        See `Layout`.
    layers : collection of int, optional
        Positions in the list of blocks that a pipeline stage holds; all of them where it is left out.

    Raises
    ------
    UnsupportedError
        `layers` are asked for, and their number is a column or a symbol.

    Examples
    --------
    >>> from planner.nodes import Module, Repeat
    >>> core = Attention(num_heads=32, num_kv_heads=8, qk_head_dim=128, v_head_dim=128, causal=True)
    >>> block = Module(children={"self_attn": Module(children={"": core})})
    >>> (group,) = cache_groups(Module(children={"layers": Repeat(child=block, count=32, indices=range(32))}))
    >>> group.kind, group.copies, group.elements_per_key
    ('full', 32, 2048)
    """
    merged: dict[Hashable, CacheGroup] = {}
    for row in walk(tree):
        for group in row_groups(row, layout):
            held = group if layers is None else _of_layers(group, layers)
            if all_true(held.copies == 0):
                continue
            key = _likeness(held)
            merged[key] = _joined(merged[key], held) if key in merged else held
    return tuple(merged.values())


def row_groups(row: Row, layout: Layout = "engine") -> Iterator[CacheGroup]:
    """What one row of a tree keeps: most keep nothing, and a layer with pooled keys their inputs as well."""
    leaf = row.leaf
    if isinstance(leaf, Convolution) and leaf.caches:
        needed = leaf.kernel_size[0] - 1
        kept = needed if layout == "engine" or leaf.kept_by_class is None else leaf.kept_by_class
        yield _group(row, "convolution", state_elements=convolution_state(leaf.in_channels, kept))
    elif isinstance(leaf, Scan):
        yield _group(row, "state", state_elements=leaf.state_elements)
        if not all_true(leaf.shifted_elements == 0):
            yield _group(row, "convolution", state_elements=leaf.shifted_elements)
    elif isinstance(leaf, Attention) and _caches(row, leaf):
        yield _of_attention(row, leaf, layout)
        if leaf.keys == "pooled":
            yield replace(_group(row, "pool inputs"), pool=leaf.pool, waiting=leaf.waiting, carried=leaf.carried)


def _caches(row: Row, leaf: Attention) -> bool:
    if not leaf.caches:
        return False
    if leaf.keys in ("source", "image"):
        # A tower looks at its own image, and only once.
        return row.stream.kind in ("tokens", "illustrated")
    return leaf.causal and leaf.keys in ("self", "pooled")


def _of_attention(row: Row, leaf: Attention, layout: Layout) -> CacheGroup:
    heads = leaf.num_heads if leaf.num_kv_heads is None else leaf.num_kv_heads
    kept = leaf.cached or Cached(heads=heads, key_width=leaf.qk_head_dim, value_width=leaf.v_head_dim)
    window = leaf.window
    if layout != "engine":
        kept = leaf.cached_by_class or kept
        window = None if leaf.class_keeps_all else window
    source: Num | None = None
    if leaf.keys == "source" and leaf.key_stream is not None:
        source = leaf.key_stream.fixed
    elif leaf.keys == "image" and leaf.key_stream is not None:
        source = leaf.key_stream.per_sample
    return replace(_group(row, _kind(leaf, kept, window)), row=kept, window=window, pool=leaf.pool, source=source)


def _kind(leaf: Attention, kept: Cached, window: Num | None) -> Kind:
    if leaf.keys == "source":
        return "cross"
    if leaf.keys == "image":
        return "image"
    if kept.kind != "heads":
        return kept.kind
    if leaf.keys == "pooled":
        return "pooled"
    if window is None:
        return "full"
    return "chunked" if leaf.chunked else "sliding"


def _group(row: Row, kind: Kind, state_elements: Num = 0) -> CacheGroup:
    copies = row.copies * row.runs
    indices: Indices = None
    outer = row.indices[0] if row.indices else (0,)
    if outer is not None and isinstance(copies, int):
        # A block may hold several of them; each run keeps what is its own.
        indices = tuple(index for index in outer for _ in range(copies // max(len(outer), 1)))
    return CacheGroup(kind=kind, paths=(row.path,), copies=copies, indices=indices, state_elements=state_elements)


def _of_layers(group: CacheGroup, layers: Collection[int]) -> CacheGroup:
    if group.indices is None:
        raise UnsupportedError("a number of layers that is swept cannot be cut into stages", key="layers")
    held = tuple(index for index in group.indices if index in layers)
    return replace(group, copies=len(held), indices=held)


def _likeness(group: CacheGroup) -> Hashable:
    """Equal for layers that keep the same; a column is equal to itself only."""
    kept = group.row
    numbers = (group.window, group.pool, group.source, group.state_elements, group.waiting, group.carried)
    widths = () if kept is None else (kept.heads, kept.key_width, kept.value_width)
    same = tuple(("column", id(number)) if is_column(number) else number for number in (*numbers, *widths))
    return (group.kind, same)


def _joined(first: CacheGroup, second: CacheGroup) -> CacheGroup:
    indices: Indices = None
    if first.indices is not None and second.indices is not None:
        indices = tuple(sorted((*first.indices, *second.indices)))
    return replace(
        first,
        paths=tuple(dict.fromkeys((*first.paths, *second.paths))),
        copies=first.copies + second.copies,
        indices=indices,
    )
