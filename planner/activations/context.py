"""What a fold over a tree carries along while it plays a forward pass on a tape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from planner.activations.tape import Dtype, Tape, Value, Weight
from planner.compute import positions
from planner.counts import tensors
from planner.formulas.activations import statistics_elements
from planner.nodes import Norm, Parameter, Place, Row, Style
from planner.numeric import Num
from planner.workload import Step

AttentionKernel = Literal["eager", "sdpa", "flash"]
ExpertKernel = Literal["grouped_mm", "batched_mm", "eager"]


@dataclass(slots=True, kw_only=True)
class Context:
    """One forward pass that is played.

    Attributes
    ----------
    tape : Tape
        What notes the tensors that are kept.
    step : Step
        How many tokens.
    attention, experts : str
        Implementations in transformers.
    hidden_dropout, attention_dropout : float
        Probabilities; 0 leaves the operator out. [-]
    trains, adapted : callable
        Whether the weights of a row get gradients, and whether an adapter that does reads the row's input.
    input_needs_grad : bool
        Whether the embedded tokens get a gradient even where no table trains.
    checkpointing : bool
        Whether blocks keep their input only, and are computed again in backward.
    trunk : Place
        Where the tensors stand that all blocks of a stack share.
    source : Value or None
        What an encoder yielded.
    shared : dict
        Tensors that blocks share, by what they are.
    """

    tape: Tape
    step: Step
    attention: AttentionKernel
    experts: ExpertKernel
    hidden_dropout: float
    attention_dropout: float
    trains: Callable[[Row], bool]
    adapted: Callable[[Row], bool]
    input_needs_grad: bool
    checkpointing: bool
    trunk: Place = field(default_factory=Place)
    source: Value | None = None
    shared: dict[tuple[object, ...], Value] = field(default_factory=dict)

    @property
    def dtype(self) -> Dtype:
        """Of the weights."""
        return self.tape.arithmetic.weights

    def weight(self, row: Row, part: int = 0) -> Weight:
        """Main tensor of a row; `part` picks another one."""
        held = tensors(row.leaf)
        elements = held[part].numel if held else 0
        return Weight(elements=elements, trains=self.trains(row), input_read=self.adapted(row))

    def positions(self, row: Row) -> Num:
        """Positions that pass a row. [token]"""
        return positions(row.stream, self.step)


def norm(context: Context, row: Row, value: Value, style: Style) -> Value:
    """A norm over vectors of its width, as the class computes it."""
    leaf, tape = row.leaf, context.tape
    # A gain of several heads, each with its own, is a bare tensor.
    assert isinstance(leaf, (Norm, Parameter))  # noqa: S101 - what a caller looked up
    dim = leaf.dim if isinstance(leaf, Norm) else leaf.shape[-1]
    weight = context.weight(row)
    plain = isinstance(leaf, Norm) and leaf.bias and style.norm != "layer_plus_one"
    kind = "layer" if plain else style.norm
    with tape.at(_at(tape, row), part="norm"):
        if kind == "layer_plus_one" and value.needs_grad:
            tape.keep(tape.new(weight.elements, context.dtype, needs_grad=False), "one plus gain")
        if kind in ("layer", "layer_plus_one", "rms_fused"):
            return _fused_norm(tape, value, weight, dim, statistics=1 if kind == "rms_fused" else 2)
        wide = tape.cast(value, "fp32")
        if kind == "layer_wide":
            return _layer_by_operators(tape, value, wide, weight, dim)
        square = tape.by_input(wide, "fp32 copy" if wide is not value else "input")
        mean = tape.new(statistics_elements(value.elements, dim, 1), "fp32", needs_grad=square.needs_grad)
        root = tape.by_result(mean, "reciprocal root")
        normed = tape.multiply(value if kind == "rms_late" else wide, root, ("input", "reciprocal root"))
        if kind == "rms_plus_one":
            return tape.cast(_one_plus_gain(tape, normed, weight), value.dtype)
        if kind == "rms_cast_gain" and context.dtype == "bf16":
            gain = tape.new(weight.elements, "fp32", needs_grad=weight.trains)
            return tape.cast(tape.multiply(normed, gain, ("normalised", "gain in fp32")), value.dtype)
        if kind in ("rms_wide", "rms_cast_gain"):
            return tape.cast(tape.gain(normed, weight), value.dtype)
        # The late kind casts to the dtype of the gain, and to that only where it is narrow.
        narrow = value.dtype if kind == "rms" or context.dtype == "bf16" else normed.dtype
        result = tape.gain(tape.cast(normed, narrow), weight)
        wider: Dtype = "fp32" if "fp32" in (narrow, context.dtype) else narrow
        return tape.cast(result, wider)


def bare_norm(context: Context, value: Value, dim: Num) -> Value:
    """A LayerNorm in fp32 that has no parameters."""
    tape = context.tape
    with tape.at(part="norm"):
        wide = tape.cast(value, "fp32")
        if value.needs_grad:
            tape.keep(wide, "input")
            numbers = statistics_elements(value.elements, dim, 2)
            tape.keep(tape.new(numbers, "fp32", needs_grad=False), "statistics")
        return tape.cast(tape.like(wide), value.dtype)


def _at(tape: Tape, row: Row) -> Place:
    return replace(tape.place, path=row.path)


def _one_plus_gain(tape: Tape, normed: Value, weight: Weight) -> Value:
    gain = tape.new(weight.elements, "fp32", needs_grad=weight.trains)
    return tape.multiply(normed, gain, ("normalised", "one plus gain"))


def _layer_by_operators(tape: Tape, value: Value, wide: Value, weight: Weight, dim: Num) -> Value:
    """Deviations from the mean are computed twice, once to be squared and once to be divided."""
    square = tape.by_input(tape.add(wide, wide), "deviation")
    variance = tape.new(statistics_elements(value.elements, dim, 1), "fp32", needs_grad=square.needs_grad)
    root = tape.by_result(variance, "reciprocal root")
    normed = tape.multiply(tape.add(wide, wide), root, ("deviation", "reciprocal root"))
    gain = tape.new(weight.elements, "fp32", needs_grad=weight.trains)
    if tape.arithmetic.weights == "fp32":
        return tape.cast(tape.gain(normed, weight), value.dtype)
    return tape.cast(tape.multiply(normed, gain, ("normalised", "gain in fp32")), value.dtype)


def _fused_norm(tape: Tape, value: Value, weight: Weight, dim: Num, *, statistics: int) -> Value:
    """One kernel, which keeps its input and a few numbers a vector: in fp32, but on a CPU in bf16 where all else is."""
    arithmetic = tape.arithmetic
    operand = tape.cast(value, "fp32") if arithmetic.autocast and arithmetic.device == "cuda" else value
    if value.needs_grad or weight.trains:
        tape.keep(operand, "input")
        narrow = operand.dtype == arithmetic.weights == "bf16" and arithmetic.device == "cpu"
        numbers: Dtype = "bf16" if narrow else "fp32"
        kept = tape.new(statistics_elements(value.elements, dim, statistics), numbers, needs_grad=False)
        tape.keep(kept, "statistics")
    return tape.like(operand, needs_grad=value.needs_grad or weight.trains)
