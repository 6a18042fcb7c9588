"""Multiply-adds of every matrix product that a trace can hold, read from the shapes in the trace.

The handles that fvcore ships are not used: its `matmul` is wrong for operands that broadcast, its `einsum` reads a
number that was rounded for print, it counts norms by another rule, and it has none for fused attention and for
grouped products. The unit here is fvcore's, one multiply-add; `planner.verify.trace` doubles it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NoReturn

from planner.errors import UnsupportedError
from planner.verify.operators import HIDING

# Any: a torch._C.Value, whose methods torch's stubs do not type
Value = Any
Shape = tuple[int, ...]
Handle = Callable[[Sequence[Value], Sequence[Value]], Counter[str]]


def shape(value: Value) -> Shape:
    """Sizes of a tensor in a trace.

    Raises
    ------
    UnsupportedError
        The trace does not state them.
    """
    sizes = value.type().sizes() if hasattr(value.type(), "sizes") else None
    if sizes is None:
        raise UnsupportedError(f"the trace states no shape for '{value.debugName()}', an operand of a product")
    return tuple(sizes)


def _counts(name: str, multiply_adds: Callable[[Sequence[Value], Sequence[Value]], int]) -> Handle:
    return lambda inputs, outputs: Counter({name: multiply_adds(inputs, outputs)})


def _product(first: int) -> Callable[[Sequence[Value], Sequence[Value]], int]:
    """One dot product an output element, as long as the last dimension of the operand at `first`."""
    return lambda inputs, outputs: prod(shape(outputs[0])) * shape(inputs[first])[-1]


def _convolution(inputs: Sequence[Value], outputs: Sequence[Value], transposed: bool) -> int:
    # The weight is (out, in / groups, *kernel), and (in, out / groups, *kernel) where it is transposed.
    positions = inputs[0] if transposed else outputs[0]
    return prod(shape(positions)) * prod(shape(inputs[1])[1:])


def _general_convolution(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    return _convolution(inputs, outputs, transposed=bool(inputs[6].toIValue()))


def _plain_convolution(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    return _convolution(inputs, outputs, transposed=False)


def attention_multiply_adds(query: Shape, key: Shape, value: Shape, out: Shape) -> int:
    """Scores of every query with every key, and the weighted sum of values; masks save nothing.

    The heads are the output's: grouped keys and values have fewer.
    """
    return prod(out[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    query, key, value = (shape(operand) for operand in inputs[:3])
    return attention_multiply_adds(query, key, value, shape(outputs[0]))


def grouped_multiply_adds(first: Shape, second: Shape, out: Shape) -> int:
    """Product of groups of rows, each with a matrix of its own.

    Parameters
    ----------
    first, second : tuple of int
        Operands: (rows, in) and (groups, in, out) in a forward pass. Where both are matrices, as in the gradient of
        the weights, the groups split the dimension that is summed. [-]
    out : tuple of int
        The result. [-]
    """
    if len(first) == len(second) == 2:
        return first[0] * first[1] * second[1]
    return prod(out) * first[-1]


def _grouped(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    return grouped_multiply_adds(shape(inputs[0]), shape(inputs[1]), shape(outputs[0]))


def _einsum(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    operands = [shape(value) for value in inputs[1].node().inputs()]
    return einsum_multiply_adds(str(inputs[0].toIValue()), operands, shape(outputs[0]))


def einsum_multiply_adds(equation: str, operands: Sequence[Shape], out: Shape) -> int:
    """Multiply-adds of an einsum of up to two operands.

    Parameters
    ----------
    equation : str
        As `torch.einsum` takes it.
    operands : sequence of tuple of int
        Their shapes. [-]
    out : tuple of int
        Shape of the result. [-]

    Returns
    -------
    int
        Output elements times the sizes that both operands share and the output lacks; 0 where there are none, since
        such a product is done element by element. [multiply-add]

    Raises
    ------
    UnsupportedError
        More than two operands: the count depends on the order in which they are contracted.

    Examples
    --------
    >>> einsum_multiply_adds("bhid,bhjd->bhij", [(2, 4, 8, 16), (2, 4, 8, 16)], (2, 4, 8, 8))  # 2 * 4 * 8 * 8 * 16
    8192
    """
    terms, _, result = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if len(names) > 2:
        raise UnsupportedError(f"einsum '{equation}' has more than two operands, so its count depends on their order")
    if "->" not in equation:
        letters = terms.replace(",", "").replace(".", "")
        result = "".join(letter for letter in set(letters) if letters.count(letter) == 1)
    if len(names) < 2:
        return 0
    sizes: dict[str, int] = {}
    for name, operand in zip(names, operands, strict=True):
        head, dots, tail = name.partition("...")
        sizes |= dict(zip(head, operand, strict=False))
        if dots and tail:
            sizes |= dict(zip(tail, operand[-len(tail) :], strict=True))
    shared = [letter for letter in set(names[0]) & set(names[1]) - {"."} if letter not in result]
    return prod(out) * prod(sizes[letter] for letter in shared) if shared else 0


def _triangular_solution(inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
    """Each row of the result takes a multiple of every row before it."""
    del inputs
    out = shape(outputs[0])
    return prod(out) * (out[-2] - 1) // 2


def _refuse(kind: str) -> Handle:
    def handle(inputs: Sequence[Value], outputs: Sequence[Value]) -> NoReturn:
        del inputs, outputs
        raise UnsupportedError(f"the traced model holds a {kind} node, and the products inside it cannot be seen")

    return handle


HANDLES: Mapping[str, Handle] = {
    "aten::linear": _counts("linear", _product(0)),
    "aten::matmul": _counts("matmul", _product(0)),
    "aten::mm": _counts("mm", _product(0)),
    "aten::bmm": _counts("bmm", _product(0)),
    "aten::addmm": _counts("addmm", _product(1)),
    "aten::baddbmm": _counts("baddbmm", _product(1)),
    "aten::einsum": _counts("einsum", _einsum),
    "aten::_convolution": _counts("convolution", _general_convolution),
    "aten::_convolution_mode": _counts("convolution", _plain_convolution),
    "aten::conv1d": _counts("convolution", _plain_convolution),
    "aten::conv2d": _counts("convolution", _plain_convolution),
    "aten::conv3d": _counts("convolution", _plain_convolution),
    "aten::scaled_dot_product_attention": _counts("attention", _attention),
    "aten::_grouped_mm": _counts("grouped_mm", _grouped),
    "transformers::grouped_mm_fallback": _counts("grouped_mm", _grouped),
    "aten::linalg_solve_triangular": _counts("triangular", _triangular_solution),
    **{kind: _refuse(kind) for kind in HIDING},
}
"""By the name that an operator has in a trace."""
