"""Attention on the tape: queries, keys and values, the products of the heads, and what each kernel keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.activations.context import Context, norm
from planner.activations.dense import linear
from planner.activations.tape import Dtype, Tape, Value
from planner.compute import Pairs, attention_pairs, sequence_positions
from planner.formulas.activations import log_sum_exp_elements, score_elements
from planner.nodes import Attention, Norm, Row, Style
from planner.numeric import Num, all_true, ceil_div

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "o", "wo", "out_lin", "out", "attn_out", "proj", "Wo", "o_b_proj")
"""What classes call the matrix that writes an attention's output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The rows of one attention.

    Attributes
    ----------
    core : Row
        The products.
    readers : tuple of Row
        Matrices that read its input, in order.
    writer : Row or None
        The one that writes its output.
    norms : tuple of Row
        Over queries, keys or latents.
    biases : tuple of Row
        Tables of relative positions, from which all blocks of a stack get what they add to their scores.
    """

    core: Row
    readers: tuple[Row, ...]
    writer: Row | None
    norms: tuple[Row, ...]
    biases: tuple[Row, ...] = ()


def attention(context: Context, heads: Heads, value: Value, style: Style) -> Value:
    """Output of an attention."""
    leaf, tape = heads.core.leaf, context.tape
    assert isinstance(leaf, Attention)  # noqa: S101 - what a caller looked up
    with tape.at(part="attention"):
        latent = any(row.path.endswith(".kv_b_proj") for row in heads.readers)
        with tape.at(split="tensor"):
            query, key, values = (_of_latents if latent else _projected)(context, heads, leaf, value)
            # Where each head has a norm of its own, the first one stands for all.
            names = {row.path.removeprefix(f"{heads.core.path}.").partition(".")[0]: row for row in heads.norms}
            for name, row in () if latent else names.items():
                if name.startswith("k"):
                    key = norm(context, row, key, style)
                elif name.startswith("q"):
                    query = norm(context, row, query, style)
            if latent:
                query, key = _latents_turned(context, heads, leaf, (query, key), style)
            elif style.rotary != "none" and leaf.keys == "self":
                query, key = _turned(context, heads.core, leaf, (query, key), style)
            if style.queries_by_head:
                query = replace(query, by_head=True)
            bias = position_bias(context, heads, query, style)
            with tape.at(replace(tape.place, path=heads.core.path), part="core_attention"):
                mixed = core(context, heads.core, (query, key, values), style, bias)
        return mixed if heads.writer is None else linear(context, heads.writer, mixed, part="attention")


def _projected(context: Context, heads: Heads, leaf: Attention, value: Value) -> tuple[Value, Value, Value]:
    tape = context.tape
    source = context.source if leaf.keys == "source" and context.source is not None else value
    if len(heads.readers) >= 3:
        ordered = sorted(heads.readers, key=_role)
        query, key, values = (
            linear(context, row, value if index == 0 else source) for index, row in enumerate(ordered[:3])
        )
        for row in ordered[3:]:
            linear(context, row, value)
        return query, key, values
    if len(heads.readers) == 1:
        fused = linear(context, heads.readers[0], value)
        at = context.positions(heads.core)
        kv_width = (fused.elements // at - leaf.num_heads * leaf.qk_head_dim) // 2
        widths = (leaf.num_heads * leaf.qk_head_dim, kv_width, kv_width)
        query, key, values = (tape.view(fused, elements=at * width, scattered=True) for width in widths)
        return query, key, values
    outputs = [linear(context, row, value) for row in heads.readers]
    # Keys that are values as well, or a key and value matrix in one.
    while len(outputs) < 3:
        outputs.append(outputs[-1] if outputs else value)
    return outputs[0], outputs[1], outputs[2]


def _of_latents(context: Context, heads: Heads, leaf: Attention, value: Value) -> tuple[Value, Value, Value]:
    """Queries, keys and values that are made of narrow vectors, of which each has a norm."""
    tape = context.tape
    rows = {row.path.rpartition(".")[2]: row for row in (*heads.readers, *heads.norms)}
    if "q_a_proj" in rows:
        narrow = linear(context, rows["q_a_proj"], value)
        query = linear(context, rows["q_b_proj"], norm(context, rows["q_a_layernorm"], narrow, Style()))
    else:
        query = linear(context, rows["q_proj"], value)
    both = linear(context, rows["kv_a_proj_with_mqa"], value)
    latent, up = rows["kv_a_layernorm"], rows["kv_b_proj"]
    assert isinstance(latent.leaf, Norm)  # noqa: S101 - what a name stands for
    part = tape.view(both, elements=context.positions(latent) * latent.leaf.dim)
    wide = linear(context, up, norm(context, latent, part, Style()))
    at = context.positions(heads.core) * leaf.num_heads
    key = tape.new(at * leaf.qk_head_dim, wide.dtype, needs_grad=wide.needs_grad or both.needs_grad)
    return query, key, tape.view(wide, elements=at * leaf.v_head_dim, scattered=True)


def _latents_turned(
    context: Context, heads: Heads, leaf: Attention, values: Sequence[Value], style: Style
) -> tuple[Value, Value]:
    """A part of each head is turned, and joined with the rest: new tensors, each head in one piece."""
    tape = context.tape
    for table in _tables(context, heads.core, leaf, style):
        if any(value.needs_grad for value in values):
            with tape.at(replace(tape.place, path=heads.core.path)):
                tape.keep(table, "rotary")
    query, key = (replace(tape.like(value), by_head=True) for value in values)
    return query, key


def _role(row: Row) -> int:
    name = row.path.rpartition(".")[2].lower()
    return next((place for place, first in enumerate("qkv") if name.startswith(first) or f"_{first}" in name), 3)


def _turned(context: Context, row: Row, leaf: Attention, values: Sequence[Value], style: Style) -> tuple[Value, Value]:
    """Queries and keys times cosines and sines."""
    tape = context.tape
    shared = _tables(context, row, leaf, style) if style.rotary in ("table", "by_window") else None
    tables = shared or _own_tables(context, row, leaf, style)
    turned = []
    for value in values:
        with tape.at(replace(tape.place, path=row.path)):
            part = value if style.rotary_share == 1 and style.rotary_width is None else tape.like(value)
            halves = [tape.multiply(part, factor, ("queries or keys", "rotary")) for factor in tables]
            result = tape.cast(tape.add(*halves), value.dtype if style.rotary_wide else halves[0].dtype)
            turned.append(replace(result, elements=value.elements))
        if style.rotary == "by_operand":
            tables = _own_tables(context, row, leaf, style)
    return turned[0], turned[1]


def _table_elements(context: Context, row: Row, leaf: Attention, style: Style) -> Num:
    share = int(style.rotary_share) if style.rotary_share == 1 else style.rotary_share
    width = leaf.qk_head_dim * share // 1 if style.rotary_width is None else style.rotary_width
    # An angle turns two elements.
    angles = ceil_div(width, 2)
    at = context.positions(row) if style.rotary_by_sample else sequence_positions(row.stream, context.step)
    return at * (angles if style.rotary_halved else 2 * angles)


def _own_tables(context: Context, row: Row, leaf: Attention, style: Style) -> list[Value]:
    """Cosines and sines of one block."""
    dtype: Dtype = "fp32" if style.rotary_wide else context.dtype
    elements = _table_elements(context, row, leaf, style)
    with context.tape.at(replace(context.tape.place, path=row.path), split="none"):
        return [context.tape.new(elements, dtype, needs_grad=False) for _ in range(2)]


def _tables(context: Context, row: Row, leaf: Attention, style: Style) -> list[Value]:
    """Cosines and sines that blocks share."""
    tape = context.tape
    kind = leaf.window is not None if style.rotary == "by_window" else None
    dtype: Dtype = "fp32" if style.rotary_wide else context.dtype
    found = []
    for name in ("cosines", "sines"):
        key = (name, context.trunk.path, kind)
        if key not in context.shared:
            with tape.at(context.trunk, split="none", part="attention"):
                elements = _table_elements(context, row, leaf, style)
                context.shared[key] = tape.new(elements, dtype, needs_grad=False)
        found.append(context.shared[key])
    return found


def position_bias(context: Context, heads: Heads, query: Value, style: Style) -> Value | None:
    """What is added to the scores for the distance of a query and a key: made by the first block, used by all."""
    if not style.relative:
        return None
    leaf, tape = heads.core.leaf, context.tape
    assert isinstance(leaf, Attention)  # noqa: S101 - what a caller looked up
    key = bias_key(context, leaf)
    if key not in context.shared:
        pairs = attention_pairs(leaf, heads.core.stream, context.step)
        distances = pairs.queries * pairs.keys
        trains = any(context.trains(row) for row in heads.biases)
        if trains:
            with tape.at(replace(tape.place, path=heads.biases[0].path)):
                tape.keep(tape.new(distances, "int64", needs_grad=False), "distances")
        # Without a table it is zero, in the dtype of what it is added to.
        dtype = context.dtype if heads.biases else query.dtype
        with tape.at(context.trunk):
            elements = score_elements(distances, leaf.num_heads)
            context.shared[key] = tape.new(elements, dtype, needs_grad=trains)
    return context.shared[key]


def bias_key(context: Context, leaf: Attention) -> tuple[object, ...]:
    """Under which blocks of a stack share the bias of their own tokens, or that of the encoder's."""
    return ("position bias", context.trunk.path, leaf.keys)


def core(
    context: Context, row: Row, operands: tuple[Value, Value, Value], style: Style, bias: Value | None = None
) -> Value:
    """Products of the heads by the kernel that runs, and their output side by side."""
    leaf = row.leaf
    assert isinstance(leaf, Attention)  # noqa: S101 - what a caller looked up
    pairs = attention_pairs(leaf, row.stream, context.step)
    if context.attention == "eager":
        return _eager(context, leaf, pairs, operands, style, bias)
    differ = not all_true(leaf.qk_head_dim == leaf.v_head_dim)
    if (differ or (bias is not None and bias.needs_grad)) and context.tape.arithmetic.device == "cpu":
        return _unfused(context, leaf, pairs, operands, biased=bias is not None)
    return _fused(context, leaf, pairs, operands, bias)


def _eager(
    context: Context,
    leaf: Attention,
    pairs: Pairs,
    operands: tuple[Value, Value, Value],
    style: Style,
    bias: Value | None,
) -> Value:
    tape, samples = context.tape, pairs.sequences
    query, key, value = operands[0], *(_repeated(tape, leaf, pairs, operands))
    scores = tape.matmul(query, key, score_elements(pairs.executed, leaf.num_heads), ("queries", "keys"), samples)
    if style.scores_capped:
        scores = tape.by_result(tape.scaled(scores), "capped scores")
    if bias is not None:
        scores = tape.add(scores, bias)
    if leaf.causal:
        # The mask has the dtype of the weights, which the sum takes on where it is the wider one.
        scores = tape.add(scores, tape.new(pairs.executed, context.dtype, needs_grad=False))
    wide = style.softmax == "float32"
    if style.sinks:
        # The largest score is taken off, and its place is kept.
        best = samples * pairs.queries * leaf.num_heads
        if scores.needs_grad:
            tape.keep(tape.new(best, "int64", needs_grad=False), "largest score")
        scores = tape.new(scores.elements + best, scores.dtype, needs_grad=scores.needs_grad)
    probabilities = tape.by_result(scores, "probabilities", dtype="fp32" if wide else None)
    probabilities = tape.cast(probabilities, query.dtype if wide else value.dtype)
    probabilities = tape.dropout(probabilities, context.attention_dropout)
    out = samples * pairs.queries * leaf.num_heads * leaf.v_head_dim
    mixed = tape.matmul(probabilities, value, out, ("probabilities", "values"), samples)
    # Heads side by side again, in one piece.
    return tape.like(mixed)


def _repeated(tape: Tape, leaf: Attention, pairs: Pairs, operands: tuple[Value, Value, Value]) -> list[Value]:
    """Keys and values with a copy for each query head, where heads share them; of a single one there need be none."""
    result = []
    for value, width in zip(operands[1:], (leaf.qk_head_dim, leaf.v_head_dim), strict=True):
        elements = pairs.sequences * pairs.keys * leaf.num_heads * width
        if all_true(value.elements == elements):
            result.append(value)
        elif all_true(value.elements * leaf.num_heads == elements):
            result.append(tape.view(value, elements=elements, scattered=True))
        else:
            result.append(tape.new(elements, value.dtype, needs_grad=value.needs_grad))
    return result


def _unfused(
    context: Context, leaf: Attention, pairs: Pairs, operands: tuple[Value, Value, Value], *, biased: bool
) -> Value:
    """The products one by one, in fp32: sdpa on a CPU where a bias has a gradient, or keys are wider than values."""
    tape = context.tape
    lowered = [tape.lowered(operand) for operand in operands]
    needs_grad = biased or any(operand.needs_grad for operand in lowered)
    query, key = (tape.like(operand, dtype="fp32") for operand in lowered[:2])
    value = tape.cast(lowered[2], "fp32")
    if leaf.causal and biased:
        chosen = tape.new(pairs.queries * pairs.keys, "bool", needs_grad=False)
        chosen.storage.split = "none"
        tape.keep(chosen, "mask")
    for operand, other, name in ((query, key, "queries"), (key, query, "keys")):
        if other.needs_grad:
            tape.keep(operand, name)
    scores = tape.new(score_elements(pairs.executed, leaf.num_heads), "fp32", needs_grad=needs_grad)
    probabilities = tape.by_result(scores, "probabilities")
    if value.needs_grad:
        tape.keep(probabilities, "probabilities")
    if needs_grad:
        tape.keep_operand(value, "values", pairs.sequences)
    return tape.new(
        pairs.sequences * pairs.queries * leaf.num_heads * leaf.v_head_dim, lowered[0].dtype, needs_grad=needs_grad
    )


def _fused(
    context: Context, leaf: Attention, pairs: Pairs, operands: tuple[Value, Value, Value], bias: Value | None
) -> Value:
    """One kernel, which keeps its operands, its output and a number a query.

    It multiplies shared keys and values as they are, unless it is given a mask.
    """
    tape = context.tape
    query, key, value = (tape.lowered(operand) for operand in operands)
    whole = _repeated(tape, leaf, pairs, (query, key, value))
    grad = any(operand.needs_grad for operand in (query, key, value, *([bias] if bias is not None else [])))
    masked = True if bias is not None else _has_mask(context, leaf, pairs)
    out = tape.new(pairs.sequences * pairs.queries * leaf.num_heads * leaf.v_head_dim, query.dtype, needs_grad=grad)
    if not grad:
        return out
    tape.keep(query, "queries")
    for name, operand, repeated in zip(("keys", "values"), (key, value), whole, strict=True):
        tape.keep(operand, name, _opposite(masked))
        tape.keep(repeated, name, masked)
    if bias is None:
        mask = tape.new(score_elements(pairs.executed, 1), query.dtype, needs_grad=False)
        mask.storage.split = "none"
        tape.keep(mask, "mask", masked)
    else:
        tape.keep(tape.lowered(bias), "position bias")
    tape.keep(out, "output")
    # The kernel of a CPU lays its output out as the queries are: heads in one piece are put side by side by a copy.
    copied = query.by_head and tape.arithmetic.device == "cpu"
    numbers = log_sum_exp_elements(pairs.sequences, leaf.num_heads, pairs.queries)
    tape.keep(tape.new(numbers, "fp32", needs_grad=False), "log-sum-exp")
    return tape.like(out) if copied else out


def _has_mask(context: Context, leaf: Attention, pairs: Pairs) -> Any:
    """Whether sdpa is given a mask: for windows that the sequence reaches; flash attention knows windows."""
    if context.attention == "flash" or leaf.window is None:
        return False
    return leaf.window <= pairs.keys


def _opposite(condition: Any) -> Any:
    return (not condition) if isinstance(condition, bool) else condition == 0
