"""Weights as one rank of an engine holds them: divided, fused, padded, kept twice, rounded by the allocator."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Protocol, TypeAlias

from planner.catalog import read_text
from planner.counts import Matrices
from planner.engines import Engine
from planner.formats import Dtype, WeightFormat, find_dtype
from planner.formulas.memory import packed_bytes
from planner.formulas.serving import absorbed_bytes, allocated_bytes, segment_bytes
from planner.memory import MemoryRow
from planner.nodes import Attention, Experts, Node, Row, walk
from planner.numeric import Num, all_true, ceil_div, maximum, minimum
from planner.parallelism import Parallelism, Stage
from planner.quantisation import Stored, chosen_dtypes, outline_of, spans, stored_matrices
from planner.sharding import RankTensor, main_stack, rank_tensors

FUSED = "fused_tensors.csv"

VOCABULARY_MULTIPLE = 64
"""vLLM and SGLang, VocabParallelEmbedding: DEFAULT_VOCAB_PADDING_SIZE."""

Counter: TypeAlias = Literal["allocated", "free memory", "tensors"]
"""How an engine measures its weights: what torch counts as allocated, the drop in free memory, or their own sizes."""


class StoredSize(Protocol):
    """Size of a tensor in the files of a checkpoint, as `planner.headers.stored_bytes_by_tensor` gives it."""

    @property
    def weight_bytes(self) -> int:
        """Values or codes. [B]"""

    @property
    def size_bytes(self) -> int:
        """What stands beside them as well. [B]"""


StoredSizes: TypeAlias = Mapping[str, StoredSize]

UNQUANTISED = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class Padding:
    """What a kernel rounds the matrices of experts up to.

    Attributes
    ----------
    inner, hidden : int
        Multiples of an expert's own width and of the model's, wherever they stand. [-]
    inputs : int
        Multiple of the inputs alone. [-]
    """

    inner: int = 1
    hidden: int = 1
    inputs: int = 1

    def padded(self, matrices: Matrices, *, is_down: bool, halves: int) -> Matrices:
        """Matrices of experts as the kernel holds them; `halves` is 2 where gate and up lie side by side."""

        def up(size: Num, multiple: int) -> Num:
            return ceil_div(size, multiple) * multiple

        if is_down:
            rows, columns = up(matrices.out_features, self.hidden), up(matrices.in_features, self.inner)
        else:
            rows = halves * up(matrices.out_features // halves, self.inner)
            columns = up(matrices.in_features, self.hidden)
        return Matrices(matrices.count, rows, up(columns, self.inputs))


@dataclass(frozen=True, slots=True)
class _Held:
    """One tensor of an engine: bytes of its codes and of its scales, without and with padding, and its copies."""

    codes: Num
    scales: Num
    padding: Num
    copies: Num
    expert: bool
    quantised: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RankWeights:
    """What one rank holds of a model's weights.

    Attributes
    ----------
    rows : tuple of MemoryRow
        Named parts, which add up.
    expert_bytes : Num
        Routed experts alone, as stored. [B]
    """

    rows: tuple[MemoryRow, ...]
    expert_bytes: Num

    @property
    def total_bytes(self) -> Num:
        """All of them. [B]"""
        total: Num = 0
        for row in self.rows:
            total = total + row.size_bytes
        return total


def rank_weights(
    tree: Node,
    weights: WeightFormat,
    element: str,
    engine: Engine,
    parallelism: Parallelism,
    stage: Stage,
    *,
    rope_bytes: Num = 0,
    padding: Padding | None = None,
    stored: StoredSizes | None = None,
) -> RankWeights:
    """Weights of the fullest rank of a pipeline stage.

    Parameters
    ----------
    tree : Node
        The model.
    weights : WeightFormat
        How they are stored.
    element : str
        Dtype of what the format leaves in the type of the checkpoint.
    engine : Engine
        What it keeps besides, and how it measures.
    parallelism, stage : Parallelism, Stage
        Degrees and stage.
    rope_bytes : Num
        Tables that every rank computes. [B]
    padding : Padding, optional
        Of the experts' matrices, where the format's kernel has one.
    stored : mapping of str to StoredSize, optional
        Sizes in the files of a checkpoint by the name of the tensor; a tensor that is not in it is as its format says.
    """
    counter: Counter = engine.word("weights_counter")  # type: ignore[assignment]
    held = list(_engine_tensors(tree, weights, element, parallelism, stage, padding, stored or {}))
    counted = allocated_bytes if counter == "allocated" else segment_bytes
    codes: Num = 0
    scales: Num = 0
    pads: Num = 0
    rounding: Num = 0
    experts: Num = 0
    largest: Num = 0
    for item in held:
        codes = codes + item.copies * item.codes
        scales = scales + item.copies * item.scales
        pads = pads + item.copies * item.padding
        whole = item.codes + item.padding
        if counter != "tensors":
            rounding = rounding + item.copies * (counted(whole) - whole + counted(item.scales) - item.scales)
        if item.expert:
            experts = experts + item.copies * (item.codes + item.scales)
        if item.quantised:
            largest = maximum(largest, item.codes)
    absorbed = _absorbed(tree, weights, element, engine, parallelism, stage)
    origin = "; ".join(weights.sources)
    rows = [
        MemoryRow(
            name="weights", size_bytes=codes, basis="exact", source=f"shapes of a rank x {weights.name}: {origin}"
        )
    ]
    if not all_true(scales == 0):
        rows.append(MemoryRow(name="scales", size_bytes=scales, basis="exact", source=f"{weights.name}: {origin}"))
    if padding is not None:
        source = "matrices of experts rounded up for their kernel"
        rows.append(MemoryRow(name="kernel padding", size_bytes=pads, basis="modelled", source=source))
    if weights.name in engine.word("repacked_formats", "").split("+"):
        source = f"the largest matrix, while it is brought into its kernel's order: {engine.source('repacked_formats')}"
        rows.append(MemoryRow(name="repacking", size_bytes=largest, basis="modelled", source=source))
    if not all_true(absorbed == 0):
        source = f"second copies of MLA's latent projections: {engine.source('absorbed_copies')}"
        rows.append(MemoryRow(name="absorbed projections", size_bytes=absorbed, basis="exact", source=source))
    if engine.word("rope_tables", "yes") == "yes" and not all_true(rope_bytes == 0):
        source = f"cosines and sines of all positions: {engine.source('rope_tables')}"
        rows.append(MemoryRow(name="rope tables", size_bytes=rope_bytes, basis="exact", source=source))
    if counter != "tensors":
        source = "segments of torch's caching allocator: CUDACachingAllocator.cpp"
        rows.append(MemoryRow(name="allocator rounding", size_bytes=rounding, basis="modelled", source=source))
    return RankWeights(rows=tuple(rows), expert_bytes=experts)


def _engine_tensors(
    tree: Node,
    weights: WeightFormat,
    element: str,
    parallelism: Parallelism,
    stage: Stage,
    padding: Padding | None,
    sizes: StoredSizes,
) -> Iterator[_Held]:
    """Tensors of a rank, those that the engine fuses as one."""
    rows = list(walk(tree))
    outline, stack = outline_of(tree), main_stack(rows)
    placed = {id(row.leaf): span for row, span in zip(rows, spans(tree), strict=True)}
    fused: dict[tuple[str, str, str, object, Dtype | None], list[tuple[Stored, Num]]] = {}
    for held in rank_tensors(tree, parallelism, stage, vocabulary_multiple=VOCABULARY_MULTIPLE):
        row = held.row
        inside = stack is not None and row.path.startswith(f"{stack}.*")
        layers = stage.layers if inside else None
        in_files = list(_in_files(held, sizes, layers)) if sizes else []
        for parent, found in in_files:
            fused.setdefault((parent, _fused_name(row), held.tensor.name, row.indices, None), []).append((found, 1))
        if in_files:
            continue
        span = placed.get(id(row.leaf))
        for dtype, copies in chosen_dtypes(row, held.whole, span, outline, weights, layers):
            chosen = _as_stated(dtype, element)
            # Outside of the layers a stage holds all copies or none; inside, a rule may be about some of them.
            number = copies if inside else held.copies
            if all_true(number == 0):
                continue
            stored, extra = _stored(held, chosen, padding)
            if held.is_expert:
                yield _Held(stored.codes, stored.scales, extra, number, expert=True, quantised=chosen.has_scales)
                continue
            key = (row.path.rpartition(".")[0], _fused_name(row), held.tensor.name, row.indices, chosen)
            fused.setdefault(key, []).append((stored, number))
    for (_, _, _, _, kept), parts in fused.items():
        codes: Num = 0
        scales: Num = 0
        for stored, _ in parts:
            codes, scales = codes + stored.codes, scales + stored.scales
        yield _Held(codes, scales, 0, parts[0][1], expert=False, quantised=kept is not None and kept.has_scales)


def _in_files(held: RankTensor, sizes: StoredSizes, layers: Collection[int] | None) -> Iterator[tuple[str, Stored]]:
    """Module and local size of each copy of a tensor, from the files; nothing unless they hold all of them."""
    row = held.row
    ending = f".{held.tensor.name}" if held.tensor.name else ""
    paths = [path for path in row.real_paths() if layers is None or _outer_index(path, row) in layers]
    if not all(f"{path}{ending}" in sizes for path in paths):
        return
    for path in paths:
        found = sizes[f"{path}{ending}"]
        codes = found.weight_bytes * held.tensor.numel // held.whole.numel
        scales = (found.size_bytes - found.weight_bytes) * held.tensor.numel // held.whole.numel
        yield path.rpartition(".")[0], Stored(codes, scales)


def _outer_index(path: str, row: Row) -> int:
    """Index that takes the place of the first star of a path."""
    return int(path[row.path.index("*") :].split(".", 1)[0])


def _fused_name(row: Row) -> str:
    """What an engine calls the tensor that a module is part of."""
    name = row.path.rpartition(".")[2]
    return _fused_names().get(name, name)


@cache
def _fused_names() -> dict[str, str]:
    return {row["name"]: row["fused"] for row in csv.DictReader(read_text(FUSED).splitlines())}


def _as_stated(dtype: Dtype, element: str) -> Dtype:
    """What a format leaves unquantised has the type that the user or the checkpoint says."""
    return find_dtype(element) if dtype.name in UNQUANTISED else dtype


def _stored(held: RankTensor, dtype: Dtype, padding: Padding | None) -> tuple[Stored, Num]:
    """Bytes of the local tensor, and of what a kernel pads it with."""
    matrices = held.tensor.matrices
    if matrices is None or not dtype.has_scales:
        return Stored(packed_bytes(held.tensor.numel, dtype.code_bits, dtype.code_elements), 0), 0
    stored = stored_matrices(matrices, dtype)
    leaf = held.row.leaf
    if padding is None or not isinstance(leaf, Experts) or dtype.name not in ("mxfp4", "nvfp4"):
        return stored, 0
    is_down = held.tensor.name.startswith("down")
    padded = stored_matrices(padding.padded(matrices, is_down=is_down, halves=2 if leaf.gated else 1), dtype)
    return stored, padded.codes + padded.scales - stored.codes - stored.scales


def _absorbed(
    tree: Node, weights: WeightFormat, element: str, engine: Engine, parallelism: Parallelism, stage: Stage
) -> Num:
    """Copies of what turns latents into keys and values, of the stage's layers.

    Those that are only cut out have the type of activations; those that are multiplied into a neighbour are quantised
    again, where weights are in FP8.
    """
    kinds = engine.word("absorbed_copies", "none").split("+")
    element_bytes = find_dtype(element).code_bits // 8
    joined_bytes = 1 if weights.name.startswith("fp8") else element_bytes
    total: Num = 0
    rows = list(walk(tree))
    for row in rows:
        leaf = row.leaf
        if not isinstance(leaf, Attention) or leaf.cached is None or leaf.cached.kind != "latent":
            continue
        copies = _copies_on(row, stage)
        heads = ceil_div(leaf.num_heads, parallelism.tp)
        latent, nope = leaf.cached.key_width, leaf.qk_head_dim - leaf.cached.value_width
        each: Num = 0
        if "latents" in kinds:
            each = each + absorbed_bytes(heads, latent, nope + leaf.v_head_dim, element_bytes)
        if "queries" in kinds:
            query = _query_inputs(rows, row)
            each = each + absorbed_bytes(heads, latent, query, joined_bytes)
        if "outputs" in kinds:
            hidden = _output_width(rows, row)
            each = each + absorbed_bytes(heads, latent, hidden, joined_bytes)
        total = total + copies * each
    return total


def _copies_on(row: Row, stage: Stage) -> Num:
    if stage.layers is None or not row.indices or row.indices[0] is None:
        return row.copies
    return len(set(row.indices[0]) & set(stage.layers))


def _query_inputs(rows: list[Row], core: Row) -> Num:
    """Inputs of the matrix that makes queries: a latent of their own, or the hidden state."""
    return _linear(rows, core, ("q_b_proj", "q_proj"), inputs=True)


def _output_width(rows: list[Row], core: Row) -> Num:
    return _linear(rows, core, ("o_proj",), inputs=False)


def _linear(rows: list[Row], core: Row, names: tuple[str, ...], *, inputs: bool) -> Num:
    for row in rows:
        parent, _, name = row.path.rpartition(".")
        if parent == core.path and name in names and row.indices == core.indices:
            return row.leaf.in_features if inputs else row.leaf.out_features  # type: ignore[union-attr]
    return 0


def without_offloaded(weights: RankWeights, offloaded_bytes: Num) -> RankWeights:
    """The same where some of the weights stay on the host."""
    if all_true(offloaded_bytes == 0):
        return weights
    moved = minimum(offloaded_bytes, weights.rows[0].size_bytes)
    row = MemoryRow(name="offloaded to the host", size_bytes=-moved, basis="exact", source="cpu_offload_gb")
    return replace(weights, rows=(*weights.rows, row))
