"""What an adapter adds to a model and what it trains, as a fold over the tree: tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator

from planner.adapters.adapter import Adapter
from planner.adapters.added import AdapterCounts, AddedTensor, Indices, TrainedTensor
from planner.adapters.places import (
    adapted_rows,
    example_path,
    is_copied,
    matching,
    ranked,
    site_of,
    some,
    trained_copies,
)
from planner.adapters.shapes import Part, parts_of
from planner.adapters.shared import shared_tensors
from planner.adapters.targets import parameter_targeted, rank_of
from planner.counts import Tensor, count, held_tensors, tensors
from planner.errors import UnknownNameError, UnsupportedError, near_miss
from planner.formulas.adapters import expert_low_rank_shapes, low_rank_shapes
from planner.nodes import Convolution, Embedding, Experts, Linear, Node, Row, walk
from planner.numeric import Num, divides, exact_quotient


def adapter_parameters(tree: Node, adapter: Adapter) -> AdapterCounts:
    """What an adapter adds to a tree and trains of it.

    Parameters
    ----------
    tree : Node
        The model.
    adapter : Adapter
        Its targets as `planner.adapters.targets.resolved` leaves them.

    Raises
    ------
    UnknownNameError
        A target is no module of the model.
    UnsupportedError
        Some of the targets cannot have an adapter of this method.

    Examples
    --------
    >>> from planner.nodes import Module, Repeat
    >>> block = Module(children={"q_proj": Linear(in_features=64, out_features=64)})
    >>> tree = Module(children={"layers": Repeat(child=block, count=3, indices=range(3))})
    >>> counts = adapter_parameters(tree, Adapter(method="lora", rank=4, target_modules=("q_proj",)))
    >>> counts.trainable, counts.total  # 3 * 4 * (64 + 64), and 3 * 64**2 beside it
    (1536, 13824)
    """
    rows = modules_once(tree)
    if adapter.method == "adapter_v2":
        added = [*shared_tensors(rows, adapter, ()), *_scaled_and_shifted(rows)]
    else:
        own = [one for row in rows for one in _added_to(row, adapter)]
        added = [*shared_tensors(rows, adapter, tuple(adapted_rows(rows, adapter))), *own]
    trained = [one for row in rows for one in _trained_of(row, adapter)]
    if not added and not trained:
        _refuse(rows, adapter)
    return AdapterCounts(added=tuple(added), trained=tuple(trained), base_total=count(tree).total)


def modules_once(tree: Node) -> list[Row]:
    """Rows of a tree, a module that runs twice only once."""
    rows = list(walk(tree))
    own = {(row.path, row.indices) for row in rows if row.tied_to is None}
    return [row for row in rows if row.tied_to is None or (row.path, row.indices) not in own]


def trains(row: Row, tensor: Tensor, adapter: Adapter) -> bool:
    """Whether a tensor of the base has a gradient, in any of the row's copies.

    A module that is trained as a copy counts as trained: the copy runs in its place.
    """
    return some(trained_copies(row, tensor, adapter)) or some(matching(row, adapter, is_copied)[0])


def _added_to(row: Row, adapter: Adapter) -> Iterator[AddedTensor]:
    copies, indices = matching(row, adapter, is_copied)
    if some(copies):
        for tensor in tensors(row.leaf):
            yield AddedTensor(path=row.path, tensor=tensor, copies=copies, indices=indices, kind="copy", row=row)
    if adapter.spec.targets in ("linear", "any"):
        for rank, copies, indices in ranked(row, adapter):
            for part in _parts(row, adapter, rank):
                yield _added(row, part, copies, indices)
        yield from _added_to_tensors(row, adapter)


def _parts(row: Row, adapter: Adapter, rank: Num) -> tuple[Part, ...]:
    leaf = row.leaf
    if isinstance(leaf, Convolution) and adapter.is_low_rank and adapter.method != "dora":
        if not divides(leaf.groups, rank):
            raise UnsupportedError(
                f"a rank of {rank} does not divide into the {leaf.groups} groups of {row.path}", key="rank"
            )
        ones = (1,) * len(leaf.kernel_size)
        first = (rank, leaf.in_channels, *leaf.kernel_size)
        second = (leaf.out_channels, exact_quotient(rank, leaf.groups), *ones)
        return (
            Part("lora_A.weight", first, trains=adapter.method != "lora-fa"),
            Part("lora_B.weight", second),
        )
    parts = parts_of(adapter, site_of(row, adapter), rank)
    if isinstance(leaf, Embedding):
        names = {"lora_A.weight": "lora_embedding_A", "lora_B.weight": "lora_embedding_B"}
        return tuple(Part(names.get(part.name, part.name), part.shape, part.trains) for part in parts)
    return parts


def _added_to_tensors(row: Row, adapter: Adapter) -> Iterator[AddedTensor]:
    for tensor, rank, copies, indices in adapted_tensors(row, adapter):
        first, second = _tensor_factors(row, tensor, rank)
        for part in (Part(f"{tensor.name}.lora_A.weight", first), Part(f"{tensor.name}.lora_B.weight", second)):
            yield _added(row, part, copies, indices)


def adapted_tensors(row: Row, adapter: Adapter) -> Iterator[tuple[Tensor, Num, Num, Indices]]:
    """Bare tensors of a row that have an adapter, its rank, how many copies have it, and at which indices."""
    if not adapter.target_parameters:
        return
    for tensor in held_tensors(row):

        def named(_: Row, chosen: Adapter, path: str, name: str = tensor.name) -> bool:
            return parameter_targeted(chosen, f"{path}.{name}" if name else path)

        copies, indices = matching(row, adapter, named)
        if some(copies):
            path = f"{example_path(row)}.{tensor.name}" if tensor.name else example_path(row)
            yield tensor, rank_of(adapter, path), copies, indices


def _tensor_factors(row: Row, tensor: Tensor, rank: Num) -> tuple[tuple[Num, ...], tuple[Num, ...]]:
    shape = tensor.shape
    if len(shape) == 2:
        return low_rank_shapes(rank, shape[1], shape[0])
    if len(shape) != 3:
        raise UnsupportedError(
            f"{row.path}.{tensor.name} has {len(shape)} dimensions, an adapter of a tensor knows 2 and 3",
            key="target_parameters",
        )
    stored_as_in_out = isinstance(row.leaf, Experts) and row.leaf.transposed
    read, written = (shape[1], shape[2]) if stored_as_in_out else (shape[2], shape[1])
    return expert_low_rank_shapes(rank, shape[0], read, written)


def _added(row: Row, part: Part, copies: Num, indices: Indices) -> AddedTensor:
    return AddedTensor(
        path=row.path, tensor=Tensor(part.name, part.shape), copies=copies, indices=indices, trains=part.trains, row=row
    )


def _scaled_and_shifted(rows: list[Row]) -> Iterator[AddedTensor]:
    """What LLaMA-Adapter v2 adds to every matrix: a gain and a bias of its output."""
    for row in rows:
        if isinstance(row.leaf, Linear):
            for name in ("adapter_bias", "adapter_scale"):
                part = Part(name, (row.leaf.out_features,))
                yield _added(row, part, row.copies, row.indices)


def _trained_of(row: Row, adapter: Adapter) -> Iterator[TrainedTensor]:
    for tensor in held_tensors(row):
        copies = trained_copies(row, tensor, adapter)
        if some(copies):
            yield TrainedTensor(row=row, tensor=tensor, copies=copies)


def _refuse(rows: list[Row], adapter: Adapter) -> None:
    asked = adapter.target_modules if isinstance(adapter.target_modules, tuple) else ()
    names = {row.path.rpartition(".")[2] for row in rows}
    wanted = [*asked, *adapter.target_parameters, *adapter.frozen_modules, *adapter.trained_modules]
    what = ", ".join(f"'{name}'" for name in wanted) or f"'{adapter.target_modules}'"
    hints = filter(None, (near_miss(name.rpartition(".")[2], names) for name in wanted))
    raise UnknownNameError(
        f"'{adapter.method}' trains nothing: no module of the model is {what}",
        key="target_modules",
        hint=next(hints, f"its matrices are {', '.join(sorted(_matrix_names(rows)))}"),
    )


def _matrix_names(rows: list[Row]) -> set[str]:
    return {row.path.rpartition(".")[2] for row in rows if isinstance(row.leaf, Linear)}
