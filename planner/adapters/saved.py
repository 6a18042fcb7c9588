"""What LoRA keeps for backward beside what its base keeps, as peft runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from planner.activations.saved import SavedTensor, Split
from planner.adapters.adapter import Adapter
from planner.adapters.added import Indices
from planner.adapters.counts import adapted_tensors
from planner.adapters.places import ranked
from planner.compute import positions
from planner.counts import Tensor, tensors
from planner.errors import UnsupportedError
from planner.formats import plain_format
from planner.formulas.adapters import activation_bytes, expert_low_rank_shapes, low_rank_shapes
from planner.formulas.memory import packed_bytes
from planner.formulas.parameters import numel
from planner.nodes import Experts, Linear, Node, Row, walk
from planner.numeric import Num
from planner.quantisation import Outline, labels, outline_of
from planner.sharding import cut_of
from planner.workload import Step

Device = Literal["cpu", "cuda"]

INPUT = "adapter input"
"""Name of what an adapter reads where that is a tensor of the base: modules that read the same tensor have one.

The base may keep it as well, for a reason of its own, such as an attention's output that its kernel keeps; then it is
one tensor. All other names are tensors of the adapter alone."""


def adapter_saved(
    tree: Node,
    adapter: Adapter,
    step: Step,
    *,
    dtype: str,
    autocast: str | None = None,
    device: Device = "cpu",
) -> tuple[SavedTensor, ...]:
    """Tensors that autograd keeps for a model with LoRA, and would not keep for its base with all weights frozen.

    Parameters
    ----------
    tree : Node
        The model.
    adapter : Adapter
        ``lora`` or one of its variants; its `dtype` is that of its matrices.
    step : Step
        What the model is asked to do.
    dtype : str
        Of the base's activations.
    autocast : str, optional
        What products are computed in under torch.autocast; None without it.
    device : str
        On CUDA a dropped element is a byte of a mask, on a CPU a factor in the input's dtype.

    Returns
    -------
    tuple of SavedTensor
        In the order of the tree. Copies are those that have an adapter.

    Raises
    ------
    UnsupportedError
        Other methods.

    Notes
    -----
    A matrix of low rank reads its input in the adapter's own dtype. Where the base computes in another, each adapted
    module casts the input for itself, so that queries, keys and values keep three copies of what they read. DoRA
    multiplies the base's output by a trained vector and so keeps it, and after a dropout it multiplies the input with
    the base's weight once more. An adapter of fused experts is added to their weights, so that the sum is kept.
    """
    if not adapter.is_low_rank:
        raise UnsupportedError(f"what '{adapter.method}' keeps for backward is not known", key="adapter")
    precision = _Precision(
        base=_bytes(dtype), own=_bytes(adapter.dtype), product=_bytes(autocast or adapter.dtype), device=device
    )
    outline = outline_of(tree)
    met: set[object] = set()
    kept: list[SavedTensor] = []
    for row in walk(tree):
        for rank, copies, indices in ranked(row, adapter):
            if isinstance(row.leaf, Linear):
                kept += _of_matrix(row, adapter, step, rank, precision, _Place(copies, indices, outline, met))
        for tensor, rank, copies, indices in adapted_tensors(row, adapter):
            kept += _of_tensor(row, tensor, rank, step, precision, _Place(copies, indices, outline, met))
    return tuple(kept)


def keeps_own_input(adapter: Adapter, dtype: str, autocast: str | None = None) -> bool:
    """Whether an adapter's input is a copy of its own, so that the frozen matrix beside it keeps nothing for it."""
    own, base = plain_format(adapter.dtype), plain_format(dtype)
    return bool(adapter.dropout) or own != base or (autocast is not None and plain_format(autocast) != own)


@dataclass(frozen=True, slots=True)
class _Precision:
    """Bytes of an element: of the base's activations, in the adapter's dtype, and in that of products."""

    base: Num
    own: Num
    product: Num
    device: Device


@dataclass(frozen=True, slots=True)
class _Place:
    copies: Num
    indices: Indices
    outline: Outline
    met: set[object]


def _of_matrix(
    row: Row, adapter: Adapter, step: Step, rank: Num, precision: _Precision, place: _Place
) -> Iterator[SavedTensor]:
    leaf = row.leaf
    assert isinstance(leaf, Linear)  # noqa: S101 - as it was chosen
    tokens = row.runs * positions(row.stream, step)
    before, _ = _splits(row)

    def kept(name: str, size: Num, split: Split) -> SavedTensor:
        return _saved(row, name, size, split, place)

    reads = adapter.method != "lora-fa"  # a frozen first matrix needs no input
    is_cast = precision.product != precision.own
    if adapter.dropout:
        # torch has one kernel on CUDA, which keeps a mask, and multiplies by random factors elsewhere
        mask = 1 if precision.device == "cuda" else precision.own
        yield kept("dropout", activation_bytes(tokens, leaf.in_features, mask), before)
    if reads and (adapter.dropout or is_cast or precision.own != precision.base):
        yield kept("input copy", activation_bytes(tokens, leaf.in_features, precision.product), before)
    elif reads and (first := _reads(row, place.outline)) not in place.met:
        place.met.add(first)
        yield kept(INPUT, activation_bytes(tokens, leaf.in_features, precision.base), before)
    yield kept("low rank", activation_bytes(tokens, rank, precision.product), "none")
    if is_cast:
        shapes = low_rank_shapes(rank, leaf.in_features, leaf.out_features)
        yield kept("weight casts", sum(numel(shape) for shape in shapes) * precision.product, "none")
    if adapter.method == "dora":
        yield from _of_dora(row, adapter, tokens, precision, place)


def _of_dora(row: Row, adapter: Adapter, tokens: Num, precision: _Precision, place: _Place) -> Iterator[SavedTensor]:
    leaf = row.leaf
    assert isinstance(leaf, Linear)  # noqa: S101 - as it was chosen
    _, behind = _splits(row)
    # dropped inputs go through the base's weight again, in the adapter's dtype
    again = bool(adapter.dropout)
    base = precision.product if again else precision.base
    yield _saved(row, "base output", activation_bytes(tokens, leaf.out_features, base), behind, place)
    yield _saved(row, "low-rank output", activation_bytes(tokens, leaf.out_features, precision.product), behind, place)
    # the norm of the weight, the magnitude over it, and that less one
    yield _saved(row, "scales", 3 * leaf.out_features * precision.own, "none", place)
    if again and precision.own != precision.base:
        size = leaf.in_features * leaf.out_features * precision.product
        yield _saved(row, "weight copy", size, "none", place)


def _of_tensor(
    row: Row, tensor: Tensor, rank: Num, step: Step, precision: _Precision, place: _Place
) -> Iterator[SavedTensor]:
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    read = tensor.shape[-1]
    tokens = row.runs * positions(row.stream, step)
    leaf = row.leaf
    if isinstance(leaf, Experts):
        tokens = tokens * leaf.top_k
        read = leaf.intermediate_size if tensor.name == _last_matrix(leaf) else leaf.hidden_size
    yield _saved(row, f"{tensor.name} {INPUT}", activation_bytes(tokens, read, precision.base), "none", place)
    yield _saved(row, f"{tensor.name} with its update", tensor.numel * precision.base, "none", place)
    if precision.own != precision.base and experts != 1:
        shapes = expert_low_rank_shapes(rank, experts, *tensor.shape[1:])
        factors = sum(numel(shape) for shape in shapes) * precision.base
        yield _saved(row, f"{tensor.name} factors", factors, "none", place)


def _saved(row: Row, name: str, size: Num, split: Split, place: _Place) -> SavedTensor:
    return SavedTensor(
        path=row.path,
        name=name,
        size_bytes=size,
        copies=place.copies,
        indices=place.indices,
        split=split,
        part=_part(row),
    )


def _splits(row: Row) -> tuple[Split, Split]:
    """What divides the input and the output of a matrix in tensor parallelism."""
    match cut_of(row):
        case "row":
            return "tensor", "sequence"
        case "column" | "key_value" | "fused" | "vocabulary":
            return "sequence", "tensor"
    return "sequence", "sequence"


def _part(row: Row) -> str:
    if row.bucket.startswith(("attention", "vision.attention", "audio.attention")):
        return "attention"
    if row.bucket.startswith("experts"):
        return "moe"
    if isinstance(row.leaf, Linear) and row.leaf.yields_logits:
        return "head"
    return "mlp" if row.bucket.endswith("mlp") else "residual"


def _reads(row: Row, outline: Outline) -> object:
    """What tells the input of a matrix from others: those of one module for queries, keys and values are one."""
    weight = next(tensor for tensor in tensors(row.leaf) if tensor.matrices is not None)
    found = labels(row, weight, outline)
    parent = row.path.rpartition(".")[0]
    for side in (frozenset(("query", "key", "value")), frozenset(("up",))):
        if found & side:
            return (parent, side, row.stream.kind, row.stream.per_sample)
    return row.path


def _last_matrix(leaf: Experts) -> str:
    """Name of the matrix that leads back to the width of a token."""
    return [tensor.name for tensor in tensors(leaf) if tensor.matrices is not None][-1]


def _bytes(dtype: str) -> Num:
    return packed_bytes(1, plain_format(dtype).element_bits)
