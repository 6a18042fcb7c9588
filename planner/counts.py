"""Parameters as a fold over a model's tree: which tensors a leaf holds, and the sums that are called "the" total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from planner.formulas.parameters import active_expert_parameters, numel
from planner.nodes import (
    Attention,
    Convolution,
    Embedding,
    Experts,
    Leaf,
    Linear,
    Node,
    Norm,
    Parameter,
    Product,
    Row,
    Scan,
    walk,
)
from planner.numeric import Num, exact_quotient

TOKEN_EMBEDDING = "embeddings.token"  # noqa: S105 - a bucket, no secret


@dataclass(frozen=True, slots=True)
class Matrices:
    """Weight tensor seen as matrices that are multiplied: one, or one an expert.

    Attributes
    ----------
    count, out_features, in_features : Num
        Matrices in the tensor, and the shape of each. [-]
    """

    count: Num
    out_features: Num
    in_features: Num


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter tensor of a leaf.

    Attributes
    ----------
    name : str
        Name inside the module, ``weight`` or ``bias``; empty for a bare `Parameter`, whose path is the tensor's.
    shape : tuple of Num
        As torch holds it. [-]
    matrices : Matrices or None
        How it is multiplied; None for biases, tables, norms and convolutions.
    """

    name: str
    shape: tuple[Num, ...]
    matrices: Matrices | None = None

    @property
    def numel(self) -> Num:
        """Elements. [-]"""
        return numel(self.shape)


def tensors(leaf: Leaf) -> tuple[Tensor, ...]:
    """Parameter tensors of a leaf in torch's order, as if nothing were tied."""
    match leaf:
        case Linear():
            return _linear_tensors(leaf)
        case Embedding():
            return (Tensor("weight", (leaf.num_embeddings, leaf.embedding_dim)),)
        case Norm():
            weight = Tensor("weight", (leaf.dim,))
            return (weight, Tensor("bias", (leaf.dim,))) if leaf.bias else (weight,)
        case Parameter():
            return (Tensor("", leaf.shape),)
        case Convolution():
            weight = Tensor(
                "weight", (leaf.out_channels, exact_quotient(leaf.in_channels, leaf.groups), *leaf.kernel_size)
            )
            return (weight, Tensor("bias", (leaf.out_channels,))) if leaf.bias else (weight,)
        case Experts():
            return _expert_tensors(leaf)
        case Attention() | Product() | Scan():
            return ()
        case _:
            assert_never(leaf)


def _linear_tensors(leaf: Linear) -> tuple[Tensor, ...]:
    blocks = 1 if leaf.blocks is None else leaf.blocks
    shape = (exact_quotient(leaf.out_features, blocks), exact_quotient(leaf.in_features, blocks))
    outer = () if leaf.blocks is None else (leaf.blocks,)
    stored = shape[::-1] if leaf.transposed else shape
    bias = (Tensor(leaf.bias_name, (*outer, shape[0])),) if leaf.bias else ()
    if leaf.weight_name is None:
        return bias
    return (Tensor(leaf.weight_name, leaf.weight_shape or (*outer, *stored), Matrices(blocks, *shape)), *bias)


def _expert_tensors(leaf: Experts) -> tuple[Tensor, ...]:
    if leaf.flat is not None:
        shape = (leaf.num_experts * leaf.intermediate_size, leaf.hidden_size)
        read = Matrices(leaf.num_experts, leaf.intermediate_size, leaf.hidden_size)
        written = Matrices(leaf.num_experts, leaf.hidden_size, leaf.intermediate_size)
        return tuple(Tensor(name, shape, held) for name, held in zip(leaf.flat, (read, read, written), strict=True))
    inner = 2 * leaf.intermediate_size if leaf.gated else leaf.intermediate_size
    first = "gate_up_proj" if leaf.gated else "up_proj"

    def weight(name: str, out_features: Num, in_features: Num) -> Tensor:
        slice_shape = (in_features, out_features) if leaf.transposed else (out_features, in_features)
        return Tensor(name, (leaf.num_experts, *slice_shape), Matrices(leaf.num_experts, out_features, in_features))

    up = weight(first, inner, leaf.hidden_size)
    down = weight("down_proj", leaf.hidden_size, leaf.intermediate_size)
    if not leaf.bias:
        return up, down
    return (
        up,
        Tensor(f"{first}_bias", (leaf.num_experts, inner)),
        down,
        Tensor("down_proj_bias", (leaf.num_experts, leaf.hidden_size)),
    )


def held_tensors(row: Row) -> tuple[Tensor, ...]:
    """Tensors that a row holds itself: a tied module has at most its own bias."""
    held = tensors(row.leaf)
    if row.tied_to is None:
        return held
    return tuple(tensor for tensor in held if isinstance(row.leaf, Linear) and tensor.name == row.leaf.bias_name)


def parameters(row: Row) -> Num:
    """Parameters of all copies of a row, tied weights not counted again. [-]"""
    return row.copies * _sum(tensor.numel for tensor in held_tensors(row))


def active_parameters(row: Row) -> Num:
    """Parameters of all copies of a row that one token meets. [-]"""
    held = parameters(row)
    leaf = row.leaf
    if isinstance(leaf, Experts):
        return active_expert_parameters(held, leaf.num_experts, leaf.top_k)
    if isinstance(leaf, Parameter) and leaf.experts is not None and leaf.top_k is not None:
        return active_expert_parameters(held, leaf.experts, leaf.top_k)
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The totals of one model. All are parameters, tied tensors once. [-]

    Attributes
    ----------
    total : Num
        Every parameter.
    active : Num
        Those that one token meets: all but the experts that it is not routed to.
    active_excl_input_embedding : Num
        `active` without the input table, where the output head is a matrix of its own. Where both are one matrix
        it is multiplied at the output, and stays.
    total_with_untied_head : Num
        `total`, if a tied output matrix were stored a second time, as some checkpoints do.
    breakdown : dict of str to Num
        Parameters by component; the values sum to `total`.
    """

    total: Num
    active: Num
    active_excl_input_embedding: Num
    total_with_untied_head: Num
    breakdown: dict[str, Num]


def count(tree: Node) -> Counts:
    """Parameter counts of a tree.

    Examples
    --------
    >>> from planner.nodes import Embedding, Linear, Module, Tied
    >>> table = Embedding(num_embeddings=10, embedding_dim=4, bucket="embeddings.token")
    >>> head = Tied(module=Linear(in_features=4, out_features=10, yields_logits=True), to="table")
    >>> counts = count(Module(children={"table": table, "head": head}))
    >>> counts.total, counts.total_with_untied_head
    (40, 80)
    """
    rows = list(walk(tree))
    breakdown: dict[str, Num] = {}
    for row in rows:
        held = parameters(row)
        # A row that holds nothing (a tied head, the attention products) opens no bucket.
        if held_tensors(row):
            breakdown[row.bucket] = breakdown.get(row.bucket, 0) + held
    total = _sum(breakdown.values())
    active = _sum(active_parameters(row) for row in rows)
    heads = [row for row in rows if isinstance(row.leaf, Linear) and row.leaf.yields_logits]
    tied_head = _sum(row.copies * tensors(row.leaf)[0].numel for row in heads if row.tied_to is not None)
    separate_head = any(row.tied_to is None for row in heads)
    input_table = breakdown.get(TOKEN_EMBEDDING, 0) if separate_head else 0
    return Counts(
        total=total,
        active=active,
        active_excl_input_embedding=active - input_table,
        total_with_untied_head=total + tied_head,
        breakdown=breakdown,
    )


def _sum(numbers: object) -> Num:
    # sum() starts from 0 and adds columns as well; its stub does not know Num
    return sum(numbers)  # type: ignore[call-overload, no-any-return]
