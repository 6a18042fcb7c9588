"""Where an adapter stands in a tree: rows, how many of their copies, and at which indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from planner.adapters.adapter import ALL_LINEAR, Adapter
from planner.adapters.added import Indices
from planner.adapters.shapes import Site
from planner.adapters.targets import (
    among_all_linear,
    below,
    depends_on_index,
    ends_with_name,
    is_matrix_module,
    module_path,
    rank_of,
    rank_pattern_of,
    saved,
    targeted,
)
from planner.counts import Tensor
from planner.errors import UnsupportedError
from planner.nodes import Convolution, Embedding, Linear, Row
from planner.numeric import Num, exact_quotient

Rule: TypeAlias = Callable[[Row, Adapter, str], bool]
"""Whether an adapter is about a row at a path, which is that of one of its copies."""


def adapted(row: Row, adapter: Adapter) -> Num:
    """Copies of a row whose module carries an adapter. [-]"""
    return matching(row, adapter, is_target)[0]


def adapted_rows(rows: list[Row], adapter: Adapter) -> Iterator[tuple[Row, Num, Indices]]:
    """Rows whose modules carry an adapter, how many copies of each, and at which indices."""
    if adapter.spec.targets in ("linear", "any"):
        for row in rows:
            copies, indices = matching(row, adapter, is_target)
            if some(copies):
                yield row, copies, indices


def site_of(row: Row, adapter: Adapter) -> Site:
    """Dimensions of an adapted module as its adapter sees them.

    Raises
    ------
    UnsupportedError
        The method does not know modules of this kind.
    """
    leaf = row.leaf
    path = example_path(row)
    side = path in adapter.input_side_modules or ends_with_name(path, adapter.input_side_modules)
    if isinstance(leaf, Linear):
        return Site(leaf.in_features, leaf.out_features, leaf.bias, side)
    if isinstance(leaf, Embedding) and (adapter.is_low_rank or adapter.method in ("ia3", "hira")):
        return Site(leaf.num_embeddings, leaf.embedding_dim, False, side)
    raise UnsupportedError(
        f"'{adapter.method}' has no form for {row.path}, which is {type(leaf).__name__}", key="target_modules"
    )


def example_path(row: Row) -> str:
    """Path of the first copy, or one with 0 where the number of copies is a column."""
    path = row.path
    for indices in row.indices:
        path = path.replace("*", "0" if not indices else str(indices[0]), 1)
    return path


def ranked(row: Row, adapter: Adapter) -> Iterator[tuple[Num, Num, Indices]]:
    """Ranks of a row's adapters, and for each how many copies have it, and at which indices."""
    if not adapter.rank_pattern or None in row.indices:
        copies, indices = matching(row, adapter, is_target)
        if some(copies):
            yield rank_of(adapter, example_path(row)), copies, indices
        return
    # ranks by the pattern that gives them, since a rank may be a column
    patterns = dict.fromkeys(rank_pattern_of(adapter, path) for path in row.real_paths())
    for pattern in patterns:

        def has_it(_: Row, chosen: Adapter, path: str, pattern: str | None = pattern) -> bool:
            return is_target(row, chosen, path) and rank_pattern_of(chosen, path) == pattern

        copies, indices = matching(row, adapter, has_it, each=True)
        if some(copies):
            yield adapter.rank_or_default if pattern is None else adapter.rank_pattern[pattern], copies, indices


def is_target(row: Row, adapter: Adapter, path: str) -> bool:
    """Whether the module at a path of a row carries an adapter."""
    if str(adapter.target_modules).lower() == ALL_LINEAR:
        return among_all_linear(row, routers=adapter.routers_are_linear) and targeted(adapter, path)
    leaf = row.leaf
    is_module = is_matrix_module(row, routers=adapter.routers_are_linear) or isinstance(leaf, (Embedding, Convolution))
    return is_module and targeted(adapter, module_path(row, path))


def is_copied(_: Row, adapter: Adapter, path: str) -> bool:
    """Whether the module at a path, or one around it, is trained as a copy."""
    if adapter.spec.targets == "norm":
        parts = path.split(".")
        return any(targeted(adapter, ".".join(parts[:end])) for end in range(1, len(parts) + 1))
    return saved(adapter, path)


def matching(row: Row, adapter: Adapter, rule: Rule, *, each: bool = False) -> tuple[Num, Indices]:
    """Copies of a row of which a rule holds, and their indices.

    Each copy is looked at where the adapter tells them apart, or where that is asked for.
    Where copies differ and the row lies in several lists, one in the other, the indices are those of all copies.

    Raises
    ------
    UnsupportedError
        Layers are chosen where their number is a column.
    """
    if None in row.indices and adapter.layers_to_transform is not None:
        raise UnsupportedError("layers cannot be chosen where their number is swept", key="layers_to_transform")
    if None in row.indices or not row.indices or not (each or depends_on_index(adapter)):
        return (row.copies, row.indices) if rule(row, adapter, example_path(row)) else (0, ())
    held = [rule(row, adapter, path) for path in row.real_paths()]
    found = sum(held)
    if found == 0:
        return 0, ()
    if found == len(held):
        return row.copies, row.indices
    copies = exact_quotient(row.copies, len(held)) * found
    first = row.indices[0]
    if len(row.indices) == 1 and first is not None:
        return copies, (tuple(index for index, chosen in zip(first, held, strict=True) if chosen),)
    return copies, row.indices


def trained_copies(row: Row, tensor: Tensor, adapter: Adapter) -> Num:
    """Copies of a row of which a tensor of the base has a gradient. [-]"""
    match adapter.method:
        case "full":
            return row.copies
        case "bitfit":
            return row.copies if _is_bias(row, tensor) else 0
        case "adapter_v2":
            return row.copies if row.bucket.endswith("norms") else 0
        case "frozen":
            return matching(row, adapter, _is_unfrozen)[0]
    if adapter.bias == "all" and _is_bias(row, tensor):
        return row.copies
    if adapter.bias == "only" and isinstance(row.leaf, (Linear, Convolution)) and _is_bias(row, tensor):
        return matching(row, adapter, is_target)[0]
    return 0


def _is_unfrozen(_: Row, adapter: Adapter, path: str) -> bool:
    return not below(path, adapter.frozen_modules) and (
        not adapter.trained_modules or below(path, adapter.trained_modules)
    )


def _is_bias(row: Row, tensor: Tensor) -> bool:
    # of a bare tensor the path is the name
    return (tensor.name or row.path.rpartition(".")[2]) == "bias"


def some(copies: Num) -> bool:
    """Whether there is any copy; a column of layers stands for some."""
    return not (isinstance(copies, int) and copies == 0)
