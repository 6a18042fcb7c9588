"""What one rank holds of a model's tensors: the only module that divides them by a degree of parallelism.

Tensor parallelism cuts matrices in pairs: the first by its outputs (``column``), the second by its inputs (``row``).
Which matrix is which follows from its place in the block; `catalog/tensor_parallel.csv` says it by the names that
modules have, and what is not named there is held by every rank.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias, assert_never, get_args

from planner.catalog import read_text
from planner.counts import Matrices, Tensor, held_tensors, tensors
from planner.errors import CatalogError, UnsupportedError
from planner.nodes import Attention, Embedding, Experts, Leaf, Linear, Node, Parameter, Row, walk
from planner.numeric import Num, ceil_div, exact_quotient, maximum, minimum
from planner.parallelism import ONE_DEVICE, WHOLE, Parallelism, Stage

FILENAME = "tensor_parallel.csv"

Cores: TypeAlias = dict[tuple[str, tuple[tuple[int, ...] | range | None, ...]], Attention]
"""Attentions of a tree by path and indices."""

Cut: TypeAlias = Literal["column", "key_value", "fused", "row", "vocabulary", "experts", "replicated"]
"""How a module's tensors are divided.

``column``: by outputs; ``key_value``: by outputs, but never less than one key/value head; ``fused``: queries, keys and
values in one matrix; ``row``: by inputs, its bias held by every rank; ``vocabulary``: by rows of the table or outputs
of the head; ``experts``: by whole experts, then within each; ``replicated``: held by every rank.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTensor:
    """One parameter tensor as one rank holds it.

    Attributes
    ----------
    row : Row
        Where it stands in the tree.
    tensor : Tensor
        Name, and the shape that the largest rank holds of one copy. [-]
    whole : Tensor
        The undivided tensor.
    copies : Num
        Copies on this pipeline stage. [-]
    cut : str
        See `Cut`.
    """

    row: Row
    tensor: Tensor
    whole: Tensor
    copies: Num
    cut: Cut

    @property
    def elements(self) -> Num:
        """Elements of all copies on this rank. [-]"""
        return self.copies * self.tensor.numel

    @property
    def is_expert(self) -> bool:
        """Whether it belongs to routed experts, which have data-parallel groups of their own."""
        return self.cut == "experts"


@cache
def _table() -> tuple[tuple[str, Cut], ...]:
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    rows: list[tuple[str, Cut]] = []
    for row in reader:
        if row["cut"] not in get_args(Cut):
            raise CatalogError(
                f"expected one of {', '.join(get_args(Cut))} in 'cut'", file=FILENAME, line=reader.line_num
            )
        rows.append((row["suffix"], row["cut"]))  # type: ignore[arg-type]  # checked above
    return tuple(sorted(rows, key=lambda item: -item[0].count(".")))


@cache
def _cut_of_name(path: str) -> Cut:
    named = ".".join(part for part in path.split(".") if part != "*")
    for suffix, cut in _table():
        if named == suffix or named.endswith(f".{suffix}"):
            return cut
    return "replicated"


def cut_of(row: Row) -> Cut:
    """How tensor parallelism divides the tensors of a row."""
    leaf = row.leaf
    if isinstance(leaf, Experts) or (isinstance(leaf, Parameter) and leaf.experts is not None):
        return "experts"
    if isinstance(leaf, Embedding):
        return "vocabulary" if row.bucket.endswith("embeddings.token") else "replicated"
    if isinstance(leaf, Linear):
        return "vocabulary" if leaf.yields_logits else _cut_of_name(row.path)
    return _cut_of_name(row.path)


def rank_tensors(
    tree: Node,
    parallelism: Parallelism = ONE_DEVICE,
    stage: Stage = WHOLE,
    *,
    vocabulary_multiple: Num = 1,
) -> Iterator[RankTensor]:
    """Parameter tensors that the fullest rank of a pipeline stage holds, tied ones once.

    Where a stage holds a tied output matrix and not the table that it shares, it holds a copy.

    Parameters
    ----------
    tree : Node
        The model.
    parallelism : Parallelism
        Degrees.
    stage : Stage
        Pipeline stage.
    vocabulary_multiple : Num
        The vocabulary is padded to a multiple of this before it is divided. [-]
    """
    rows = list(walk(tree))
    stack = main_stack(rows)
    heads = {(row.path, row.indices): row.leaf for row in rows if isinstance(row.leaf, Attention)}
    position = 0
    for row in rows:
        if stack is not None and row.path.startswith(f"{stack}.*"):
            position = 1
        copies = _copies(row, stack, stage, behind=position == 1)
        if isinstance(copies, int) and copies == 0:
            continue
        held = held_tensors(row)
        if row.tied_to is not None and not stage.first and stage.last:
            held = tensors(row.leaf)  # a stage of its own cannot share the table of another
        cut = cut_of(row)
        for tensor in held:
            local = _local(row, tensor, cut, parallelism, heads, vocabulary_multiple)
            yield RankTensor(row=row, tensor=local, whole=tensor, copies=copies, cut=cut)


def main_stack(rows: list[Row]) -> str | None:
    """Path of the list of blocks that a pipeline cuts: the longest one outside of vision and audio towers."""
    lengths: dict[str, int] = {}
    for row in rows:
        if "*" not in row.path or row.bucket.startswith(("vision.", "audio.")):
            continue
        name, outer = row.path.split(".*", 1)[0], row.indices[0]
        lengths[name] = max(lengths.get(name, 0), 1 if outer is None else max(outer, default=0) + 1)
    return max(lengths, key=lambda name: lengths[name]) if lengths else None


def stack_length(rows: list[Row], stack: str) -> Num:
    """Blocks in a list of blocks, a column where their number is swept. [-]"""
    inside = [row for row in rows if row.path.startswith(f"{stack}.*")]
    swept = [row for row in inside if row.indices[0] is None and len(row.indices) == 1]
    if swept:
        return swept[0].copies  # blocks whose number is swept are all alike
    return len({index for row in inside if row.indices[0] is not None for index in row.indices[0]})


def counted_layers(rows: list[Row], stack: str | None) -> int:
    """The same where blocks are placed one by one; 0 where there is no list of them. [-]

    Raises
    ------
    UnsupportedError
        Their number is a column.
    """
    count: Num = 0 if stack is None else stack_length(rows, stack)
    if not isinstance(count, int):
        raise UnsupportedError("layers whose number is swept cannot be placed one by one")
    return count


def copies_on_stage(row: Row, rows: list[Row], stage: Stage) -> Num:
    """Copies of a row that a pipeline stage holds, or of the part of them that its `copies` and `indices` say. [-]

    Parameters
    ----------
    row : Row
        One of `rows`, or with fewer copies than it.
    rows : list of Row
        The whole model.
    stage : Stage
        Pipeline stage.
    """
    stack = main_stack(rows)
    paths = [other.path for other in rows]
    first = next((place for place, path in enumerate(paths) if stack and path.startswith(f"{stack}.*")), len(paths))
    return _copies(row, stack, stage, behind=paths.index(row.path) > first)


def _copies(row: Row, stack: str | None, stage: Stage, *, behind: bool) -> Num:
    if stage.layers is None:
        return row.copies
    if stack is not None and row.path.startswith(f"{stack}.*"):
        outer = row.indices[0]
        if outer is None:
            raise CatalogError("a number of layers that is swept cannot be cut into pipeline stages")
        here = len(set(outer) & set(stage.layers))
        return row.copies // len(outer) * here
    held = stage.last if behind else stage.first
    return row.copies if held else 0


def _local(
    row: Row,
    tensor: Tensor,
    cut: Cut,
    parallelism: Parallelism,
    heads: Cores,
    vocabulary_multiple: Num,
) -> Tensor:
    """Tensor as the fullest rank holds it."""
    leaf, tp = row.leaf, parallelism.tp
    outputs, inputs = _axes(leaf, tensor)
    match cut:
        case "replicated":
            return tensor
        case "vocabulary":
            padded = ceil_div(tensor.shape[outputs], vocabulary_multiple) * vocabulary_multiple
            return _resized(tensor, outputs, ceil_div(padded, tp))
        case "column":
            return _resized(tensor, outputs, ceil_div(tensor.shape[outputs], tp))
        case "row":
            return tensor if inputs is None else _resized(tensor, inputs, ceil_div(tensor.shape[inputs], tp))
        case "key_value" | "fused":
            core = _core(row, heads)
            if core is None:
                return _resized(tensor, outputs, ceil_div(tensor.shape[outputs], tp))
            width = tensor.shape[outputs]
            query = 0 if cut == "key_value" else core.num_heads * core.qk_head_dim
            kept = _key_value_width(width - query, core, tp, pair=cut == "fused")
            return _resized(tensor, outputs, ceil_div(query, tp) + kept)
        case "experts":
            return _expert_share(leaf, tensor, parallelism)
        case _:
            assert_never(cut)


def _axes(leaf: Leaf, tensor: Tensor) -> tuple[int, int | None]:
    """Axes of a tensor that its outputs and its inputs lie on; a vector has no inputs."""
    dims = len(tensor.shape)
    if dims < 2 or not isinstance(leaf, (Linear, Embedding)):
        return 0, None
    if isinstance(leaf, Linear) and leaf.transposed:
        return dims - 1, dims - 2
    # A block-diagonal matrix is divided by blocks, on either side.
    return (0, 0) if isinstance(leaf, Linear) and leaf.blocks is not None else (0, dims - 1)


def _resized(tensor: Tensor, axis: int, size: Num) -> Tensor:
    shape = (*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
    matrices = tensor.matrices
    if matrices is not None:
        # Only the product of the three matters to formats that store whole blocks of each matrix.
        if len(tensor.shape) == 2:
            rows, columns = shape if tensor.shape == (matrices.out_features, matrices.in_features) else shape[::-1]
            matrices = replace(matrices, out_features=rows, in_features=columns)
        elif axis == 0:
            matrices = replace(matrices, count=size)
    return replace(tensor, shape=shape, matrices=matrices)


def _core(row: Row, heads: Cores) -> Attention | None:
    """Attention whose projection a row is: that of the module around it, or of a module beside it, in the same layers.

    Layers of several kinds share a path, and differ in their heads.
    """
    parent = row.path.rpartition(".")[0]
    if (parent, row.indices) in heads:
        return heads[parent, row.indices]
    return next(
        (
            core
            for (at, indices), core in heads.items()
            if indices == row.indices and (at.startswith(f"{parent}.") or parent.startswith(f"{at}."))
        ),
        None,
    )


def _key_value_width(width: Num, core: Attention, tp: Num, *, pair: bool) -> Num:
    """Outputs of keys, values or both that one rank holds: whole heads, and at least one."""
    head = core.qk_head_dim + core.v_head_dim if pair else minimum(core.qk_head_dim, width)
    count = exact_quotient(width, head)
    return maximum(ceil_div(count, tp), 1) * head


def _expert_share(leaf: Leaf, tensor: Tensor, parallelism: Parallelism) -> Tensor:
    """Experts of one rank, and its share of each."""
    inner = parallelism.expert_tp
    if not isinstance(leaf, Experts):
        return _resized(tensor, 0, ceil_div(tensor.shape[0], parallelism.ep))
    if leaf.flat is not None:
        experts = ceil_div(leaf.num_experts, parallelism.ep)
        held = _resized(tensor, 0, experts * ceil_div(leaf.intermediate_size, inner))
    else:
        held = _resized(tensor, 0, ceil_div(tensor.shape[0], parallelism.ep))
        is_down = tensor.name.startswith("down")
        if len(tensor.shape) == 3:
            axis = 2 if is_down != leaf.transposed else 1
            held = _resized(held, axis, ceil_div(tensor.shape[axis], inner))
        elif not is_down:
            held = _resized(held, 1, ceil_div(tensor.shape[1], inner))
    if tensor.matrices is None:
        return held
    # The same numbers, as matrices.
    per_expert = exact_quotient(held.numel, ceil_div(leaf.num_experts, parallelism.ep))
    whole = tensor.matrices
    cut_outputs = not tensor.name.startswith("down") and leaf.flat is None
    matrices = Matrices(
        ceil_div(whole.count, parallelism.ep),
        exact_quotient(per_expert, whole.in_features) if cut_outputs else whole.out_features,
        whole.in_features if cut_outputs else exact_quotient(per_expert, whole.out_features),
    )
    return replace(held, matrices=matrices)
