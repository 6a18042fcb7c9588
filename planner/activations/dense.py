"""MLPs on the tape: matrices, and the nonlinearities between them as transformers computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.activations.context import Context
from planner.activations.tape import Tape, Value
from planner.nodes import Linear, Row, Style
from planner.numeric import Num, all_true


def linear(context: Context, row: Row, value: Value, *, part: str | None = None) -> Value:
    """Product of a row's weight with every position of its stream."""
    leaf, tape = row.leaf, context.tape
    assert isinstance(leaf, Linear)  # noqa: S101 - what a caller looked up
    with tape.at(replace(tape.place, path=row.path), part=part):
        return tape.linear(value, context.weight(row), context.positions(row) * leaf.out_features)


def activated(tape: Tape, value: Value, activation: str) -> Value:
    """A nonlinearity; one that is not known is taken for a single kernel that keeps its input."""
    match activation:
        case "relu":
            return tape.by_result(value, "relu")
        case "relu2":
            return tape.by_input(tape.by_result(value, "relu"), "relu")
        case "tanh" | "sigmoid":
            return tape.by_result(value, activation)
        case "linear" | "identity":
            return value
        case "gelu_new":
            return _gelu_of_python(tape, value)
        case "gelu_fast":
            return _gelu_fast(tape, value)
        case "quick_gelu":
            gate = tape.by_result(tape.scaled(value), "sigmoid")
            return tape.multiply(value, gate, ("input of the activation", "sigmoid"))
        case _:
            return tape.by_input(value, "input of the activation")


def _gelu_of_python(tape: Tape, value: Value) -> Value:
    """0.5 x (1 + tanh(c (x + 0.044715 x^3))), operator by operator."""
    cube = tape.power(value, "input of the activation")
    inner = tape.by_result(tape.scaled(tape.add(value, tape.scaled(cube))), "tanh")
    return tape.multiply(tape.scaled(value), tape.scaled(inner), ("half of the input", "one plus tanh"))


def _gelu_fast(tape: Tape, value: Value) -> Value:
    """0.5 x (1 + tanh(c x (1 + 0.044715 x x))), operator by operator."""
    square = tape.multiply(tape.scaled(value), value, ("scaled input", "input of the activation"))
    inner = tape.multiply(tape.scaled(value), tape.scaled(square), ("scaled input", "one plus square"))
    bent = tape.by_result(inner, "tanh")
    return tape.multiply(tape.scaled(value), tape.scaled(bent), ("half of the input", "one plus tanh"))


def gated(tape: Tape, gate: Value, up: Value, style: Style) -> Value:
    """Activation of one half times the other."""
    if not style.gate_clamped:
        return tape.multiply(activated(tape, gate, style.activation), up, ("activated gate", "up"))
    gate, up = tape.by_input(gate, "gate"), tape.by_input(up, "up")
    share = tape.by_result(tape.scaled(gate), "sigmoid")
    activated_gate = tape.multiply(gate, share, ("clamped gate", "sigmoid"))
    return tape.multiply(tape.scaled(up), activated_gate, ("one plus up", "activated gate"))


def mlp(context: Context, rows: Sequence[Row], value: Value, style: Style, *, part: str = "mlp") -> Value:
    """Matrices of an MLP: those that read its input, a nonlinearity, and the one that writes its output.

    The last is the one that is as wide as what the others yield; where there are two readers, one gates the other, and
    so do the halves of one that is twice as wide.
    """
    tape, (*readers, writer) = context.tape, rows
    with tape.at(part=part):
        outputs = []
        for row in readers:
            with tape.at(split="tensor"):
                outputs.append(linear(context, row, value))
        with tape.at(replace(tape.place, path=_holder((readers or rows)[-1].path)), split="tensor"):
            if len(outputs) > 1:
                hidden = gated(tape, outputs[0], outputs[1], style)
            elif _is_doubled(readers, writer):
                gate, half = (tape.view(outputs[0], elements=outputs[0].elements // 2) for _ in range(2))
                hidden = gated(tape, gate, half, style)
            else:
                hidden = activated(tape, outputs[0], style.activation) if outputs else value
            if style.mlp_recast:
                hidden = tape.cast(hidden, context.dtype)
        return linear(context, writer, hidden)


def _is_doubled(readers: Sequence[Row], writer: Row) -> bool:
    return bool(readers) and all_true(_out(readers[0]) == 2 * _in(writer))


def _out(row: Row) -> Num:
    assert isinstance(row.leaf, Linear)  # noqa: S101 - what a caller looked up
    return row.leaf.out_features


def _in(row: Row) -> Num:
    assert isinstance(row.leaf, Linear)  # noqa: S101 - what a caller looked up
    return row.leaf.in_features


def _holder(path: str) -> str:
    return path.rpartition(".")[0]
