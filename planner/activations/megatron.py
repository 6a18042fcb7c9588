"""What autograd keeps under Megatron-Core, with TransformerEngine or with its own local layers.

Megatron runs layers of its own, whatever a model was called elsewhere: a norm before each sublayer, one matrix for
queries, keys and values, one for both halves of a gated MLP, dropout and residual in one kernel. So the fold reads
widths off the blocks, and not how a class of transformers computes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from planner.activations.layers import AttentionPart, Layer, MlpPart, RoutedPart, ScanPart, layers_of
from planner.activations.saved import SavedTensor, Split
from planner.compute import attention_pairs, positions
from planner.formulas.activations import activation_bytes, log_sum_exp_bytes, score_bytes, statistics_bytes
from planner.nodes import Embedding, Linear, Node, Norm, Row, Stream, walk
from planner.numeric import Num, all_true, maximum, where
from planner.workload import Step

Attention = Literal["eager", "sdpa", "flash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How Megatron's layers compute.

    Attributes
    ----------
    element_bytes : int
        Of an activation. [B]
    attention : str
        ``eager``: scores and probabilities are kept; ``sdpa``: a fused kernel of cuDNN, which reads views of the one
        tensor that the projection wrote; ``flash``: FlashAttention, which is handed copies and whose result is copied.
    hidden_dropout, attention_dropout : float
        Probabilities; without dropout there are no masks. [-]
    float8 : bool
        Matrix products read 8-bit casts, and keep those of their inputs.
    context_parallel : bool or column of bool
        Ranks share a sequence, and what attention keeps of its result is not what is handed on.
    fused_experts : bool
        One kernel computes the activation of gated experts and weights it.
    statistics : bool
        Statistics of norms are counted.
    """

    element_bytes: int = 2
    attention: Attention = "sdpa"
    hidden_dropout: float = 0
    attention_dropout: float = 0
    float8: bool = False
    context_parallel: Any = False
    fused_experts: bool = True
    statistics: bool = True

    @property
    def operand_bytes(self) -> int:
        """Of what a matrix product keeps of its input. [B]"""
        return 1 if self.float8 else self.element_bytes


def megatron_saved(tree: Node, step: Step, engine: Engine) -> tuple[SavedTensor, ...]:
    """Everything that is kept of one micro-batch, in the order of the forward pass.

    Parameters
    ----------
    tree : Node
        The model.
    step : Step
        Samples and tokens.
    engine : Engine
        How layers compute.
    """
    rows = list(walk(tree))
    layers = layers_of(rows)
    result: list[SavedTensor] = []
    behind = False
    seen: set[str] = set()
    for row in rows:
        if "*" in row.path:
            behind = True
            name = row.path.split(".*", 1)[0]
            if name not in seen:
                seen.add(name)
                for layer in layers:
                    if layer.path == f"{name}.*":
                        result += _Block(layer, step, engine).saved()
        else:
            result += _outside(row, step, engine, behind=behind)
    return tuple(result)


def megatron_gradients(tree: Node, step: Step, engine: Engine) -> tuple[SavedTensor, ...]:
    """Gradients of activations that are alive at once while a block of each kind is differentiated.

    The gradient of an MLP's first product is made while that of the second's input is still there, which by then
    has taken the place of that input.
    """
    result = []
    for layer in layers_of(list(walk(tree))):
        block = _Block(layer, step, engine)
        wide: Num = 0
        for mlp in layer.mlps:
            wide = maximum(wide, maximum(mlp.first, mlp.second))
        for routed in layer.routed:
            experts = routed.experts
            first = experts.intermediate_size * (2 if experts.gated else 1)
            wide = maximum(wide, experts.top_k * first)
        result.append(block.tensor(layer.path, "gradients in an MLP", wide, split="tensor"))
        result.append(block.tensor(layer.path, "gradients of the residual", 2 * layer.hidden))
    return tuple(result)


def _outside(row: Row, step: Step, engine: Engine, *, behind: bool) -> Iterator[SavedTensor]:
    """What is kept outside of the blocks: the mask of the embeddings' dropout, the last norm, and the head's input."""
    leaf = row.leaf
    tokens = positions(row.stream, step)
    part = "head" if behind else "embedding"

    def tensor(name: str, size: Num) -> SavedTensor:
        return SavedTensor(path=row.path, name=name, size_bytes=size, copies=row.copies, indices=row.indices, part=part)

    if isinstance(leaf, Embedding) and row.bucket.endswith("embeddings.token") and engine.hidden_dropout:
        yield tensor("dropout mask", activation_bytes(tokens, leaf.embedding_dim, 1))
    elif isinstance(leaf, Norm):
        yield tensor("norm input", activation_bytes(tokens, leaf.dim, engine.element_bytes))
        if engine.statistics:
            yield tensor("statistics", statistics_bytes(tokens, 2 if leaf.bias else 1, 4))
    elif isinstance(leaf, Linear) and row.bucket.endswith("lm_head"):
        yield tensor("input", activation_bytes(tokens, leaf.in_features, engine.element_bytes))
        if not leaf.yields_logits:
            yield tensor("activation input", activation_bytes(tokens, leaf.out_features, engine.element_bytes))


class _Block:
    """One kind of block."""

    def __init__(self, layer: Layer, step: Step, engine: Engine) -> None:
        self.layer, self.step, self.engine = layer, step, engine
        self.has_bias = any(isinstance(row.leaf, Norm) and row.leaf.bias for row in layer.rows)

    def saved(self) -> Iterator[SavedTensor]:
        """Tensors in the order of the sublayers."""
        layer = self.layer
        for attention in layer.attentions:
            yield from self._attention(attention)
        for scan in layer.scans:
            yield from self._scan(scan)
        for mlp in layer.mlps:
            yield from self._sublayer(mlp.path, mlp.stream, mlp.hidden, normed="mlp")
            yield from self._mlp(mlp, "mlp")
        for routed in layer.routed:
            yield from self._routed(routed)

    def tensor(
        self,
        path: str,
        name: str,
        features: Num,
        *,
        stream: Stream | None = None,
        element_bytes: Num | None = None,
        split: Split = "sequence",
        part: str = "residual",
    ) -> SavedTensor:
        """One vector a token."""
        size = self.engine.element_bytes if element_bytes is None else element_bytes
        return self.sized(path, name, activation_bytes(self._tokens(stream), features, size), split=split, part=part)

    def sized(
        self, path: str, name: str, size_bytes: Num, *, split: Split = "sequence", part: str = "residual"
    ) -> SavedTensor:
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

    def _tokens(self, stream: Stream | None) -> Num:
        return positions(stream or self.layer.rows[0].stream, self.step)

    def _sublayer(
        self, path: str, stream: Stream, hidden: Num, *, normed: str = "norm", normed_bytes: int | None = None
    ) -> Iterator[SavedTensor]:
        """What stands around a sublayer: the norm before it, and dropout behind it."""
        width = self.engine.operand_bytes if normed_bytes is None else normed_bytes
        yield self.tensor(path, "norm input", hidden, stream=stream)
        if self.engine.statistics:
            statistics = statistics_bytes(self._tokens(stream), 2 if self.has_bias else 1, 4)
            yield self.sized(path, "statistics", statistics, part=normed)
        yield self.tensor(path, "normed", hidden, stream=stream, element_bytes=width, part="norm")
        if self.engine.hidden_dropout:
            yield self.tensor(path, "dropout mask", hidden, stream=stream, element_bytes=1)

    def _attention(self, part: AttentionPart) -> Iterator[SavedTensor]:
        row, core, engine = part.row, part.core, self.engine
        path = row.path
        yield from self._sublayer(path, row.stream, part.hidden)
        source = core.key_stream or row.stream
        queries = core.num_heads * core.qk_head_dim
        keys = part.kv_heads * core.qk_head_dim
        values = part.kv_heads * core.v_head_dim
        result = core.num_heads * core.v_head_dim
        if part.latent is not None:
            yield from self._latents(part)
        up = "mla_up" if part.latent is not None else "attention"
        yield self.tensor(path, "queries", queries, stream=row.stream, split="tensor", part=up)
        yield self.tensor(path, "keys and values", keys + values, stream=source, split="tensor", part=up)
        if part.normed_heads:
            yield self.tensor(path, "queries before their norm", queries, stream=row.stream, split="tensor")
            yield self.tensor(path, "keys before their norm", keys, stream=source, split="tensor")
        yield from self._core(part)
        yield self.tensor(path, "output", result, stream=row.stream, split="tensor", part="attention")
        if engine.float8:
            yield self.tensor(path, "8-bit output", result, stream=row.stream, element_bytes=1, split="tensor")

    def _core(self, part: AttentionPart) -> Iterator[SavedTensor]:
        """Scores, or what a fused kernel keeps in their place."""
        row, core, engine = part.row, part.core, self.engine
        pairs = attention_pairs(core, row.stream, self.step)

        def scores(name: str, element_bytes: Num) -> SavedTensor:
            size = score_bytes(pairs.executed, core.num_heads, element_bytes)
            return self.sized(row.path, name, size, split="tensor", part="core_attention")

        if engine.attention == "eager":
            yield scores("probabilities", engine.element_bytes)
            if engine.attention_dropout:
                yield scores("dropout mask", 1)
                yield scores("dropped probabilities", engine.element_bytes)
            return
        size = log_sum_exp_bytes(pairs.sequences, core.num_heads, pairs.queries)
        yield self.sized(row.path, "log-sum-exp", size, split="tensor", part="core_attention")
        copied = 1 if engine.attention == "flash" else where(engine.context_parallel, 1, 0)
        if not all_true(copied == 0):
            result = copied * core.num_heads * core.v_head_dim
            yield self.tensor(
                row.path, "output of the kernel", result, stream=row.stream, split="tensor", part="core_attention"
            )

    def _latents(self, part: AttentionPart) -> Iterator[SavedTensor]:
        """MLA: the latents before and behind their norms; every rank holds those of its tokens."""
        path, stream = part.row.path, part.row.stream
        assert part.latent is not None  # noqa: S101 - asked by the caller
        for name, width in (("queries' latent", part.query_latent), ("latent", part.latent)):
            yield self.tensor(path, name, width, stream=stream)
            yield self.tensor(path, f"normed {name}", width, stream=stream, element_bytes=self.engine.operand_bytes)
        yield self.tensor(path, "rotated part of a key", part.rotated, stream=stream)

    def _mlp(self, mlp: MlpPart, part: str) -> Iterator[SavedTensor]:
        yield self.tensor(mlp.path, "activation input", mlp.first, stream=mlp.stream, split="tensor", part=part)
        size = self.engine.operand_bytes
        yield self.tensor(
            mlp.path, "activation", mlp.second, stream=mlp.stream, element_bytes=size, split="tensor", part=part
        )

    def _routed(self, routed: RoutedPart) -> Iterator[SavedTensor]:
        row, experts, engine = routed.row, routed.experts, self.engine
        path, stream = row.path, row.stream
        wide = engine.element_bytes
        # The router reads the normed tokens themselves, so they are kept in full.
        yield from self._sublayer(path, stream, experts.hidden_size, normed_bytes=wide)
        per_score = 4 + wide + 1  # softmax in fp32, weights of the chosen, and the map of the choice
        yield self.tensor(path, "router", experts.num_experts, stream=stream, element_bytes=per_score, part="router")
        visits = experts.top_k
        # Of a visit: the token's position, and the weight of its expert in fp32.
        yield self.tensor(path, "choice", visits, stream=stream, element_bytes=8 + 4, part="router")
        operand = engine.operand_bytes
        first = visits * experts.intermediate_size * (2 if experts.gated else 1)
        inner = visits * experts.intermediate_size
        yield self.tensor(
            path,
            "visiting tokens",
            visits * experts.hidden_size,
            stream=stream,
            element_bytes=operand,
            split="expert",
            part="moe",
        )
        yield self.tensor(path, "activation input", first, stream=stream, split="tensor", part="moe")
        if not (experts.gated and engine.fused_experts):
            yield self.tensor(path, "before its weight", inner, stream=stream, split="tensor", part="moe_activation")
        yield self.tensor(
            path, "activation", inner, stream=stream, element_bytes=operand, split="tensor", part="moe_activation"
        )
        for mlp in routed.shared:
            yield from self._mlp(mlp, "shared_experts")

    def _scan(self, scan: ScanPart) -> Iterator[SavedTensor]:
        """Mamba-2: what its fused kernel reads, and what it hands to the norm and the last matrix."""
        row = scan.row
        yield from self._sublayer(row.path, row.stream, scan.hidden)
        yield self.tensor(row.path, "projected", scan.projected, stream=row.stream, split="tensor", part="scan")
        yield self.tensor(row.path, "scanned", scan.inner, stream=row.stream, split="tensor", part="scan")
        yield self.tensor(row.path, "before its norm", scan.inner, stream=row.stream, split="tensor", part="scan")
        yield self.tensor(row.path, "output", scan.inner, stream=row.stream, split="tensor", part="scan")
