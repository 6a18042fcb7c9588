"""Routed experts on the tape: the router's choice, and the products of every expert with its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.activations.context import Context
from planner.activations.dense import activated, gated, linear, mlp
from planner.activations.tape import Value
from planner.nodes import Experts, Linear, Row, Style
from planner.numeric import Num


def routed(context: Context, rows: Sequence[Row], value: Value, style: Style) -> Value:
    """A router, its experts, and what every token passes through beside them."""
    tape = context.tape
    (experts,) = (row for row in rows if isinstance(row.leaf, Experts))
    linears = [row for row in rows if isinstance(row.leaf, Linear)]
    routers = [row for row in linears if _out(row) is _count(experts) or row.bucket.endswith("router")]
    shared: dict[str, list[Row]] = {}
    for row in linears:
        if row not in routers:
            shared.setdefault(row.path.rpartition(".")[0], []).append(row)
    with tape.at(part="router"):
        weights, indices = _chosen(context, experts, routers, value, style)
    result = _visited(context, experts, value, weights, indices, style)
    for beside in shared.values():
        with tape.at(part="moe"):
            if len(beside) > 1:
                result = tape.add(result, mlp(context, beside, value, style, part="moe"))
            else:
                gate = tape.by_result(linear(context, beside[0], value), "sigmoid of the shared gate")
                result = tape.multiply(gate, result, ("gate", "shared output"), elements=result.elements)
    return result


def _out(row: Row) -> Num:
    assert isinstance(row.leaf, Linear)  # noqa: S101 - what a caller looked up
    return row.leaf.out_features


def _count(row: Row) -> Num:
    assert isinstance(row.leaf, Experts)  # noqa: S101 - what a caller looked up
    return row.leaf.num_experts


def _chosen(context: Context, experts: Row, routers: Sequence[Row], value: Value, style: Style) -> tuple[Value, Value]:
    """Weights of the experts that a token visits, and which they are."""
    leaf, tape = experts.leaf, context.tape
    assert isinstance(leaf, Experts)  # noqa: S101 - what a caller looked up
    tokens = context.positions(experts)
    scores = tape.cast(value, "fp32") if style.router_wide else value
    for row in routers:
        scores = linear(context, row, scores, part="router")
    indices = tape.new(tokens * leaf.top_k, "int64", needs_grad=False)
    if style.router == "softmax_top":
        if scores.needs_grad:
            tape.keep(indices, "chosen experts")
        top = tape.new(tokens * leaf.top_k, scores.dtype, needs_grad=scores.needs_grad)
        top = tape.by_result(top, "router weights", dtype="fp32" if style.router_cast else None)
        return tape.cast(top, value.dtype) if style.router_cast else top, indices
    scores = tape.by_result(scores, "router probabilities", dtype="fp32")
    if scores.needs_grad:
        if style.router == "sigmoid" and style.router_groups:
            _keep_groups(context, tokens, leaf.num_experts, style)
        tape.keep(indices, "chosen experts")
    top = tape.new(tokens * leaf.top_k, "fp32", needs_grad=scores.needs_grad)
    if style.router_normed:
        total = tape.new(tokens, "fp32", needs_grad=top.needs_grad)
        # A quotient: its numerator is needed for the gradient of the denominator.
        top = tape.multiply(top, total, ("router weights", "sum of router weights"))
    return tape.cast(top, value.dtype) if style.router_cast else top, indices


def _keep_groups(context: Context, tokens: Num, num_experts: Num, style: Style) -> None:
    """Two best experts of every group, the best groups, and which experts are not in them."""
    tape = context.tape
    for name, elements in (
        ("best of each group", 2 * tokens * style.router_groups),
        ("chosen groups", tokens * style.router_groups_chosen),
    ):
        tape.keep(tape.new(elements, "int64", needs_grad=False), name)
    tape.keep(tape.new(tokens * num_experts, "bool", needs_grad=False), "experts of other groups")


def _visited(context: Context, row: Row, value: Value, weights: Value, indices: Value, style: Style) -> Value:
    """Every token with the experts that it is routed to."""
    leaf, tape = row.leaf, context.tape
    assert isinstance(leaf, Experts)  # noqa: S101 - what a caller looked up
    visits = context.positions(row) * leaf.top_k
    up, down = context.weight(row, 0), context.weight(row, 2 if leaf.bias else 1)
    trains = up.trains or down.trains
    inner = 2 * leaf.intermediate_size if leaf.gated else leaf.intermediate_size
    with tape.at(replace(tape.place, path=row.path), split="tensor", part="moe"):
        if context.experts == "grouped_mm":
            _keep_order(context, visits, value, weights)
        elif value.needs_grad and context.experts == "eager":
            # One row and one column index for each expert's tokens.
            tape.keep(tape.new(2 * visits, "int64", needs_grad=False), "order of the tokens")
        if context.experts == "grouped_mm" and (value.needs_grad or trains):
            tape.keep(tape.new(leaf.num_experts, "int32", needs_grad=False), "tokens of an expert")
        if leaf.bias and trains and context.experts == "grouped_mm":
            tape.keep(tape.new(visits, "int64", needs_grad=False), "experts of the visits")
        if context.experts == "batched_mm":
            _keep_weights(context, row, visits, value)
        with tape.at(split="sequence"):
            tokens = tape.new(visits * leaf.hidden_size, value.dtype, needs_grad=value.needs_grad)
        up, down = (replace(weight, casts=context.experts == "eager") for weight in (up, down))
        if context.experts == "batched_mm":
            tokens = tape.lowered(tokens)
        both = tape.linear(tokens, up, visits * inner)
        with tape.at(part="moe_activation"):
            if leaf.gated:
                gate, half = (tape.view(both, elements=visits * leaf.intermediate_size) for _ in range(2))
                hidden = gated(tape, gate, half, style)
            else:
                hidden = activated(tape, both, style.activation)
        with tape.at(split="sequence"):
            out = tape.linear(hidden, down, visits * leaf.hidden_size)
        gathered = tape.like(weights)
        weighed = tape.multiply(out, gathered, ("expert output", "router weights"))
        if context.experts == "eager" and weighed.needs_grad:
            # index_add_ keeps what it adds, cast to the dtype of the sum.
            tape.keep(tape.cast(weighed, value.dtype), "weighed output")
    del indices
    return tape.new(value.elements, value.dtype, needs_grad=weighed.needs_grad)


def _keep_order(context: Context, visits: Num, value: Value, weights: Value) -> None:
    """Order in which tokens are sorted by expert, and the way back."""
    tape = context.tape
    for name, needed in (
        ("order of the tokens", value.needs_grad),
        ("order of the visits", weights.needs_grad),
        ("order of the outputs", True),
    ):
        if needed:
            tape.keep(tape.new(visits, "int64", needs_grad=False), name)


def _keep_weights(context: Context, row: Row, visits: Num, value: Value) -> None:
    """A copy of the expert's matrices for every visit, which is why nobody trains so."""
    leaf, tape = row.leaf, context.tape
    assert isinstance(leaf, Experts)  # noqa: S101 - what a caller looked up
    inner = 2 * leaf.intermediate_size if leaf.gated else leaf.intermediate_size
    if value.needs_grad:
        for name, width in (("matrices that read", inner), ("matrices that write", leaf.intermediate_size)):
            copies = tape.lowered(tape.new(visits * width * leaf.hidden_size, context.dtype, needs_grad=False))
            tape.keep(copies, name)
