"""A block on the tape: its sublayers, found by what they hold, and the norms and sums around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.activations.attend import OUTPUTS, Heads, attention
from planner.activations.context import Context, bare_norm, norm
from planner.activations.dense import linear, mlp
from planner.activations.routed import routed
from planner.activations.tape import Value
from planner.nodes import (
    Attention,
    Embedding,
    Experts,
    Leaf,
    Linear,
    Module,
    Node,
    Norm,
    Parameter,
    Place,
    Repeat,
    Row,
    Scan,
    Stack,
    Style,
)
from planner.numeric import Num

INNER_NORMS = ("q_", "k_", "kv_", "key_", "query_")
"""How the names of norms begin that stand inside an attention."""

SCALE = "layer_scale"
"""What classes call the parameter that scales what a sublayer adds."""


@dataclass(frozen=True, slots=True)
class Sublayer:
    """What a block adds to its input.

    Attributes
    ----------
    kind : str
        ``attention``, ``routed``, ``mlp``, or ``scan``, a recurrence, of which nothing is known but its matrices.
    rows : tuple of Row
        Its leaves.
    scale : Row or None
        Parameter that its output is multiplied with.
    """

    kind: str
    rows: tuple[Row, ...]
    scale: Row | None = None


def rows_of(node: Node, place: Place) -> Iterator[Row]:
    """Leaves below a node, as `planner.nodes.walk` has them, from a place on, but repeated ones one by one."""
    if isinstance(node, Module):
        inside = place.inside(node)
        for name, child in node.children.items():
            yield from rows_of(child, inside.child(name))
    elif isinstance(node, Stack):
        for part in node.parts:
            yield from rows_of(part, place)
    elif isinstance(node, Repeat) and node.indices is not None:
        # Several of a kind inside one block, which runs them one after another.
        for index in node.indices:
            yield from rows_of(node.child, place.child(str(index)))
    elif isinstance(node, Repeat):
        yield from rows_of(node.child, place.repeated(node))
    else:
        yield place.row(node)


def block(context: Context, node: Node, place: Place, value: Value, style: Style) -> Value:
    """Output of a block for its input."""
    rows = list(rows_of(node, place))
    sublayers, norms = parsed(rows)
    scales = [row for row in rows if isinstance(row.leaf, Parameter) and SCALE in row.path]
    for index, row in enumerate(scales[: len(sublayers)]):
        sublayers[index] = replace(sublayers[index], scale=row)
    match _residual(style, len(sublayers), len(norms)):
        case "parallel":
            return _parallel(context, sublayers, norms, value, style)
        case "post":
            return _post(context, sublayers, norms, value, style)
        case "output":
            return _around(context, sublayers, [], norms, value, style)
        case "sandwich":
            return _around(context, sublayers, norms[0::2], norms[1::2], value, style)
        case _:
            return _around(context, sublayers, norms, [], value, style)


def _residual(style: Style, sublayers: int, norms: int) -> str:
    if style.residual:
        return style.residual
    if norms < sublayers:
        return "parallel"
    return "sandwich" if norms >= 2 * sublayers else "pre"


def _around(
    context: Context,
    sublayers: list[Sublayer],
    before: list[Row],
    behind: list[Row],
    value: Value,
    style: Style,
) -> Value:
    """Norms before and behind each sublayer, and its sum with what went in."""
    for index, sublayer in enumerate(sublayers):
        first = before[index] if index < len(before) else None
        read = value if first is None else norm(context, first, value, style)
        if style.bare_norms:
            read = bare_norm(context, value, _width(sublayer))
        added = _run(context, sublayer, read, style)
        if index < len(behind):
            added = norm(context, behind[index], added, style)
        value = context.tape.add(value, context.tape.dropout(added, context.hidden_dropout))
    return value


def _post(context: Context, sublayers: list[Sublayer], norms: list[Row], value: Value, style: Style) -> Value:
    for index, sublayer in enumerate(sublayers):
        added = context.tape.dropout(_run(context, sublayer, value, style), context.hidden_dropout)
        value = context.tape.add(value, added)
        if index < len(norms):
            value = norm(context, norms[index], value, style)
    return value


def _parallel(context: Context, sublayers: list[Sublayer], norms: list[Row], value: Value, style: Style) -> Value:
    normed = [norm(context, row, value, style) for row in norms] or [value]
    result = value
    for index, sublayer in enumerate(sublayers):
        added = _run(context, sublayer, normed[min(index, len(normed) - 1)], style)
        result = context.tape.add(result, context.tape.dropout(added, context.hidden_dropout))
    return result


def _run(context: Context, sublayer: Sublayer, value: Value, style: Style) -> Value:
    result = _unscaled(context, sublayer, value, style)
    return result if sublayer.scale is None else context.tape.gain(result, context.weight(sublayer.scale))


def _unscaled(context: Context, sublayer: Sublayer, value: Value, style: Style) -> Value:
    rows = sublayer.rows
    if sublayer.kind == "attention":
        (core, *_) = (row for row in rows if isinstance(row.leaf, Attention))
        linears = [row for row in rows if isinstance(row.leaf, Linear)]
        writers = [row for row in linears if _writes(row)]
        writer = writers[-1] if writers else None
        readers = tuple(row for row in linears if row is not writer)
        norms = tuple(row for row in rows if isinstance(row.leaf, (Norm, Parameter)))
        biases = tuple(row for row in rows if isinstance(row.leaf, Embedding))
        heads = Heads(core=core, readers=readers, writer=writer, norms=norms, biases=biases)
        return attention(context, heads, value, style)
    if sublayer.kind == "routed":
        return routed(context, rows, value, style)
    linears = [row for row in rows if isinstance(row.leaf, Linear)]
    if sublayer.kind == "mlp" and len(linears) in (2, 3):
        return mlp(context, linears, value, style)
    return _of_unknown(context, linears, value)


def _of_unknown(context: Context, rows: list[Row], value: Value) -> Value:
    """A recurrence, or whatever is not known: its matrices, and what they yield, which the rest of it reads."""
    tape, (*readers, writer) = context.tape, rows
    outputs = [linear(context, row, value) for row in readers]
    for output in outputs:
        if output.needs_grad:
            tape.keep(output, "operand")
    grad = value.needs_grad or any(output.needs_grad for output in outputs)
    leaf = writer.leaf
    assert isinstance(leaf, Linear)  # noqa: S101 - what a caller looked up
    inner = tape.new(context.positions(writer) * leaf.in_features, value.dtype, needs_grad=grad)
    return linear(context, writer, inner)


def _width(sublayer: Sublayer) -> Num:
    return next(row.leaf.in_features for row in sublayer.rows if isinstance(row.leaf, Linear))


def _writes(row: Row) -> bool:
    parts = row.path.split(".")
    return parts[-1] in OUTPUTS or (parts[-1] == "dense" and parts[-2] == "output")


def parsed(rows: list[Row]) -> tuple[list[Sublayer], list[Row]]:
    """Sublayers of a block in order, and the norms around them."""
    roots = [_root(row.path) for row in rows if isinstance(row.leaf, (Attention, Scan))]
    groups: dict[str, list[Row]] = {}
    norms: list[Row] = []
    for row in rows:
        root = next((root for root in roots if row.path == root or row.path.startswith(f"{root}.")), None)
        if isinstance(row.leaf, Norm) and not (root is not None and _is_inner(row, root)):
            norms.append(row)
        elif isinstance(row.leaf, (Linear, Attention, Scan, Experts, Norm, Embedding)) or _is_gain(row, root):
            groups.setdefault(root if root is not None else _branch(row, rows), []).append(row)
    sublayers = [Sublayer(_kind(group), tuple(group)) for group in groups.values()]
    return [part for part in sublayers if any(isinstance(row.leaf, (Linear, Experts)) for row in part.rows)], norms


def _root(path: str) -> str:
    """Module that holds an attention with all of its matrices: BERT keeps the last one beside the others."""
    return path.rpartition(".")[0] if path.endswith((".self", ".attention.attention")) else path


def _is_gain(row: Row, root: str | None) -> bool:
    """A bare tensor that is the gain of a norm over each head."""
    return root is not None and isinstance(row.leaf, Parameter) and "norm" in row.path.removeprefix(root)


def _is_inner(row: Row, root: str) -> bool:
    return any(name.startswith(INNER_NORMS) for name in row.path.removeprefix(root).split("."))


def _branch(row: Row, rows: list[Row]) -> str:
    """What a leaf outside of attention belongs to: the module with experts around it, or that with other matrices.

    Matrices that stand alone in their modules, as BERT's, are one MLP together.
    """
    for other in rows:
        if isinstance(other.leaf, Experts):
            holder = _holder(other)
            if row.path.startswith(f"{holder}."):
                return holder
    beside = [other for other in rows if isinstance(other.leaf, Linear) and _holder(other) == _holder(row)]
    return _holder(row) if len(beside) > 1 else "mlp"


def _holder(row: Row) -> str:
    return row.path.rpartition(".")[0]


def _kind(rows: list[Row]) -> str:
    leaves: list[Leaf] = [row.leaf for row in rows]
    if any(isinstance(leaf, Attention) for leaf in leaves):
        return "attention"
    if any(isinstance(leaf, Scan) for leaf in leaves):
        return "scan"
    return "routed" if any(isinstance(leaf, Experts) for leaf in leaves) else "mlp"
