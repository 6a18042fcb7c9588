"""Saved activations of one rank: the profile's fold, divided by the degrees, less what is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.activations import SavedTensor
from planner.errors import PlannerError
from planner.numeric import Num, exact_quotient, maximum
from planner.parallelism import Parallelism, Stage
from planner.training.job import Recompute


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one micro-batch leaves on one rank between its forward and its backward. [B]

    Attributes
    ----------
    chunks : tuple of Num
        Of the blocks of each model chunk of the stage; one where the pipeline is not interleaved.
    before, behind : Num
        Of what stands before the blocks, such as embeddings, and behind them, such as the final norm.
    largest_block : Num
        Of the block that keeps most, nothing dropped: what recomputing it makes for a moment.
    largest_kept : Num
        Of the block that keeps most, as it is kept.
    """

    chunks: tuple[Num, ...]
    before: Num
    behind: Num
    largest_block: Num
    largest_kept: Num

    @property
    def blocks(self) -> Num:
        """Of all blocks of the stage. [B]"""
        total: Num = 0
        for chunk in self.chunks:
            total = total + chunk
        return total

    @property
    def outside(self) -> Num:
        """Of what stands in no block. [B]"""
        return self.before + self.behind


def rank_bytes(saved: SavedTensor, parallelism: Parallelism) -> Num:
    """One saved tensor of one copy on one rank: context parallelism divides all of them. [B]"""
    match saved.split:
        case "tensor" | "scattered":
            divided: Num = parallelism.tp
        case "sequence":
            divided = parallelism.tp if parallelism.sequence_parallel else 1
        case "expert":
            # Every rank of an expert gathers what all of them were sent.
            divided = parallelism.tp / parallelism.expert_tp if parallelism.sequence_parallel else 1
        case "none":
            divided = 1
    return saved.size_bytes / (parallelism.cp * divided)


@dataclass(slots=True)
class _Kind:
    """Blocks that are alike. [B]"""

    indices: tuple[int, ...] | range | None
    copies: Num
    whole: Num = 0
    dropped: Num = 0


def kept(
    saved: Sequence[SavedTensor],
    parallelism: Parallelism,
    stage: Stage,
    recompute: Recompute,
    block_input_bytes: Num,
) -> Kept:
    """Saved bytes of one micro-batch on one rank.

    Parameters
    ----------
    saved : sequence of SavedTensor
        The profile's fold, before any rank divides it.
    parallelism, stage : Parallelism, Stage
        Degrees, and which blocks the rank holds.
    recompute : Recompute
        What is dropped.
    block_input_bytes : Num
        What stays of a block that is recomputed whole, on one rank. [B]

    Raises
    ------
    PlannerError
        The number of blocks is a column, and recomputation or a pipeline tells them apart.
    """
    before: Num = 0
    behind: Num = 0
    stacks: dict[str, dict[object, _Kind]] = {}
    for tensor in saved:
        size = rank_bytes(tensor, parallelism)
        if not tensor.in_block:
            if stacks or tensor.part == "head":
                behind = behind + tensor.copies * size
            else:
                before = before + tensor.copies * size
            continue
        outer = tensor.indices[0]
        kinds = stacks.setdefault(tensor.path.split(".*", 1)[0], {})
        kind = kinds.setdefault(_key(outer), _Kind(outer, tensor.copies))
        size = size * (1 if outer is None else exact_quotient(tensor.copies, len(outer)))
        kind.whole = kind.whole + size
        if not recompute.drops(tensor.part):
            kind.dropped = kind.dropped + size
    chunks = _chunks(stacks, stage, recompute, block_input_bytes)
    largest: Num = 0
    largest_kept: Num = 0
    for kind in (kind for kinds in stacks.values() for kind in kinds.values()):
        largest = maximum(largest, kind.whole)
        largest_kept = maximum(largest_kept, block_input_bytes if recompute.kind == "full" else kind.dropped)
    return Kept(
        chunks=chunks,
        before=before if stage.first else 0,
        behind=behind if stage.last else 0,
        largest_block=largest * recompute.group,
        largest_kept=largest_kept,
    )


def _key(indices: tuple[int, ...] | range | None) -> object:
    return None if indices is None else tuple(indices)


def _chunks(
    stacks: dict[str, dict[object, _Kind]], stage: Stage, recompute: Recompute, block_input_bytes: Num
) -> tuple[Num, ...]:
    """Bytes of each model chunk: the longest stack is cut, others lie on the first stage."""
    if not stacks:
        return (0,)
    main = max(stacks, key=lambda name: _length(stacks[name]))
    cut = stage.chunks or (None,)
    sizes: list[Num] = []
    for position, layers in enumerate(cut):
        size: Num = _stack_bytes(stacks[main], layers, recompute, block_input_bytes)
        if position == 0 and stage.first:
            for name, kinds in stacks.items():
                if name != main:
                    size = size + _stack_bytes(kinds, None, recompute, block_input_bytes)
        sizes.append(size)
    return tuple(sizes)


def _length(kinds: dict[object, _Kind]) -> int:
    return sum(1 if kind.indices is None else len(kind.indices) for kind in kinds.values())


def _stack_bytes(
    kinds: dict[object, _Kind], layers: tuple[int, ...] | None, recompute: Recompute, block_input_bytes: Num
) -> Num:
    if any(kind.indices is None for kind in kinds.values()):
        return _uncounted_bytes(kinds, layers, recompute, block_input_bytes)
    size_of = {index: kind for kind in kinds.values() for index in kind.indices or ()}
    held = sorted(size_of if layers is None else set(size_of) & set(layers))
    total: Num = 0
    if recompute.kind != "full":
        for index in held:
            total = total + size_of[index].dropped
        return total
    again = held if recompute.blocks is None else held[: recompute.blocks]
    recomputed = again[:: recompute.every]
    for index in held:
        if index not in recomputed:
            total = total + size_of[index].dropped
    checkpoints = -(-len(recomputed) // recompute.group)
    return total if recompute.offload else total + checkpoints * block_input_bytes


def _uncounted_bytes(
    kinds: dict[object, _Kind], layers: tuple[int, ...] | None, recompute: Recompute, block_input_bytes: Num
) -> Num:
    """Where the number of blocks is a column: all blocks of a kind are treated alike."""
    if layers is not None or recompute.every != 1 or recompute.blocks is not None or recompute.group != 1:
        raise PlannerError("a number of layers that is swept cannot be cut or recomputed in part", key="recompute")
    total: Num = 0
    for kind in kinds.values():
        count = kind.copies if kind.indices is None else len(kind.indices)
        if recompute.kind == "full":
            total = total + (0 if recompute.offload else count * block_input_bytes)
        else:
            total = total + count * kind.dropped
    return total
