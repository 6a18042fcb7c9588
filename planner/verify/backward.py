"""What a training step holds while its blocks run backward: it follows from the operators, as what is kept does.

Backward meets the blocks from the last to the first. Those that are still to come hold what they keep, or their input
only where they are computed again; those that are done have left the gradients of their weights. The block at work
holds what it keeps, the gradients of its activations, and the gradients of the weights that it has met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from planner.activations.replay import BlockAtWork, ClockedTape
from planner.activations.saved import SavedTensor
from planner.activations.tape import Value, Weight
from planner.compute import positions
from planner.counts import held_tensors
from planner.nodes import Embedding, Node, Row, walk
from planner.numeric import Num
from planner.workload import Step

AT_WORK, LAST = "backward of the blocks", "backward of the embedding"
"""Moments of backward; which block is at work at the fullest one depends on the model."""


@dataclass(slots=True)
class WeightedTape(ClockedTape):
    """A clocked tape on which weights have gradients as well, from the backward of their operator on."""

    def linear(self, value: Value, weight: Weight, out_elements: Num) -> Value:
        """Product with a weight."""
        gradient = self._gradient(weight)
        result = ClockedTape.linear(self, value, weight, out_elements)
        return self._made_with(gradient, result)

    def gain(self, value: Value, weight: Weight) -> Value:
        """Product of every vector with a parameter."""
        gradient = self._gradient(weight)
        result = ClockedTape.gain(self, value, weight)
        return self._made_with(gradient, result)

    def _gradient(self, weight: Weight) -> Value:
        """A tensor that takes no share in the turns of experts: all of them have a gradient in the end."""
        with self.at(replace(self.place, path=f"{self.place.path}.gradient")):
            return self.new(weight.elements if weight.trains else 0, self.arithmetic.weights)

    def _made_with(self, gradient: Value, result: Value) -> Value:
        """Backward runs the clock back, so what lasts to its end is there since the clock began."""
        life = self._lives[id(gradient.storage)]
        life.made, life.read = 0, self._lives[id(result.storage)].made
        return result


@dataclass(slots=True, kw_only=True)
class _Kind:
    """Blocks that are alike. [B]"""

    work: BlockAtWork
    indices: Sequence[int]
    kept: int = 0
    gradients: int = 0


@dataclass(slots=True, kw_only=True)
class _Parts:
    """A model in the order of its forward pass: what stands before its blocks, their kinds, what stands behind. [B]"""

    before: int = 0
    gradients_before: int = 0
    gradients_behind: int = 0
    kinds: dict[tuple[str, tuple[int, ...]], _Kind] = field(default_factory=dict)


def backward_moments(
    tree: Node,
    step: Step,
    saved: Sequence[SavedTensor],
    blocks: Sequence[BlockAtWork],
    *,
    element_bytes: int,
    checkpointing: bool,
    watched: bool,
) -> dict[str, int]:
    """Bytes that backward holds beside weights and the optimizer's states, at its fullest moments behind the loss.

    Parameters
    ----------
    tree : Node
        The model, all of whose weights train.
    step : Step
        Which decides which of them run.
    saved : sequence of SavedTensor
        What autograd keeps where no block is computed again.
    blocks : sequence of BlockAtWork
        Every kind of block while it runs backward, as a `WeightedTape` has it.
    element_bytes : int
        Of a weight and of its gradient. [B]
    checkpointing : bool
        Blocks are computed again, and keep their input only.
    watched : bool
        A counter sees every operator; autograd then sums gradients into a new tensor, and not into one of them.

    Returns
    -------
    dict of str to int
        Of the block that is fullest, and of the tables behind which nothing is left. [B]
    """
    parts = _parts([row for row in walk(tree) if not is_idle(row, step)], saved, blocks, element_bytes)
    order = list(_in_order(parts))
    waiting = [int(kind.work.input_bytes) if checkpointing else kind.kept for kind in order]
    done, fullest, ahead = parts.gradients_behind, 0, sum(waiting)
    for kind, size in zip(reversed(order), reversed(waiting), strict=True):
        ahead -= size
        own = int(kind.work.peak_bytes) + (int(kind.work.input_bytes) if checkpointing or kind.work.keeps_input else 0)
        fullest = max(fullest, parts.before + ahead + done + own)
        done += kind.gradients
    # The tables' turn comes when the gradient of what entered the first block is there.
    handed_on = int(order[0].work.input_bytes) if order else 0
    tables = parts.gradients_before + (2 if watched else 1) * _tied_bytes(tree, element_bytes)
    return {AT_WORK: fullest, LAST: parts.before + done + tables + handed_on}


def is_idle(row: Row, step: Step) -> bool:
    """Whether a step leaves a row out, as one without images leaves out a tower: its weights get no gradients."""
    return int(positions(row.stream, step)) == 0


def sum_bytes(saved: Sequence[SavedTensor]) -> int:
    """Of all copies. [B]"""
    return sum(int(tensor.size_bytes * tensor.copies) for tensor in saved)


def outside_bytes(saved: Sequence[SavedTensor]) -> int:
    """Of what belongs to no block. [B]"""
    return sum_bytes([tensor for tensor in saved if not tensor.in_block])


def _in_order(parts: _Parts) -> Iterator[_Kind]:
    """Kinds of blocks in the order in which they run: one stack after the other, and in a stack by position."""
    stacks = dict.fromkeys(stack for stack, _ in parts.kinds)
    for name in stacks:
        turns = {index: kind for (stack, _), kind in parts.kinds.items() if stack == name for index in kind.indices}
        yield from (turns[index] for index in sorted(turns))


def _parts(
    rows: Sequence[Row], saved: Sequence[SavedTensor], blocks: Sequence[BlockAtWork], element_bytes: int
) -> _Parts:
    parts = _Parts()
    for block in blocks:
        indices = tuple(block.indices or ())
        stack = block.path.partition(".*")[0]
        parts.kinds[(stack, indices)] = _Kind(indices=indices, work=block)
    since = 0
    for tensor in saved:
        size = int(tensor.size_bytes * tensor.copies)
        kind = parts.kinds.get(_key(tensor.path, tensor.indices))
        if kind is None:
            since += size
        else:
            kind.kept += size // len(kind.indices)
            # What is read before a block is still there when it runs backward; what stands behind all is not.
            parts.before, since = parts.before + since, 0
    behind = False
    for row in rows:
        size = int(row.copies) * element_bytes * sum(int(tensor.numel) for tensor in held_tensors(row))
        kind = parts.kinds.get(_key(row.path, row.indices))
        behind = behind or kind is not None
        if kind is not None:
            kind.gradients += size // len(kind.indices)
        elif behind or not isinstance(row.leaf, Embedding):
            parts.gradients_behind += size
        else:
            parts.gradients_before += size
    return parts


def _key(path: str, indices: Sequence[Sequence[int] | None]) -> tuple[str, tuple[int, ...]]:
    return path.partition(".*")[0], tuple((indices[0] if indices else None) or ())


def _tied_bytes(tree: Node, element_bytes: int) -> int:
    """A table that is the head's matrix as well gets a gradient from both, which are summed at the end. [B]"""
    rows = list(walk(tree))
    tied = {row.tied_to for row in rows if row.tied_to is not None}
    return sum(_numel(row) * element_bytes for row in rows if isinstance(row.leaf, Embedding) and _is_tied(row, tied))


def _is_tied(row: Row, tied: set[str]) -> bool:
    return any(name == row.path or name.startswith(f"{row.path}.") for name in tied)


def _numel(row: Row) -> int:
    return sum(int(tensor.numel) for tensor in held_tensors(row))
