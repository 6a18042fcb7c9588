"""A tape of symbolic tensors: which of them autograd keeps, by the rule of each operator.

An operator keeps what the gradients of its operands need, and only of those operands that have one; a tensor that
several operators read is kept once, and a view keeps the whole of what it looks into. So what a sequence of operators
keeps follows from the operators alone, and so does what is left of it where weights are frozen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from planner.activations.saved import SavedTensor, Split
from planner.formulas.activations import tensor_bytes
from planner.nodes import Place
from planner.numeric import Num, all_true, maximum, where

Dtype = Literal["fp32", "bf16", "int64", "int32", "bool"]

ELEMENT_BYTES: dict[Dtype, int] = {"fp32": 4, "bf16": 2, "int64": 8, "int32": 4, "bool": 1}


ALWAYS = True
"""Condition of a tensor that is kept whatever the step."""


@dataclass(eq=False, slots=True, kw_only=True)
class Storage:
    """Memory of one tensor and of all views into it.

    Attributes
    ----------
    size_bytes : Num
        Of one copy. [B]
    place : Place
        Where it was made, which says how often it stands in the model.
    split, part : str
        As `SavedTensor` has them.
    kept : bool or column of bool
        Whether an operator keeps it.
    """

    size_bytes: Num
    place: Place
    split: Split
    part: str
    kept: Any = False


@dataclass(eq=False, slots=True, kw_only=True)
class Kept:
    """Storage that an operator keeps.

    Attributes
    ----------
    storage : Storage
        What is kept.
    reader, name : str
        Path of the first operator that keeps it, and what the tensor is to it.
    when : bool or column of bool
        Whether it is kept: a column where that depends on a number of the step.
    """

    storage: Storage
    reader: str
    name: str
    when: Any


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Value:
    """A tensor in a forward pass.

    Attributes
    ----------
    elements : Num
        Over the whole batch. [-]
    dtype : str
        Of an element.
    needs_grad : bool
        Whether a gradient flows back to it.
    storage : Storage
        Its memory.
    scattered : bool
        A view whose samples and heads lie apart, so that a batched product copies it where there are several samples.
    by_head : bool
        Each head lies in one piece, and not each position.
    """

    elements: Num
    dtype: Dtype
    needs_grad: bool
    storage: Storage
    scattered: bool = False
    by_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """Parameter of an operator.

    Attributes
    ----------
    elements : Num
        Of the tensor. [-]
    trains : bool
        Whether it gets a gradient.
    input_read : bool
        Whether something else that trains reads the operator's input, as an adapter does.
    casts : bool
        Whether autocast knows the product, as it does all but torch's grouped ones.
    """

    elements: Num
    trains: bool
    input_read: bool = False
    casts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """In which precision a step runs, and where.

    Attributes
    ----------
    weights : str
        Dtype of the weights, ``fp32`` or ``bf16``.
    autocast : bool
        Whether products cast their operands to bf16, which then keep copies of activations and weights.
    device : str
        ``cpu`` or ``cuda``, whose kernels keep statistics and masks in other widths.
    """

    weights: Dtype
    autocast: bool = False
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(slots=True)
class Tape:
    """Records what is kept while operators are called on it.

    Attributes
    ----------
    arithmetic : Arithmetic
        Precision and device.
    place : Place
        Where the operators stand that are called now.
    split, part : str
        Of the tensors that are made now.
    """

    arithmetic: Arithmetic
    place: Place = field(default_factory=Place)
    split: Split = "sequence"
    part: str = "residual"
    _kept: dict[int, Kept] = field(default_factory=dict)

    @contextmanager
    def at(self, place: Place | None = None, *, split: Split | None = None, part: str | None = None) -> Iterator[None]:
        """Operators inside stand at a place, and make tensors of a part that are divided so."""
        before = (self.place, self.split, self.part)
        self.place, self.split, self.part = place or self.place, split or self.split, part or self.part
        try:
            yield
        finally:
            self.place, self.split, self.part = before

    def new(self, elements: Num, dtype: Dtype, *, needs_grad: bool = True) -> Value:
        """A tensor in memory of its own."""
        size = tensor_bytes(elements, ELEMENT_BYTES[dtype])
        storage = Storage(size_bytes=size, place=self.place, split=self.split, part=self.part)
        return Value(elements=elements, dtype=dtype, needs_grad=needs_grad, storage=storage)

    def like(self, value: Value, *, dtype: Dtype | None = None, needs_grad: bool | None = None) -> Value:
        """A new tensor of the same shape, which is divided as the other one is."""
        grad = value.needs_grad if needs_grad is None else needs_grad
        result = self.new(value.elements, dtype or value.dtype, needs_grad=grad)
        result.storage.split = value.storage.split
        return result

    def input(self, elements: Num, dtype: Dtype) -> Value:
        """A tensor that the caller holds anyway, and nobody counts."""
        value = self.new(elements, dtype, needs_grad=False)
        value.storage.size_bytes = 0 * value.storage.size_bytes
        return value

    def keep(self, value: Value, name: str, when: Any = ALWAYS) -> None:
        """Note that an operator keeps a tensor for its backward, where a condition holds."""
        storage = value.storage
        known = self._kept.get(id(storage))
        if known is None:
            self._kept[id(storage)] = Kept(storage=storage, reader=self.place.path, name=name, when=when)
        else:
            known.when = known.when | when
        storage.kept = storage.kept | when

    def saved(self) -> tuple[SavedTensor, ...]:
        """Everything that was kept, in the order of its first reader."""
        return tuple(
            SavedTensor(
                path=kept.reader if _same_copies(kept) else kept.storage.place.path,
                name=kept.name,
                size_bytes=_size(kept),
                copies=kept.storage.place.copies * kept.storage.place.runs,
                indices=kept.storage.place.indices,
                split=kept.storage.split,
                part=kept.storage.part,
            )
            for kept in self._kept.values()
            if kept.when is not False
        )

    # What every operator below does: it returns its result, and keeps what its backward needs.

    def cast(self, value: Value, dtype: Dtype) -> Value:
        """Conversion, which keeps nothing; to the same dtype it is the same tensor."""
        return value if value.dtype == dtype else self.like(value, dtype=dtype)

    def lowered(self, value: Value) -> Value:
        """Operand of a matrix product: autocast makes a copy in bf16 for each product anew."""
        return self.cast(value, "bf16") if self.arithmetic.autocast and value.dtype == "fp32" else value

    def linear(self, value: Value, weight: Weight, out_elements: Num) -> Value:
        """Product with a weight."""
        operand = self.lowered(value) if weight.casts else value
        if weight.trains or weight.input_read:
            self.keep(operand, "input")
        if weight.casts and self.arithmetic.autocast and value.needs_grad:
            copy = self.new(weight.elements, "bf16", needs_grad=False)
            copy.storage.split = "tensor"
            self.keep(copy, "bf16 copy of the weight")
        return self.new(out_elements, operand.dtype, needs_grad=value.needs_grad or weight.trains or weight.input_read)

    def gain(self, value: Value, weight: Weight) -> Value:
        """Product of every vector with a parameter."""
        if weight.trains:
            self.keep(value, "normalised")
        return self.like(value, needs_grad=value.needs_grad or weight.trains)

    def multiply(
        self, first: Value, second: Value, names: tuple[str, str] = ("factor", "factor"), elements: Num | None = None
    ) -> Value:
        """Elementwise product; the wider dtype wins."""
        if first.needs_grad:
            self.keep(second, names[1])
        if second.needs_grad:
            self.keep(first, names[0])
        dtype: Dtype = "fp32" if "fp32" in (first.dtype, second.dtype) else first.dtype
        return self.new(
            first.elements if elements is None else elements, dtype, needs_grad=first.needs_grad or second.needs_grad
        )

    def add(self, first: Value, second: Value) -> Value:
        """Sum, which keeps nothing; the wider dtype wins, and the larger shape."""
        dtype: Dtype = "fp32" if "fp32" in (first.dtype, second.dtype) else first.dtype
        elements = maximum(first.elements, second.elements)
        return self.new(elements, dtype, needs_grad=first.needs_grad or second.needs_grad)

    def scaled(self, value: Value) -> Value:
        """Product or sum with a number, which keeps nothing."""
        return self.like(value)

    def by_input(self, value: Value, name: str, *, dtype: Dtype | None = None) -> Value:
        """Function whose derivative needs its input: silu, gelu, a power."""
        if value.needs_grad:
            self.keep(value, name)
        return self.like(value, dtype=dtype)

    def by_result(self, value: Value, name: str, *, dtype: Dtype | None = None) -> Value:
        """Function whose derivative needs its result: relu, tanh, sigmoid, softmax, a reciprocal root."""
        result = self.like(value, dtype=dtype)
        if value.needs_grad:
            self.keep(result, name)
        return result

    def power(self, value: Value, name: str) -> Value:
        """Power with a number; autocast computes it in fp32 on CUDA only."""
        upcast = self.arithmetic.autocast and self.arithmetic.device == "cuda"
        return self.by_input(self.cast(value, "fp32") if upcast else value, name)

    def matmul(self, first: Value, second: Value, elements: Num, names: tuple[str, str], samples: Num) -> Value:
        """Product of a matrix a head: operands that are not in one piece are copied, unless there is one sample."""
        first, second = self.lowered(first), self.lowered(second)
        for operand, other, name in ((first, second, names[0]), (second, first, names[1])):
            if other.needs_grad:
                self.keep_operand(operand, name, samples)
        return self.new(elements, first.dtype, needs_grad=first.needs_grad or second.needs_grad)

    def keep_operand(self, operand: Value, name: str, samples: Num) -> None:
        """Note that a batched product keeps an operand, or a copy of it in one piece."""
        if not operand.scattered or all_true(samples == 1):
            self.keep(operand, name)
            return
        copied = True if all_true(samples > 1) else samples > 1
        self.keep(self.like(operand), name, copied)
        if copied is not True:
            self.keep(operand, name, samples == 1)

    def dropout(self, value: Value, probability: float) -> Value:
        """Its mask is a byte an element on CUDA, and on a CPU as wide as what it masks; without it, nothing happens."""
        if not probability:
            return value
        mask = self.new(value.elements, "bool" if self.arithmetic.device == "cuda" else value.dtype, needs_grad=False)
        if value.needs_grad:
            self.keep(mask, "dropout mask")
        return self.like(value)

    def view(self, value: Value, *, elements: Num | None = None, scattered: bool = False) -> Value:
        """Part of a tensor, or all of it in another shape, without a copy."""
        return replace(value, elements=value.elements if elements is None else elements, scattered=scattered)


def _size(kept: Kept) -> Num:
    size = kept.storage.size_bytes
    return size if kept.when is ALWAYS else where(kept.when, size, 0)


def _same_copies(kept: Kept) -> bool:
    """Whether the first reader stands as often as the tensor: what all blocks share has the path where it was made."""
    return kept.reader.count("*") == len(kept.storage.place.indices)
