"""What recurrences multiply, set apart: none of it is a product of the model's, and larger chunks make it more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.compute import forward_flops
from planner.nodes import Convolution, Node, Scan, walk
from planner.workload import Step


@dataclass(frozen=True, slots=True)
class Compared:
    """Forward FLOPs by module, of both sides, that can be compared. [FLOP]

    Attributes
    ----------
    expected, actual : dict of str to int
        By the tree, and in the real model.
    apart : int
        What the real model multiplies beyond that, in recurrences and where convolutions run past the sequence.
    """

    expected: dict[str, int]
    actual: dict[str, int]
    apart: int


def has_scans(tree: Node) -> bool:
    """Whether a model has recurrent layers."""
    return any(isinstance(row.leaf, Scan) for row in walk(tree))


def set_scans_apart(tree: Node, step: Step, expected: Mapping[str, int], actual: Mapping[str, int]) -> Compared:
    """Both sides of a comparison without what recurrences multiply.

    A mixer of transformers runs its recurrence in its own `forward`, in chunks or token by token, and applies some of
    its projections there as functions: their FLOPs are expected of the mixer. What it does beyond them is set apart.

    Parameters
    ----------
    tree : Node
        The model.
    step : Step
        What was asked of it.
    expected, actual : mapping of str to int
        Forward FLOPs by module: by the tree, and in the real model. [FLOP]
    """
    scans = {path for row in walk(tree) if isinstance(row.leaf, Scan) for path in row.real_paths()}
    wanted, found = dict(expected), dict(actual)
    for path in expected:
        mixer = path.rpartition(".")[0]
        if mixer in scans and not actual.get(path):
            wanted[mixer] = wanted.get(mixer, 0) + wanted.pop(path)
    for path in scans & found.keys():
        found[path] = min(found[path], wanted.get(path, 0))
    for path, surplus in _beyond_the_sequence(tree, step):
        if path in found and found[path] == wanted.get(path, 0) + surplus:
            found[path] -= surplus
    return Compared(wanted, found, sum(actual.values()) - sum(found.values()))


def _beyond_the_sequence(tree: Node, step: Step) -> Iterator[tuple[str, int]]:
    """What a causal convolution computes past the end: torch pads both ends, and what the later yields is dropped."""
    tokens = int(step.sequence_length)
    for row in walk(tree):
        leaf = row.leaf
        if isinstance(leaf, Convolution) and len(leaf.kernel_size) == 1 and row.stream.kind == "tokens":
            surplus = int(forward_flops(row, step)) // tokens * (int(leaf.kernel_size[0]) - 1)
            yield from ((path, surplus) for path in row.real_paths())
