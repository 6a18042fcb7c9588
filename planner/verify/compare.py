"""What the tree says against what the real model is, path by path and both ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import nn

from planner.compute import forward_flops, fused_backward_flops, products_in_backward
from planner.counts import held_tensors
from planner.nodes import CONTEXT, Attention, Experts, Linear, Node, Row, walk
from planner.workload import Step

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path on which tree and real model do not agree.

    Attributes
    ----------
    path : str
        Of a parameter tensor, or of a module.
    quantity : str
        ``shape``, ``tensor`` (one of the two has it, or has it twice) or ``forward FLOPs``.
    expected, actual : tuple of int, int or None
        By the tree, and in the real model; None where there is no such path.
    """

    path: str
    quantity: str
    expected: Shape | int | None
    actual: Shape | int | None

    def __str__(self) -> str:
        return f"{self.path}: {self.quantity} {_shown(self.expected)} expected, {_shown(self.actual)} in the real model"


def _shown(value: Shape | int | None) -> str:
    if value is None:
        return "missing"
    return f"{value:,}" if isinstance(value, int) else str(list(value))


def expected_shapes(tree: Node) -> list[tuple[str, Shape]]:
    """Name and shape of every tensor that a tree holds, each copy of a repeated block for itself."""
    return [
        (f"{path}.{tensor.name}" if tensor.name else path, tuple(int(size) for size in tensor.shape))
        for row in walk(tree)
        for path in row.real_paths()
        for tensor in held_tensors(row)
    ]


def actual_shapes(model: nn.Module, stated: Collection[str] = ()) -> dict[str, Shape]:
    """Name and shape of every parameter of a real model, tied ones once.

    Parameters
    ----------
    model : nn.Module
        The real model.
    stated : collection of str
        Names that a tree gives. A tied parameter has several, and is listed under one of these where it can be: which
        of them comes first depends on the order in which a class creates its modules.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    known = set(stated)
    return {
        next((name for name in aliases if name in known), aliases[0]): tuple(parameter.shape)
        for parameter, aliases in names.items()
    }


def expected_flops(tree: Node, step: Step) -> dict[str, int]:
    """Forward FLOPs of each module's own products; rows with the same path belong to one module. [FLOP]"""
    by_path: Counter[str] = Counter()
    for row in map(as_run, walk(tree)):
        flops = int(forward_flops(row, step))
        for path in row.real_paths() if flops else ():
            by_path[path] += flops
    return dict(by_path)


def _caches_latents() -> bool:
    """Whether the installed transformers caches the latents of MLA, and not the keys and values made of them."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    return hasattr(DeepseekV3Attention, "expand_kv")


def as_run(row: Row) -> Row:
    """Row as transformers runs it, which in some classes is more than the model asks for."""
    if isinstance(row.leaf, Experts) and row.leaf.visits_all:
        return replace(row, leaf=replace(row.leaf, top_k=row.leaf.num_experts))
    if isinstance(row.leaf, Linear) and row.leaf.expands_cache and _caches_latents():
        return replace(row, stream=CONTEXT)
    return row


def attention_paths(tree: Node) -> frozenset[str]:
    """Modules that multiply queries, keys and values."""
    return frozenset(path for row in walk(tree) if isinstance(row.leaf, Attention) for path in row.real_paths())


def expected_backward(tree: Node, step: Step, fused: frozenset[str]) -> int:
    """Backward FLOPs where the attention at the paths `fused` computes its scores again. [FLOP]"""
    return sum(_row_backward(as_run(row), step, fused) for row in walk(tree))


def _row_backward(row: Row, step: Step, fused: frozenset[str]) -> int:
    plain = int(products_in_backward(row) * forward_flops(row, step))
    if not isinstance(row.leaf, Attention):
        return int(row.copies) * plain
    again = int(fused_backward_flops(row, step))
    return sum(again if path in fused else plain for path in row.real_paths())


def shape_differences(expected: list[tuple[str, Shape]], actual: Mapping[str, Shape]) -> Iterator[Difference]:
    """Tensors that only one of the two has, that a tree states twice, or whose shapes differ."""
    stated = dict(expected)
    for path, times in Counter(name for name, _ in expected).items():
        if times > 1:
            yield Difference(path, "times stated", times, int(path in actual))
    for path in dict.fromkeys((*stated, *actual)):
        if stated.get(path) != actual.get(path):
            yield Difference(path, "shape", stated.get(path), actual.get(path))


def flops_differences(expected: Mapping[str, int], actual: Mapping[str, int]) -> Iterator[Difference]:
    """Modules whose own products differ, and products at paths where the real model has no module."""
    for path in dict.fromkeys((*expected, *actual)):
        if expected.get(path, 0) != actual.get(path, 0):
            yield Difference(path, "forward FLOPs", expected.get(path, 0), actual.get(path))
