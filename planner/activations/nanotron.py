"""What autograd keeps under nanotron: modules of its own over FlashAttention, and inputs of matrices when gathered.

Where Megatron keeps the share of a normed input that its rank made and gathers the rest again in backward, nanotron
keeps what it gathered.
"""

from __future__ import annotations

from planner.activations.layers import AttentionPart, Layer, MlpPart, check_dense, layers_of
from planner.activations.saved import SavedTensor, Split
from planner.compute import attention_pairs, positions
from planner.formulas.activations import activation_bytes, log_sum_exp_bytes, statistics_bytes
from planner.nodes import Linear, Node, Norm, Row, walk
from planner.numeric import Num, all_true, maximum, where
from planner.workload import Step


def nanotron_saved(tree: Node, step: Step, element_bytes: int = 2) -> tuple[SavedTensor, ...]:
    """Everything that is kept of one micro-batch, in the order of the forward pass.

    Parameters
    ----------
    tree : Node
        The model.
    step : Step
        Samples and tokens.
    element_bytes : int
        Of an activation. [B]

    Raises
    ------
    PlannerError
        The model has blocks of another kind.
    """
    rows = list(walk(tree))
    result: list[SavedTensor] = []
    layers = layers_of(rows)
    check_dense(layers, "nanotron")
    for layer in layers:
        block = _Block(layer, step, element_bytes)
        for attention in layer.attentions:
            result += block.attention(attention)
        for mlp in layer.mlps:
            result += block.mlp(mlp)
    for row in rows:
        if "*" not in row.path:
            result += _outside(row, step, element_bytes)
    return tuple(result)


def nanotron_gradients(tree: Node, step: Step, element_bytes: int = 2) -> tuple[SavedTensor, ...]:
    """Gradients of activations that are alive at once while an MLP is differentiated."""
    result = []
    for layer in layers_of(list(walk(tree))):
        block = _Block(layer, step, element_bytes)
        wide: Num = 0
        for mlp in layer.mlps:
            wide = maximum(wide, mlp.first + mlp.second)
        result.append(block.tensor(layer.path, "gradients in an MLP", wide, split="tensor"))
        result.append(block.tensor(layer.path, "gradients of the residual", 2 * layer.hidden))
    return tuple(result)


def _outside(row: Row, step: Step, element_bytes: int) -> list[SavedTensor]:
    leaf = row.leaf
    tokens = positions(row.stream, step)

    def tensor(name: str, features: Num, split: Split) -> SavedTensor:
        size = activation_bytes(tokens, features, element_bytes)
        return SavedTensor(path=row.path, name=name, size_bytes=size, copies=row.copies, split=split, part="head")

    if isinstance(leaf, Norm):
        return [tensor("norm input", leaf.dim, "sequence")]
    if isinstance(leaf, Linear) and leaf.yields_logits:
        return [tensor("input", leaf.in_features, "none")]
    return []


class _Block:
    """One kind of block."""

    def __init__(self, layer: Layer, step: Step, element_bytes: int) -> None:
        self.layer, self.step, self.element_bytes = layer, step, element_bytes
        self.tokens = positions(layer.rows[0].stream, step)

    def tensor(
        self, path: str, name: str, features: Num, *, split: Split = "sequence", part: str = "residual"
    ) -> SavedTensor:
        """One vector a token."""
        return self.sized(path, name, activation_bytes(self.tokens, features, self.element_bytes), split, part)

    def sized(self, path: str, name: str, size_bytes: Num, split: Split, part: str) -> SavedTensor:
        """Any tensor."""
        layer = self.layer
        return SavedTensor(
            path=path,
            name=name,
            size_bytes=size_bytes,
            copies=layer.copies,
            indices=(layer.indices,),
            split=split,
            part=part,
        )

    def _normed(self, path: str, hidden: Num) -> list[SavedTensor]:
        return [
            self.tensor(path, "norm input", hidden),
            self.sized(path, "statistics", statistics_bytes(self.tokens, 1, 4), "sequence", "norm"),
            self.tensor(path, "normed", hidden, split="none", part="norm"),
        ]

    def attention(self, part: AttentionPart) -> list[SavedTensor]:
        """Attention: rotated queries stay where the projection's copy lies, keys and values are copied again."""
        core, path = part.core, part.row.path
        queries = core.num_heads * core.qk_head_dim
        pair = part.kv_heads * (core.qk_head_dim + core.v_head_dim)
        result = core.num_heads * core.v_head_dim
        # Without grouped heads all three are one tensor, which the rotated queries hold on to.
        grouped = core.num_kv_heads is not None and not all_true(core.num_kv_heads == core.num_heads)
        together = queries if grouped else queries + pair
        several = where(self.step.batch_size > 1, result, 0)
        pairs = attention_pairs(core, part.row.stream, self.step)
        lse = log_sum_exp_bytes(pairs.sequences, core.num_heads, pairs.queries)
        return [
            *self._normed(path, part.hidden),
            self.tensor(path, "queries", together, split="tensor", part="attention"),
            self.tensor(path, "keys and values", pair, split="tensor", part="attention"),
            self.tensor(path, "output", result, split="tensor", part="core_attention"),
            # Samples lie apart in it, so that the next product copies it where there are several.
            self.tensor(path, "output in one piece", several, split="tensor", part="attention"),
            self.sized(path, "log-sum-exp", lse, "tensor", "core_attention"),
        ]

    def mlp(self, mlp: MlpPart) -> list[SavedTensor]:
        """Gated MLP, whose activation and product are two operators."""
        return [
            *self._normed(mlp.path, mlp.hidden),
            self.tensor(mlp.path, "gate and up", mlp.first, split="tensor", part="mlp"),
            self.tensor(mlp.path, "activation of the gate", mlp.second, split="tensor", part="mlp"),
            self.tensor(mlp.path, "product", mlp.second, split="tensor", part="mlp"),
        ]
