"""What autograd keeps when litgpt's own modules train: whole, with LoRA, or with a LLaMA-Adapter.

litgpt has one matrix for queries, keys and values, of which the values stay a view; it turns queries and keys out of
place; its RMSNorm computes in fp32. The modules are played operator by operator, so that frozen weights, and blocks
that lie below everything that trains, keep what the operators then need. A plain MLP stands for a GPT-NeoX block, whose
attention and MLP read the same input; a gated one for a Llama block. Measured with saved-tensor hooks on litgpt's own
modules, in which a CPU keeps dropout masks in 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal

from planner.activations.block import parsed
from planner.activations.layers import check_dense, layers_of
from planner.activations.saved import SavedTensor
from planner.activations.tape import Arithmetic, Tape, Value, Weight
from planner.compute import attention_pairs, positions
from planner.formulas.activations import log_sum_exp_elements, statistics_elements
from planner.nodes import Attention, Linear, Node, Norm, Place, Row, walk
from planner.numeric import Num, all_true
from planner.workload import Step

Method = Literal["full", "lora", "adapter", "adapter_v2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What of a model trains.

    Attributes
    ----------
    method : str
        ``full``; ``lora``; ``adapter``, a prompt that the upper blocks attend to; ``adapter_v2``, a scale and a bias of
        every matrix besides, and the norms.
    rank : Num
        Of LoRA. [-]
    adapted : callable
        Whether LoRA changes what a row's matrix yields.
    dropout : float
        Of LoRA's input. [-]
    first_block : int
        First block that attends to the prompt. [-]
    packed : bool
        Whether the frozen matrices of blocks are stored by bitsandbytes, whose product keeps its input although the
        weight is frozen.
    """

    method: Method = "full"
    rank: Num = 8
    adapted: Callable[[Row], bool] = field(default=lambda _: False)
    dropout: float = 0.05
    first_block: int = 2
    packed: bool = False


def litgpt_saved(
    tree: Node, step: Step, tuning: Tuning, *, device: Literal["cpu", "cuda"] = "cuda"
) -> tuple[SavedTensor, ...]:
    """Tensors that autograd keeps from the forward pass of one step, without the loss.

    Parameters
    ----------
    tree : Node
        A decoder.
    step : Step
        Samples and tokens.
    tuning : Tuning
        What trains.
    device : str
        On CUDA a dropped element is a byte of a mask, and statistics of norms are fp32.

    Returns
    -------
    tuple of SavedTensor
        Each in bytes of one copy.

    Raises
    ------
    PlannerError
        The model has routed experts or recurrences.
    """
    play = _Lit(Tape(Arithmetic(weights="bf16", device=device)), step, tuning)
    groups: dict[object, list[Row]] = {}
    outside: list[Row] = []
    rows = list(walk(tree))
    check_dense(layers_of(rows), "litgpt")
    for row in rows:
        if "*" in row.path:
            outer = row.indices[0]
            groups.setdefault((row.path.split(".*", 1)[0], None if outer is None else tuple(outer)), []).append(row)
        else:
            outside.append(row)
    needs_grad = tuning.method == "full"
    for alike in groups.values():
        for part, prompted in _split(alike, tuning, needs_grad=needs_grad):
            needs_grad = play.block(part, needs_grad=needs_grad, prompted=prompted)
    play.behind(outside, needs_grad=needs_grad)
    return play.tape.saved()


def _split(rows: list[Row], tuning: Tuning, *, needs_grad: bool) -> Iterator[tuple[list[Row], bool]]:
    """Blocks that are alike: those below the prompt, the first block with a gradient, and those above it."""
    indices = rows[0].indices[0]
    if indices is None:
        yield rows, tuning.method in ("adapter", "adapter_v2")
        return
    has_prompt = tuning.method in ("adapter", "adapter_v2")
    start = tuning.first_block if has_prompt else 0
    bounds = [(0, min(1, start)), (min(1, start), start), (start, start + 1), (start + 1, len(indices))]
    for low, high in bounds if not needs_grad else [(0, len(indices))]:
        chosen = tuple(indices)[low:high]
        if chosen:
            yield [_only(row, chosen) for row in rows], has_prompt and low >= start


def _only(row: Row, indices: tuple[int, ...]) -> Row:
    outer = row.indices[0]
    assert outer is not None  # noqa: S101 - a caller's choice
    return replace(row, copies=row.copies // len(outer) * len(indices), indices=(indices, *row.indices[1:]))


class _Lit:
    """Plays litgpt's modules."""

    def __init__(self, tape: Tape, step: Step, tuning: Tuning) -> None:
        self.tape, self._step, self._tuning = tape, step, tuning

    def block(self, rows: list[Row], *, needs_grad: bool, prompted: bool) -> bool:
        """Play one block; whether a gradient flows into its output."""
        sublayers, norms = parsed(rows)
        first = next(row for row in rows if isinstance(row.leaf, Linear))
        leaf = first.leaf
        assert isinstance(leaf, Linear)  # noqa: S101 - chosen so
        width = positions(first.stream, self._step) * leaf.in_features
        with self._at(rows[0]):
            entering = self.tape.new(width, "bf16", needs_grad=needs_grad)
        value = entering
        for index, sublayer in enumerate(sublayers):
            linears = [row for row in sublayer.rows if isinstance(row.leaf, Linear)]
            parallel = len(sublayers) > 1 and len(sublayers[-1].rows) <= 2
            read = entering if parallel else value
            if index < len(norms):
                read = self._norm(norms[index], read)
            if sublayer.kind == "attention":
                core = next(row for row in sublayer.rows if isinstance(row.leaf, Attention))
                added = self._attention(core, linears, read, prompted=prompted)
            else:
                added = self._mlp(linears, read)
            with self._at(rows[0]):
                value = self.tape.add(value, added)
        return value.needs_grad

    def behind(self, rows: list[Row], *, needs_grad: bool) -> None:
        """Play what follows the blocks: the last norm and the head."""
        value: Value | None = None
        for row in rows:
            leaf = row.leaf
            if isinstance(leaf, Norm):
                with self._at(row):
                    value = self.tape.new(positions(row.stream, self._step) * leaf.dim, "bf16", needs_grad=needs_grad)
                value = self._norm(row, value)
            elif isinstance(leaf, Linear) and value is not None:
                with self.tape.at(part="head"):
                    self._matrix(row, value)

    def _at(self, row: Row) -> AbstractContextManager[None]:
        return self.tape.at(Place(path=row.path, copies=row.copies, indices=row.indices))

    def _norm(self, row: Row, value: Value) -> Value:
        leaf, tape = row.leaf, self.tape
        assert isinstance(leaf, Norm)  # noqa: S101 - a caller's choice
        trains = self._tuning.method in ("full", "adapter_v2")
        with self._at(row), tape.at(part="norm"):
            if leaf.bias:
                if value.needs_grad or trains:
                    tape.keep(value, "input")
                    numbers = statistics_elements(value.elements, leaf.dim, 2)
                    kept = tape.new(numbers, "fp32" if tape.arithmetic.device == "cuda" else "bf16", needs_grad=False)
                    tape.keep(kept, "statistics")
                return tape.like(value, needs_grad=value.needs_grad or trains)
            wide = tape.cast(value, "fp32")
            square = tape.multiply(wide, wide, ("fp32 copy", "fp32 copy"))
            root = tape.new(statistics_elements(value.elements, leaf.dim, 1), "fp32", needs_grad=square.needs_grad)
            if root.needs_grad:
                tape.keep(root, "reciprocal root")
            normed = tape.multiply(wide, root, ("fp32 copy", "reciprocal root"))
            gain = tape.new(leaf.dim, "fp32", needs_grad=trains)
            return tape.cast(tape.multiply(normed, gain, ("normalised", "fp32 gain")), value.dtype)

    def _matrix(self, row: Row, value: Value) -> Value:
        """Product with a weight, and what LoRA or an adapter does to it."""
        leaf, tape, tuning = row.leaf, self.tape, self._tuning
        assert isinstance(leaf, Linear)  # noqa: S101 - a caller's choice
        at = positions(row.stream, self._step)
        out = at * leaf.out_features
        with self._at(row):
            result = tape.linear(value, self._weight(row, value), out)
            if tuning.method == "adapter_v2":
                # Scale times the sum of product and bias: both train.
                summed = tape.like(result, needs_grad=True)
                return tape.gain(summed, Weight(elements=leaf.out_features, trains=True))
            if self._is_adapted(row):
                self._low_rank(value, at * tuning.rank, out)
                return replace(result, needs_grad=True)
            return result

    def _weight(self, row: Row, value: Value) -> Weight:
        packed = self._tuning.packed and "*" in row.path and value.needs_grad
        return Weight(elements=0, trains=self._tuning.method == "full", input_read=packed)

    def _low_rank(self, value: Value, low: Num, high: Num) -> Value:
        """Dropout and two narrow matrices, which yield so many elements."""
        tape = self.tape
        narrow = Weight(elements=0, trains=True)
        dropped = tape.dropout(value, self._tuning.dropout)
        return tape.linear(tape.linear(dropped, narrow, low), narrow, high)

    def _attention(self, core: Row, linears: list[Row], value: Value, *, prompted: bool) -> Value:
        leaf, tape = core.leaf, self.tape
        assert isinstance(leaf, Attention)  # noqa: S101 - a caller's choice
        *readers, writer = linears
        with tape.at(part="attention", split="tensor"):
            fused = self._fused(readers, value)
        at = positions(core.stream, self._step)
        shared = leaf.num_heads if leaf.num_kv_heads is None else leaf.num_kv_heads
        with self._at(core), tape.at(part="core_attention", split="tensor"):
            query = tape.new(at * leaf.num_heads * leaf.qk_head_dim, "bf16", needs_grad=fused.needs_grad)
            key = tape.like(query)
            # Values of all heads are a view; those that several queries share are copied, unless all share one.
            is_view = all_true(shared == leaf.num_heads) or all_true(shared == 1)
            copied = tape.new(at * leaf.num_heads * leaf.v_head_dim, "bf16", needs_grad=fused.needs_grad)
            values = fused if is_view else copied
            mixed = self._core(core, leaf, (query, key, values))
            if prompted:
                # A second product with the prompt's keys and values, times a gate that trains.
                more = self._core(core, leaf, (replace(query, needs_grad=True), None, None))
                tape.keep(more, "output for the prompt")
                mixed = tape.add(mixed, more)
        with tape.at(part="attention"):
            return self._matrix(writer, mixed)

    def _core(self, row: Row, leaf: Attention, operands: tuple[Value, Value | None, Value | None]) -> Value:
        tape = self.tape
        query = operands[0]
        for name, operand in zip(("queries", "keys", "values"), operands, strict=True):
            if operand is not None and query.needs_grad:
                tape.keep(operand, name)
        elements = positions(row.stream, self._step) * leaf.num_heads * leaf.v_head_dim
        out = tape.new(elements, "bf16", needs_grad=query.needs_grad)
        if query.needs_grad:
            tape.keep(out, "output")
            pairs = attention_pairs(leaf, row.stream, self._step)
            sums = log_sum_exp_elements(pairs.sequences, leaf.num_heads, pairs.queries)
            tape.keep(tape.new(sums, "fp32", needs_grad=False), "log-sum-exp")
        return out

    def _fused(self, readers: list[Row], value: Value) -> Value:
        """Queries, keys and values in one matrix, of which LoRA changes some."""
        tape, tuning = self.tape, self._tuning
        widths = [self._leaf(row).out_features for row in readers]
        total: Num = 0
        changed: Num = 0
        count = 0
        for row, width in zip(readers, widths, strict=True):
            total = total + width
            if self._is_adapted(row):
                changed, count = changed + width, count + 1
        row, at = readers[0], positions(readers[0].stream, self._step)
        if not count:
            return self._matrix(replace(row, leaf=replace(self._leaf(row), out_features=total)), value)
        with self._at(row):
            result = tape.linear(value, self._weight(row, value), at * total)
            high = self._low_rank(value, at * tuning.rank * count, at * changed)
            if count < len(readers):
                tape.keep(high, "changed outputs")
                tape.keep(tape.new(changed, "int64", needs_grad=False), "their places")
            return replace(result, needs_grad=True)

    def _mlp(self, linears: list[Row], value: Value) -> Value:
        tape = self.tape
        *readers, writer = linears
        with tape.at(part="mlp"):
            with tape.at(split="tensor"):
                outputs = [self._matrix(row, value) for row in readers]
                with self._at(writer):
                    inner = tape.by_input(outputs[0], "input of the activation")
                    if len(outputs) > 1:
                        inner = tape.multiply(inner, outputs[1], ("activated gate", "up"))
            return self._matrix(writer, inner)

    def _is_adapted(self, row: Row) -> bool:
        return self._tuning.method == "lora" and self._tuning.adapted(row)

    @staticmethod
    def _leaf(row: Row) -> Linear:
        assert isinstance(row.leaf, Linear)  # noqa: S101 - a caller's choice
        return row.leaf
