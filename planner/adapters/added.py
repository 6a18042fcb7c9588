"""What an adapter adds to a model and trains of it, as values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from planner.counts import Tensor
from planner.nodes import Row
from planner.numeric import Num

Kind: TypeAlias = Literal["adapter", "copy", "buffer"]
"""What an added tensor is: an ``adapter``'s own; a ``copy`` of a module that is trained in its place; a ``buffer``,
which is no parameter."""

Indices: TypeAlias = tuple[tuple[int, ...] | range | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedTensor:
    """One tensor that is added to a model.

    Attributes
    ----------
    path : str
        Module that it is added to, ``*`` for the index of a repeated block; empty where modules share it.
    tensor : Tensor
        Name and shape.
    copies : Num
        How often it stands in the model. [-]
    indices : tuple
        For each ``*`` of the path, the indices that it takes; None where a number of layers is a column.
    trains : bool
        Whether it has a gradient.
    kind : str
        See `Kind`.
    row : Row or None
        Row of the base that it belongs to.
    """

    path: str
    tensor: Tensor
    copies: Num = 1
    indices: Indices = ()
    trains: bool = True
    kind: Kind = "adapter"
    row: Row | None = None

    @property
    def elements(self) -> Num:
        """Elements of all copies. [-]"""
        return self.copies * self.tensor.numel


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedTensor:
    """One tensor of the base that is trained.

    Attributes
    ----------
    row : Row
        Its row.
    tensor : Tensor
        Name and shape.
    copies : Num
        How many of the row's copies are trained. [-]
    """

    row: Row
    tensor: Tensor
    copies: Num

    @property
    def elements(self) -> Num:
        """Elements of all trained copies. [-]"""
        return self.copies * self.tensor.numel


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterCounts:
    """What an adapter adds and trains. All counts are parameters. [-]

    Attributes
    ----------
    added : tuple of AddedTensor
        In the order of the tree, those that modules share first.
    trained : tuple of TrainedTensor
        Tensors of the base that are trained.
    base_total : Num
        Parameters of the base.
    """

    added: tuple[AddedTensor, ...]
    trained: tuple[TrainedTensor, ...]
    base_total: Num

    @property
    def added_parameters(self) -> Num:
        """Parameters that are added, trained or not."""
        return _sum(one.elements for one in self.added if one.kind != "buffer")

    @property
    def trained_of_base(self) -> Num:
        """Parameters of the base that are trained."""
        return _sum(one.elements for one in self.trained)

    @property
    def trainable(self) -> Num:
        """Parameters that have a gradient."""
        return _sum(one.elements for one in self.added if one.trains) + self.trained_of_base

    @property
    def total(self) -> Num:
        """Parameters of the base and what is added."""
        return self.base_total + self.added_parameters


def _sum(numbers: Iterator[Num]) -> Num:
    total: Num = 0
    for number in numbers:
        total = total + number
    return total
