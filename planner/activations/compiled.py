"""What autograd keeps of a block that torch.compile fuses, with and without torchtitan's list of kept operators.

The min-cut partitioner of torch.compile keeps what matrix products and attention read or yield, and computes what lies
between them again: of a norm it keeps a reciprocal root a vector, of rotary embeddings and casts nothing. So a block
keeps its input, the normed inputs of its matrices, queries, keys, values, the output of attention and its log-sum-exp,
the sum's second term in the middle, and, of an MLP, what its readers yield and what its writer reads.

Under per-operator checkpointing only the results of every second matrix product and of attention are kept; a result
that no gradient needs, such as that of the last matrix, is kept by the eager cache and dropped by the compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.activations.attend import OUTPUTS
from planner.activations.block import Sublayer, parsed
from planner.activations.saved import SavedTensor, Split
from planner.compute import attention_pairs, positions
from planner.counts import tensors
from planner.formulas.activations import log_sum_exp_elements, statistics_elements, tensor_bytes
from planner.nodes import Attention, Experts, Linear, Node, Norm, Row, walk
from planner.numeric import Num, all_true, maximum
from planner.workload import Step

STATISTIC_BYTES = 4
"""Of a norm's reciprocal root, and of attention's log-sum-exp: fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Leaves of one kind of block."""

    rows: tuple[Row, ...]
    sublayers: tuple[Sublayer, ...]
    norms: tuple[Row, ...]
    hidden: Num
    tokens: Num


def compiled_saved(
    tree: Node,
    step: Step,
    *,
    per_op: bool = False,
    cached_results: bool = False,
    autocast: bool = False,
    element_bytes: int = 2,
) -> tuple[SavedTensor, ...]:
    """Tensors that a forward pass leaves for backward, block by block and outside of the blocks.

    Parameters
    ----------
    tree : Node
        The model.
    step : Step
        Samples and tokens.
    per_op : bool
        Whether only the results of every second matrix product and of attention are kept.
    cached_results : bool
        Under `per_op`: whether results are kept that no gradient needs, as the eager cache does.
    autocast : bool
        Whether products run in 16 bits on fp32 weights: each keeps a copy of its weight, and the residual stream that
        norms read is fp32.
    element_bytes : int
        Of an activation. [B]

    Returns
    -------
    tuple of SavedTensor
        Each in bytes of one copy, before any rank divides it.
    """
    play = _Fused(step, element_bytes, 4 if autocast else element_bytes)
    result: list[SavedTensor] = []
    for block in _blocks(tree, step):
        result += play.per_operator(block, cached=cached_results) if per_op else play.whole(block)
    if autocast:
        result += play.weight_copies(tree)
    return (*result, *play.outside(tree))


def _blocks(tree: Node, step: Step) -> Iterator[_Block]:
    """Repeated blocks of the text model, each kind once."""
    groups: dict[object, list[Row]] = {}
    for row in walk(tree):
        if "*" in row.path:
            outer = row.indices[0]
            stack = row.path.split(".*", 1)[0]
            groups.setdefault((stack, None if outer is None else tuple(outer)), []).append(row)
    for rows in groups.values():
        sublayers, norms = parsed(rows)
        linears = [row for row in rows if isinstance(row.leaf, Linear)]
        if not linears:
            continue
        first = linears[0].leaf
        assert isinstance(first, Linear)  # noqa: S101 - chosen so
        yield _Block(
            rows=tuple(rows),
            sublayers=tuple(sublayers),
            norms=tuple(norms),
            hidden=first.in_features,
            tokens=positions(linears[0].stream, step),
        )


class _Fused:
    """Lists what is kept, in bytes of a step."""

    def __init__(self, step: Step, element_bytes: int, residual_bytes: int) -> None:
        self._step, self._bytes, self._residual_bytes = step, element_bytes, residual_bytes

    def whole(self, block: _Block) -> list[SavedTensor]:
        """Everything that the partitioner keeps of a block."""
        first = block.rows[0]
        kept = [self._input(block)]
        for row in block.norms:
            kept.append(self._statistics(row, block.tokens * block.hidden, block.hidden))
        parallel = len(block.norms) < len(block.sublayers)
        for index, sublayer in enumerate(block.sublayers):
            if index == 0 or not parallel or len(block.norms) > 1:
                kept.append(self._of(sublayer.rows[0], "normed input", block.tokens * block.hidden, "norm", "none"))
            if sublayer.kind == "attention":
                kept += self._attention(sublayer)
            elif sublayer.kind == "routed":
                kept += self._routed(sublayer, block)
            else:
                kept += self._mlp(sublayer)
            if index + 1 < len(block.sublayers) and not parallel:
                kept.append(self._residual(first, "sum's second term", block))
        return kept

    def per_operator(self, block: _Block, *, cached: bool) -> list[SavedTensor]:
        """Block input, results of every second matrix product, and attention's result."""
        kept = [self._input(block)]
        linears = [row for row in block.rows if isinstance(row.leaf, Linear)]
        for position, row in enumerate(linears):
            last = position == len(linears) - 1
            if position % 2 == 0 and (cached or not last):
                kept.append(self._result(row))
        for row in block.rows:
            if isinstance(row.leaf, Attention):
                kept += self._attention_result(row)
        return kept

    def outside(self, tree: Node) -> Iterator[SavedTensor]:
        """Input of the last norm, its statistics, and what the head reads."""
        rows = [row for row in walk(tree) if "*" not in row.path]
        for row in rows:
            leaf = row.leaf
            if isinstance(leaf, Norm):
                elements = positions(row.stream, self._step) * leaf.dim
                yield self._of(row, "input", elements, "norm", "sequence")
                yield self._statistics(row, elements, leaf.dim)
            elif isinstance(leaf, Linear):
                elements = positions(row.stream, self._step) * leaf.in_features
                yield self._of(row, "input", elements, "head", "none")

    def _input(self, block: _Block) -> SavedTensor:
        return self._residual(block.rows[0], "input of the block", block)

    def _residual(self, row: Row, name: str, block: _Block) -> SavedTensor:
        size = tensor_bytes(block.tokens * block.hidden, self._residual_bytes)
        return _saved(row, name, size, "residual", "sequence")

    def weight_copies(self, tree: Node) -> Iterator[SavedTensor]:
        """A copy of each multiplied weight in the dtype of the products."""
        for row in walk(tree):
            for tensor in tensors(row.leaf):
                if tensor.matrices is not None:
                    size = tensor_bytes(tensor.numel, self._bytes)
                    yield _saved(row, f"copy of {tensor.name}", size, "mlp", "tensor")

    def _attention(self, sublayer: Sublayer) -> Iterator[SavedTensor]:
        (core, *_) = (row for row in sublayer.rows if isinstance(row.leaf, Attention))
        leaf = core.leaf
        assert isinstance(leaf, Attention)  # noqa: S101 - chosen so
        at = positions(core.stream, self._step)
        shared = leaf.num_heads if leaf.num_kv_heads is None else leaf.num_kv_heads
        widths = (
            ("queries", leaf.num_heads * leaf.qk_head_dim),
            ("keys", shared * leaf.qk_head_dim),
            ("values", shared * leaf.v_head_dim),
        )
        for name, width in widths:
            yield self._of(core, name, at * width, "core_attention", "tensor")
        for row in sublayer.rows:
            if isinstance(row.leaf, Norm):
                # A norm of queries, keys or a latent keeps its input beside the result that attention reads.
                heads = 1 if not row.path.endswith(("q_norm", "k_norm")) else leaf.num_heads
                heads = shared if row.path.endswith("k_norm") else heads
                yield self._of(row, "input", at * heads * row.leaf.dim, "norm", "tensor")
        yield from self._attention_result(core)

    def _attention_result(self, core: Row) -> Iterator[SavedTensor]:
        leaf = core.leaf
        assert isinstance(leaf, Attention)  # noqa: S101 - a caller's choice
        at = positions(core.stream, self._step)
        yield self._of(core, "output", at * leaf.num_heads * leaf.v_head_dim, "core_attention", "tensor")
        pairs = attention_pairs(leaf, core.stream, self._step)
        sums = log_sum_exp_elements(pairs.sequences, leaf.num_heads, pairs.queries)
        yield _saved(core, "log-sum-exp", tensor_bytes(sums, STATISTIC_BYTES), "core_attention", "tensor")

    def _mlp(self, sublayer: Sublayer) -> Iterator[SavedTensor]:
        linears = [row for row in sublayer.rows if isinstance(row.leaf, Linear)]
        if not linears:
            return
        *readers, writer = linears
        for row in readers:
            yield self._result(row)
        leaf = writer.leaf
        assert isinstance(leaf, Linear)  # noqa: S101 - chosen so
        yield self._of(writer, "input", positions(writer.stream, self._step) * leaf.in_features, "mlp", "tensor")

    def _routed(self, sublayer: Sublayer, block: _Block) -> Iterator[SavedTensor]:
        """Tokens in the order of their experts, what the experts' matrices yield and read, and the shared ones."""
        others = []
        for row in sublayer.rows:
            leaf = row.leaf
            if isinstance(leaf, Experts):
                visits = block.tokens * leaf.top_k
                inner = (2 if leaf.gated else 1) * leaf.intermediate_size
                yield self._of(row, "tokens by expert", visits * leaf.hidden_size, "moe", "none")
                yield self._of(row, "gate and up", visits * inner, "moe", "tensor")
                yield self._of(row, "activated", visits * leaf.intermediate_size, "moe_activation", "tensor")
                yield self._of(row, "output", visits * leaf.hidden_size, "moe", "none")
            elif isinstance(leaf, Linear) and all_true(leaf.out_features < leaf.in_features) and _is_router(row):
                yield self._scores(row, leaf.out_features)
            else:
                others.append(row)
        if any(isinstance(row.leaf, Linear) for row in others):
            yield from self._mlp(Sublayer("mlp", tuple(others)))

    def _scores(self, row: Row, experts: Num) -> SavedTensor:
        size = tensor_bytes(positions(row.stream, self._step) * experts, STATISTIC_BYTES)
        return _saved(row, "scores", size, "router", "none")

    def _result(self, row: Row) -> SavedTensor:
        leaf = row.leaf
        assert isinstance(leaf, Linear)  # noqa: S101 - a caller's choice
        last = row.path.rpartition(".")[2]
        writes = last in OUTPUTS or last in ("down_proj", "w2", "fc2")
        elements = positions(row.stream, self._step) * leaf.out_features
        return self._of(row, "result", elements, "mlp", "sequence" if writes else "tensor")

    def _statistics(self, row: Row, elements: Num, dim: Num) -> SavedTensor:
        numbers = 2 if isinstance(row.leaf, Norm) and row.leaf.bias else 1
        size = tensor_bytes(statistics_elements(elements, dim, numbers), STATISTIC_BYTES)
        return _saved(row, "statistics", size, "norm", "sequence")

    def _of(self, row: Row, name: str, elements: Num, part: str, split: Split) -> SavedTensor:
        return _saved(row, name, tensor_bytes(elements, self._bytes), part, split)


def _is_router(row: Row) -> bool:
    return row.path.rpartition(".")[2] in ("gate", "router", "wg")


def _saved(row: Row, name: str, size: Num, part: str, split: Split) -> SavedTensor:
    return SavedTensor(
        path=row.path, name=name, size_bytes=size, copies=row.copies, indices=row.indices, part=part, split=split
    )


def gradients_at_work(tree: Node, step: Step, element_bytes: int = 2) -> Num:
    """Gradients of activations that a block's backward makes at its fullest, before any rank divides them. [B]

    Where the gradient of an MLP's inner result becomes those of what its readers yielded, all of them are there, while
    the inner result itself is gone: as much as the readers yield, and the gradient of the block's output.
    """
    most: Num = 0
    for block in _blocks(tree, step):
        widest: Num = 0
        for sublayer in block.sublayers:
            widest = maximum(widest, _readers_width(sublayer))
        most = maximum(most, tensor_bytes(block.tokens * (widest + block.hidden), element_bytes))
    return most


def _readers_width(sublayer: Sublayer) -> Num:
    """What the matrices that read a sublayer's input yield for each position. [-]"""
    experts = [row.leaf for row in sublayer.rows if isinstance(row.leaf, Experts)]
    linears = [row.leaf for row in sublayer.rows if isinstance(row.leaf, Linear)]
    width: Num = 0
    if experts:
        for leaf in experts:
            width = width + leaf.top_k * (2 if leaf.gated else 1) * leaf.intermediate_size
        return width
    for linear in linears[:-1]:
        width = width + linear.out_features
    return width
