"""The walk over a tree: its leaves, each with everything that its place says about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.nodes.kinds import TOKENS, Leaf, Module, Node, Repeat, Stack, Stream, Tied
from planner.nodes.style import Style
from planner.numeric import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One leaf of a tree, with everything that its place says about it.

    Attributes
    ----------
    path : str
        Dotted path; ``*`` stands for the index of a repeated block.
    leaf : Leaf
        The node.
    tied_to : str or None
        Path of the weight that it shares; None where it holds its own.
    copies : Num
        How often it stands in the model. [-]
    runs : Num
        How often a forward pass runs each copy. [-]
    indices : tuple
        For each ``*`` of the path, the indices that it takes; None where the number is a column or a symbol.
    bucket : str
        Component in the breakdown.
    stream : Stream
        Positions that pass through.
    backward : bool
        Whether gradients of the model's loss flow through it.
    """

    path: str
    leaf: Leaf
    tied_to: str | None
    copies: Num
    runs: Num
    indices: tuple[tuple[int, ...] | range | None, ...]
    bucket: str
    stream: Stream
    backward: bool = True

    def real_paths(self) -> Iterator[str]:
        """Path of each copy in the torch model, such as ``model.layers.3.self_attn.q_proj``."""
        paths = [""]
        for part, indices in zip(self.path.split("*"), (*self.indices, None), strict=True):
            paths = [prefix + part for prefix in paths]
            if indices is not None:
                paths = [f"{prefix}{index}" for prefix in paths for index in indices]
        yield from paths


def walk(tree: Node) -> Iterator[Row]:
    """Leaves of a tree in torch's order, repeated blocks once.

    Examples
    --------
    >>> from planner.nodes import Linear
    >>> block = Module(children={"up": Linear(in_features=4, out_features=8)}, bucket="mlp")
    >>> [row.path for row in walk(Module(children={"layers": Repeat(child=block, count=2, indices=range(2))}))]
    ['layers.*.up']
    """
    yield from _walk(tree, Place())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in a tree, and what it inherits from those above it; see `Module` and `Row`."""

    path: str = ""
    copies: Num = 1
    runs: Num = 1
    indices: tuple[tuple[int, ...] | range | None, ...] = ()
    bucket: str = "other.misc"
    stream: Stream = TOKENS
    tower: str = ""
    backward: bool = True
    style: Style | None = None

    def join(self, name: str) -> str:
        """Path of a child."""
        return f"{self.path}.{name}" if self.path and name else self.path or name

    def child(self, name: str) -> Place:
        """Place of a child."""
        return replace(self, path=self.join(name))

    def inside(self, module: Module) -> Place:
        """Place of what a module holds."""
        return replace(
            self,
            bucket=module.bucket or self.bucket,
            stream=module.stream or self.stream,
            tower=self.tower + module.tower,
            runs=self.runs * module.runs,
            backward=self.backward and module.backward,
            style=module.style or self.style,
        )

    def repeated(self, block: Repeat) -> Place:
        """Place of any copy of a block."""
        return replace(
            self,
            path=self.join("*"),
            copies=self.copies * block.count,
            indices=(*self.indices, block.indices),
        )

    def row(self, node: Leaf | Tied) -> Row:
        """A leaf with everything that this place says about it."""
        leaf, tied_to = (node.module, node.to) if isinstance(node, Tied) else (node, None)
        bucket = leaf.bucket or self.bucket
        return Row(
            path=self.path,
            leaf=leaf,
            tied_to=tied_to,
            copies=self.copies,
            runs=self.runs,
            indices=self.indices,
            bucket=f"{self.tower}.{bucket}" if self.tower else bucket,
            stream=leaf.stream or self.stream,
            backward=self.backward,
        )


def _walk(node: Node, place: Place) -> Iterator[Row]:
    if isinstance(node, Module):
        inside = place.inside(node)
        for name, child in node.children.items():
            yield from _walk(child, inside.child(name))
    elif isinstance(node, Stack):
        for part in node.parts:
            yield from _walk(part, place)
    elif isinstance(node, Repeat):
        yield from _walk(node.child, place.repeated(node))
    else:
        yield place.row(node)
