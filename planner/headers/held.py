"""The comparison of files with a model: its parameters as they are stored, what is beyond them, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from planner.headers.beyond import UNKNOWN, Beyonds, tied_kind
from planner.headers.gguf_names import match_gguf
from planner.headers.names import Match, Weights, match, split_fused
from planner.headers.roles import WEIGHTS, Part, weights_of
from planner.headers.slots import Slot, Target, targets_of
from planner.headers.stored import StoredCheckpoint, bytes_by_dtype
from planner.models import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One tensor of the model, as the files hold it.

    Attributes
    ----------
    slot : Slot
        The model's tensor: its name, shape and component.
    parts : tuple of Part
        What is stored for it: its values, or codes, scales and zero points; of each expert where files have them apart.
    elements : int
        Parameters that are stored; those of the slot, unless the files disagree with the config. [-]
    """

    slot: Slot
    parts: tuple[Part, ...]
    elements: int

    @property
    def size_bytes(self) -> int:
        """All that is stored for it. [B]"""
        return sum(part.tensor.size_bytes for part in self.parts)

    @property
    def weight_bytes(self) -> int:
        """Its values or codes, without what stands beside them. [B]"""
        return sum(part.tensor.size_bytes for part in self.parts if part.role in WEIGHTS)

    @property
    def dtype(self) -> str:
        """Dtype of its values or codes; of the most of them where experts differ."""
        return next(iter(bytes_by_dtype(tuple(part.tensor for part in self.parts if part.role in WEIGHTS))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """Stored tensors that are no parameter of the model.

    Attributes
    ----------
    weight : str
        Name of the one, or of what the others belong to.
    parts : tuple of Part
        What is stored for it.
    kind : str
        One of `planner.headers.beyond.WHY`, or ``other_class``.
    why : str
        What it is.
    """

    weight: str
    parts: tuple[Part, ...]
    kind: str
    why: str

    @property
    def size_bytes(self) -> int:
        """All that is stored for it. [B]"""
        return sum(part.tensor.size_bytes for part in self.parts)

    @property
    def elements(self) -> int:
        """Elements of its values or codes, as the header counts them. [-]"""
        return sum(part.tensor.numel for part in self.parts if part.role in WEIGHTS)


@dataclass(frozen=True)
class Comparison:
    """A model and the files of its checkpoint: held and beyond are all of the files, held and missing all of the model.

    Attributes
    ----------
    stored : StoredCheckpoint
        The files.
    held : mapping of str to Held
        Tensors of the model that the files hold, by name.
    beyond : tuple of Beyond
        What else they hold.
    missing : tuple of Slot
        Tensors of the model that they do not hold.
    by_shape : frozenset of str
        Names of tensors that nothing but their shape tells.
    """

    stored: StoredCheckpoint
    held: Mapping[str, Held]
    beyond: tuple[Beyond, ...]
    missing: tuple[Slot, ...]
    by_shape: frozenset[str]

    @cached_property
    def differing(self) -> tuple[Held, ...]:
        """Held with another number of elements than the config says."""
        return tuple(held for held in self.held.values() if held.elements != held.slot.numel)

    @property
    def held_bytes(self) -> int:
        """All that is stored for the model's parameters. [B]"""
        return sum(held.size_bytes for held in self.held.values())

    @property
    def beyond_bytes(self) -> int:
        """All that is stored beyond them. [B]"""
        return sum(beyond.size_bytes for beyond in self.beyond)


def compare(model: Model, stored: StoredCheckpoint) -> Comparison:
    """Match the tensors of a checkpoint with those of a model.

    Parameters
    ----------
    model : Model
        As its config describes it.
    stored : StoredCheckpoint
        Headers of its files.

    Raises
    ------
    CatalogError
        A shipped list of endings is broken.
    """
    targets = targets_of(model.tree)
    own = {slot.name: slot for target in targets.values() if not target.experts for slot in target.slots.values()}
    weights = weights_of(stored.tensors, frozenset(own))
    if stored.format == "safetensors":
        weights = split_fused(weights, targets)
    matched = _match(weights, targets, stored)
    held, tied = _collect(weights, matched)
    _take_over(held, tied, own)
    held = {name: held[name] for name in own if name in held}
    missing = tuple(slot for name, slot in own.items() if slot.tied_to is None and name not in held)
    return Comparison(
        stored=stored,
        held=held,
        beyond=tuple(_beyond(model, weights, matched, tied, targets)),
        missing=missing,
        by_shape=frozenset(found.slot.name for found in matched.values() if found.by_shape),
    )


def _match(weights: Weights, targets: Mapping[str, Target], stored: StoredCheckpoint) -> dict[str, Match]:
    if stored.format == "gguf":
        return match_gguf(weights, targets, stored.files[0].metadata)
    return match(weights, targets)


def _collect(weights: Weights, matched: Mapping[str, Match]) -> tuple[dict[str, Held], dict[str, Held]]:
    """Parts of every slot, for those that the model holds and for those that are another's."""
    parts: dict[str, list[Part]] = {}
    elements: dict[str, int] = {}
    slots: dict[str, Slot] = {}
    for weight, found in matched.items():
        name = found.slot.name
        slots[name] = found.slot
        parts.setdefault(name, []).extend(weights[weight])
        elements[name] = elements.get(name, 0) + found.elements
    every = {name: Held(slot=slot, parts=tuple(parts[name]), elements=elements[name]) for name, slot in slots.items()}
    held = {name: one for name, one in every.items() if one.slot.tied_to is None}
    return held, {name: one for name, one in every.items() if name not in held}


def _take_over(held: dict[str, Held], tied: dict[str, Held], own: Mapping[str, Slot]) -> None:
    """Where only the copy of a tied weight is stored, it is the weight."""
    for name, copy in list(tied.items()):
        last = name.rpartition(".")[2]
        original = own.get(f"{copy.slot.tied_to}.{last}")
        if original is not None and original.name not in held:
            held[original.name] = Held(slot=original, parts=copy.parts, elements=copy.elements)
            del tied[name]


def _beyond(
    model: Model,
    weights: Weights,
    matched: Mapping[str, Match],
    tied: Mapping[str, Held],
    targets: Mapping[str, Target],
) -> Iterable[Beyond]:
    known = Beyonds(model, targets, weights)
    for name, copy in tied.items():
        kind, why = tied_kind(copy.slot)
        name = copy.parts[0].tensor.name if len(copy.parts) == 1 else name
        yield Beyond(weight=name, parts=copy.parts, kind=kind, why=why)
    for weight, parts in weights.items():
        if weight not in matched:
            kind, why = known.kind_of(weight, parts)
            yield Beyond(weight=weight, parts=parts, kind=kind, why=why)


__all__ = ["UNKNOWN", "Beyond", "Comparison", "Held", "compare"]
