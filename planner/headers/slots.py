"""A model's tensors by the names that its checkpoint may give them: the tree's side of the comparison."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from planner.counts import held_tensors, tensors
from planner.nodes import Experts, Linear, Node, Row, walk

Indices: TypeAlias = tuple[int, ...]

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")


def pattern_of(name: str) -> tuple[str, Indices]:
    """Name with a star for each index, and the indices.

    Examples
    --------
    >>> pattern_of("model.layers.12.mlp.experts.3.w1.weight")
    ('model.layers.*.mlp.experts.*.w1.weight', (12, 3))
    """
    # A number beyond any list is a name: int() of one with thousands of digits is refused.
    indices = tuple(int(number) for number in NUMBER.findall(name) if len(number) < 10)
    return NUMBER.sub(lambda found: "*" if len(found[0]) < 10 else found[0], name), indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One tensor of one copy of a leaf.

    Attributes
    ----------
    name : str
        As the class of transformers names it.
    path : str
        Path of its row in the tree, with stars.
    shape : tuple of int
        As torch holds it. [-]
    bucket : str
        Component in the breakdown.
    tied_to : str or None
        Path of the module whose weight it is; None where it is held here.
    yields_logits : bool
        It is the output matrix over a vocabulary.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    bucket: str
    tied_to: str | None
    yields_logits: bool

    @property
    def numel(self) -> int:
        """Elements. [-]"""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True, slots=True)
class Target:
    """Slots of all copies under one name with stars.

    Attributes
    ----------
    slots : dict of indices to Slot
        The copies.
    experts : int
        Where a file has a tensor an expert, and so one index more than the class: how many there are; else 0. [-]
    share : int
        Such a tensor is one of so many in a slot: the experts, twice them where gate and up are one. [-]
    """

    slots: dict[Indices, Slot]
    experts: int = 0
    share: int = 1

    def find(self, indices: Indices) -> Slot | None:
        """Slot of some indices, the expert's the last one; None where there is none."""
        if not self.experts:
            return self.slots.get(indices)
        return self.slots.get(indices[:-1]) if indices and indices[-1] < self.experts else None


def targets_of(tree: Node) -> dict[str, Target]:
    """Every tensor of a tree, tied ones too, by its name with stars; experts also one by one.

    Where several names are usual for an expert's matrix, there is a target for each.
    """
    found: dict[str, Target] = {}
    for row in walk(tree):
        held = {tensor.name for tensor in held_tensors(row)}
        for tensor in tensors(row.leaf):
            shape = tuple(int(size) for size in tensor.shape)
            pieces = _pieces(row, tensor.name)
            for path in row.real_paths():
                name = f"{path}.{tensor.name}" if tensor.name else path
                slot = Slot(
                    name=name,
                    path=f"{row.path}.{tensor.name}" if tensor.name else row.path,
                    shape=shape,
                    bucket=row.bucket,
                    tied_to=None if tensor.name in held else row.tied_to,
                    yields_logits=isinstance(row.leaf, Linear) and row.leaf.yields_logits,
                )
                pattern, indices = pattern_of(name)
                copies = found.setdefault(pattern, Target({})).slots
                # A module that runs a second time stands in the tree twice, once tied to itself.
                if slot.tied_to is None or indices not in copies:
                    copies[indices] = slot
                inside = pattern_of(path)[0]
                for piece, experts, share in pieces:
                    part = Target({}, experts, share)
                    found.setdefault(f"{inside}.*.{piece}" if experts else _beside(inside, piece), part).slots[
                        indices
                    ] = slot
    return found


GATES, UPS, DOWNS = ("gate_proj", "w1", "gate", "v1"), ("up_proj", "w3", "up"), ("down_proj", "w2", "down")
"""Names of an expert's matrices where a file has a module an expert: Llama's, and Mixtral's after the paper."""

HALVES = "gate_up_proj"
"""Matrix that has both of these side by side."""


def _beside(module: str, piece: str) -> str:
    return f"{module.rpartition('.')[0]}.{piece}"


def _pieces(row: Row, tensor: str) -> list[tuple[str, int, int]]:
    """What stands in a file for a part of a fused tensor, of one expert or of all: its name, the experts, the parts."""
    leaf = row.leaf
    if isinstance(leaf, Linear) and row.path.endswith(f".{HALVES}"):
        return [(f"{name}.{tensor}", 0, 2) for name in (GATES[0], UPS[0])]
    if not isinstance(leaf, Experts) or leaf.flat is not None:
        return []
    ending = "bias" if tensor.endswith("_bias") else "weight"
    experts = int(leaf.num_experts)
    if tensor.startswith("down"):
        return [(f"{name}.{ending}", experts, experts) for name in DOWNS]
    if leaf.gated:
        return [(f"{name}.{ending}", experts, 2 * experts) for name in (*GATES, *UPS)]
    return [(f"{name}.{ending}", experts, experts) for name in (*UPS, "w1", "fc1")]
