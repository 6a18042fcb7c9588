"""Which tensor of a model a stored weight is, where file and class name it differently.

A class of transformers may hold a model under a longer or a shorter path than its files do, experts in one tensor that
files hold one by one, or parts under other names. What is not named alike is brought together by its ending, after the
renames of the catalog, and last by a shape that nothing else has; each has to be the other's best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from planner.headers.renames import spellings, splits
from planner.headers.roles import Part
from planner.headers.slots import Indices, Slot, Target, pattern_of

FEWEST_IN_COMMON = 2
"""Parts of a name, counted from its end, that two names must share: the module and its tensor."""

Weights: TypeAlias = Mapping[str, tuple[Part, ...]]
Copies: TypeAlias = list[tuple[str, Indices]]


@dataclass(frozen=True, slots=True)
class Match:
    """Slot that a weight is, or is one of several parts of.

    Attributes
    ----------
    slot : Slot
        The tensor of the model.
    elements : int
        Parameters that the weight stands for: what the file holds, or, where that is packed, its part of the slot. [-]
    by_shape : bool
        Nothing but its shape says so.
    """

    slot: Slot
    elements: int
    by_shape: bool = False


def match(weights: Weights, targets: Mapping[str, Target]) -> dict[str, Match]:
    """Slot of every weight that has one, by the weight's name."""
    patterns: dict[str, Copies] = {}
    for name in weights:
        pattern, indices = pattern_of(name)
        patterns.setdefault(pattern, []).append((name, indices))
    named = {pattern: pattern for pattern in patterns if pattern in targets}
    named |= _by_ending(_without(patterns, named), weights, _without(targets, named.values()))
    shaped = _by_shape(_without(patterns, named), weights, _without(targets, _with_parts(named.values(), targets)))
    found = {}
    for pattern, chosen in (named | shaped).items():
        target = targets[chosen]
        for name, indices in patterns[pattern]:
            slot = target.find(indices)
            if slot is not None:
                packed = _is_packed(weights[name])
                elements = slot.numel // target.share if packed else _values(weights[name])
                found[name] = Match(slot, elements, by_shape=pattern in shaped)
    return found


T = TypeVar("T")


def _without(held: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    left = set(names)
    return {name: value for name, value in held.items() if name not in left}


def _is_packed(parts: Iterable[Part]) -> bool:
    return any(part.role == "codes" for part in parts)


def _values(parts: Iterable[Part]) -> int:
    return sum(part.tensor.numel for part in parts if part.role == "values")


def _with_parts(chosen: Iterable[str], targets: Mapping[str, Target]) -> set[str]:
    """Targets of which a slot is taken: those chosen, and other names for the same tensors."""
    taken = {slot.name for pattern in chosen for slot in targets[pattern].slots.values()}
    return {pattern for pattern, target in targets.items() if any(s.name in taken for s in target.slots.values())}


def _by_ending(patterns: Mapping[str, Copies], weights: Weights, targets: Mapping[str, Target]) -> dict[str, str]:
    """Name in the class whose ending agrees most, for each name in the file."""
    by_ending: dict[str, list[str]] = {}
    for pattern in targets:
        by_ending.setdefault(_ending(pattern), []).append(pattern)
    scores: dict[tuple[str, str], int] = {}
    for pattern, copies in patterns.items():
        for spelling in spellings(pattern):
            for candidate in by_ending.get(_ending(spelling), ()):
                if candidate.count("*") == pattern.count("*") and _fits(copies, weights, targets[candidate]):
                    pair = pattern, candidate
                    scores[pair] = max(scores.get(pair, 0), _common(spelling, candidate))
    return _each_others_best(scores)


def _each_others_best(scores: Mapping[tuple[str, str], int]) -> dict[str, str]:
    """Pairs of which each is the other's only best."""
    best: list[dict[str, list[tuple[int, str]]]] = [{}, {}]
    for pair, score in scores.items():
        for side in (0, 1):
            best[side].setdefault(pair[side], []).append((score, pair[1 - side]))
    chosen: list[dict[str, str]] = [{}, {}]
    for side in (0, 1):
        for name, ranked in best[side].items():
            ranked.sort(reverse=True)
            if len(ranked) == 1 or ranked[0][0] > ranked[1][0]:
                chosen[side][name] = ranked[0][1]
    return {pattern: candidate for pattern, candidate in chosen[0].items() if chosen[1].get(candidate) == pattern}


def _ending(pattern: str) -> str:
    return ".".join(pattern.split(".")[-FEWEST_IN_COMMON:])


def _common(one: str, other: str) -> int:
    """Parts that two names share, counted from their ends."""
    shared = 0
    for first, second in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if first != second:
            break
        shared += 1
    return shared


def _fits(copies: Copies, weights: Weights, target: Target) -> bool:
    """Whether a target has one of the weights, and as many elements where the file holds its values."""
    for name, indices in copies:
        slot = target.find(indices)
        if slot is not None:
            return _is_packed(weights[name]) or _values(weights[name]) * target.share == slot.numel
    return False


def _by_shape(patterns: Mapping[str, Copies], weights: Weights, targets: Mapping[str, Target]) -> dict[str, str]:
    """Name in the class for a name in the file, where both have a shape, and copies, that no others have."""
    Key: TypeAlias = tuple[tuple[int, ...], frozenset[Indices]]
    in_file: dict[Key, list[str]] = {}
    for pattern, copies in patterns.items():
        parts = weights[copies[0][0]]
        if len(parts) == 1 and parts[0].role == "values" and parts[0].tensor.shape:
            key = (parts[0].tensor.shape, frozenset(indices for _, indices in copies))
            in_file.setdefault(key, []).append(pattern)
    in_class: dict[Key, list[str]] = {}
    for pattern, target in targets.items():
        if not target.experts and target.share == 1:
            slot = next(iter(target.slots.values()))
            if slot.tied_to is None:
                in_class.setdefault((slot.shape, frozenset(target.slots)), []).append(pattern)
    return {
        found[0]: in_class[key][0]
        for key, found in in_file.items()
        if len(found) == 1 and len(in_class.get(key, ())) == 1
    }


def split_fused(weights: Weights, targets: Mapping[str, Target]) -> dict[str, tuple[Part, ...]]:
    """Weights, with those cut into parts that a class holds as several tensors.

    A part has the dtype of the whole and the share of its bytes that its elements have of the elements.
    """
    made: dict[str, tuple[Part, ...]] = {}
    for name, parts in weights.items():
        pattern, _ = pattern_of(name)
        pieces = {} if pattern in targets or len(parts) > 1 else _pieces(name, parts[0], targets)
        made |= pieces or {name: parts}
    return made


def _pieces(name: str, whole: Part, targets: Mapping[str, Target]) -> dict[str, tuple[Part, ...]]:
    tensor = whole.tensor
    for names in splits(name):
        slots = [_slot_of(piece, targets) for piece in names]
        sizes = [slot.numel for slot in slots if slot is not None]
        if len(sizes) != len(names) or sum(sizes) != tensor.numel or tensor.size_bytes % tensor.numel:
            continue
        width = tensor.size_bytes // tensor.numel
        return {
            piece: (replace(whole, tensor=replace(tensor, shape=slot.shape, size_bytes=slot.numel * width)),)
            for piece, slot in zip(names, slots, strict=True)
            if slot is not None
        }
    return {}


def _slot_of(name: str, targets: Mapping[str, Target]) -> Slot | None:
    """Slot whose name agrees with one longest from the end."""
    pattern, indices = pattern_of(name)
    close = [candidate for candidate in targets if _ending(candidate) == _ending(pattern)]
    best = max(close, key=lambda candidate: _common(candidate, pattern), default=None)
    return None if best is None else targets[best].find(indices)
