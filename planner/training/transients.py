"""What sharded data parallelism makes for a moment: gathered parameters, and gradients before they are reduced.

FSDP and ZeRO-3 divide parameters among ranks and gather them again group by group: one group a block, and a root group
of what lies outside of the blocks. While a block is computed, its neighbour is gathered ahead. A gradient exists whole,
in the dtype of the products, before it is copied to the dtype of the reduction and divided. A recipe says:

``root_group``
    ``whole``: embeddings, norm and head are one group that stays gathered until the last gradient; ``head``: norm and
    head stay gathered from the loss until their own gradient, embeddings only while they are looked up; ``none``:
    nothing outside of the blocks stays gathered.
``prefetched_blocks``
    Blocks that are gathered ahead of the one at work. [-]
``gathered_dtype``
    Bytes of a gathered element; where the recipe is silent, those of the precision's parameters. [B]
``reduce_dtype``
    Bytes of an element of the buffer that gradients are copied to before they are reduced; 0 where they are reduced
    in place. [B]
``gradients_at_peak``
    ``matrix`` where a block has made the gradient of its last matrix only when its activations are at their fullest;
    where the recipe is silent, those of the whole block are counted.
``reshard_after_forward``
    ``no`` where parameters stay gathered from the forward to the backward pass; ``no with pipeline`` where they do so
    in a pipeline only.
``accumulation``
    ``unsharded`` where gradients of several micro-batches add up whole on every rank; ``unsharded with pipeline`` where
    they do so in a pipeline only.
``token_table``
    ``replicated`` where every tensor-parallel rank holds the whole table of tokens.
``frozen_gradients``
    ``flat`` where adapters share a flat parameter with the frozen weights beside them, whose gradient is as large.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from planner.formulas.memory import packed_bytes
from planner.memory import MemoryRow
from planner.nodes import Embedding, Linear
from planner.numeric import Num, maximum, where
from planner.parallelism import Stage
from planner.sharding import RankTensor
from planner.training.job import TrainingJob
from planner.training.offload import on_device
from planner.training.states import States

FORWARD = "forward and loss"
LOSS = "backward of the loss"
FIRST = "backward of the last block"
LAST = "backward of the first block"

GATHERED = "gathered parameters"
UNREDUCED = "gradients before reduction"
ACCUMULATED = "gradients that no rank has divided"
WAITING = "gradients of earlier micro-batches"


def as_held(item: RankTensor, job: TrainingJob) -> RankTensor:
    """A rank's tensor where the recipe divides less than tensor parallelism could: a table that is held whole."""
    is_table = isinstance(item.row.leaf, Embedding) and item.cut == "vocabulary"
    if is_table and job.recipe.word("token_table") == "replicated":
        return replace(item, tensor=item.whole, cut="replicated")
    return item


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Elements of a rank's tensors, by the group in which they are gathered. [-]

    Attributes
    ----------
    block : Num
        Of the largest block of the stage.
    blocks : Num
        Of all of them.
    head : Num
        Of what stands behind the blocks: the final norm and the output matrix, or the table that serves as one.
    outside : Num
        Of all that is in no block.
    matrix : Num
        Of the largest tensor of a block.
    """

    block: Num
    blocks: Num
    head: Num
    outside: Num
    matrix: Num


def groups(held: Sequence[RankTensor], stage: Stage) -> Groups:
    """Groups of the tensors of one rank, whatever data parallelism divides gathered."""
    per_block: dict[object, Num] = {}
    blocks: Num = 0
    outside: Num = 0
    head: Num = 0
    matrix: Num = 0
    behind = False
    for item in held:
        row = item.row
        if "*" in row.path:
            behind = True
            outer = row.indices[0]
            # Blocks of one kind have the same indices; in a block, a nested list counts with all of its copies.
            inner = 1 if outer is None else row.copies // len(outer)
            key = None if outer is None else tuple(outer)
            per_block[key] = per_block.get(key, 0) + inner * item.tensor.numel
            blocks = blocks + item.elements
            matrix = maximum(matrix, item.tensor.numel)
        else:
            outside = outside + item.elements
            is_head = isinstance(row.leaf, Linear) and row.leaf.yields_logits
            head = head + (item.elements if behind or is_head else 0)
    block: Num = 0
    for size in per_block.values():
        block = maximum(block, size)
    if stage.last and not _has_own_head(held):
        head = head + outside
    return Groups(block=block, blocks=blocks, head=head, outside=outside, matrix=matrix)


def _has_own_head(held: Iterable[RankTensor]) -> bool:
    return any(isinstance(item.row.leaf, Linear) and item.row.leaf.yields_logits for item in held)


def transient_rows(
    phase: str, held: Sequence[RankTensor], kept: States, job: TrainingJob, stage: Stage
) -> tuple[MemoryRow, ...]:
    """Rows that a phase adds beside activations, loss and gradients.

    Parameters
    ----------
    phase : str
        `FORWARD` (its end), `LOSS`, `FIRST` (where backward meets the last block) or `LAST` (the first block).
    held : sequence of RankTensor
        Tensors of the rank before data parallelism divides them.
    kept : States
        What it keeps of them.
    job : TrainingJob
        The job.
    stage : Stage
        Pipeline stage.
    """
    found = groups(held, stage)
    rows = [*_accumulated(phase, found, kept, job)]
    trains_all = job.adapter is None or job.adapter.method == "full"
    if job.parallelism.zero < 3:
        if phase == FIRST and trains_all and job.recipe.word("gradients_at_peak") == "matrix":
            made = packed_bytes(found.head + found.matrix, job.precision.gradients.element_bits)
            rows.append(_row(UNREDUCED, made, job, "gradients_at_peak"))
        return tuple(rows)
    in_blocks, in_root = _gathered(phase, found, job)
    gathered = in_blocks * _block_bytes(found, kept, job) + in_root * _gathered_bytes(job)
    rows.append(_row(GATHERED, gathered, job, "root_group"))
    if trains_all:
        rows.append(_row(UNREDUCED, _unreduced(phase, found, job), job, "reduce_dtype"))
    return tuple(rows)


def _gathered(phase: str, found: Groups, job: TrainingJob) -> tuple[Num, Num]:
    """Elements that are gathered in a phase, of blocks and of what stands outside. [-]"""
    root = job.recipe.word("root_group", "whole")
    outside = {"whole": found.outside, "head": found.head, "none": 0}[root]
    ahead = job.recipe.number("prefetched_blocks", "-", 1)
    if phase != LAST and not _reshards(job):
        return found.blocks, outside
    if phase == FORWARD:
        return 0, outside
    if phase == LOSS:
        return ahead * found.block, outside  # backward gathers ahead
    stays = found.outside if root == "whole" else 0
    return (1 + ahead if phase == FIRST else 1) * found.block, stays


def _unreduced(phase: str, found: Groups, job: TrainingJob) -> Num:
    """Gradients that are whole: those of the group at work, and the copy of the group before it being reduced. [B]"""
    made, copied = _gathered_bytes(job), job.recipe.number("reduce_dtype", "B")
    # While one group is at work, the buffer in which the group before it is reduced is still there.
    whole_root = job.recipe.word("root_group", "whole") == "whole"
    at_peak = found.matrix if job.recipe.word("gradients_at_peak") == "matrix" else found.block
    if phase == FIRST:
        return at_peak * made + (found.head * made if whole_root else found.head * copied)
    if phase == LAST:
        # The table's gradient is made after the first block's backward, that of the head before.
        return at_peak * made + found.block * copied + (found.head * made if whole_root else 0)
    return 0


def _accumulated(phase: str, found: Groups, kept: States, job: TrainingJob) -> Iterable[MemoryRow]:
    """Gradients of the micro-batches before, which wait for those of the one at work."""
    if job.recipe.word("gradients", "freed") == "kept":
        return
    habit = job.recipe.word("accumulation", "sharded")
    unsharded = habit == "unsharded" or (habit == "unsharded with pipeline" and job.parallelism.pp > 1)
    frozen = job.adapter is not None and job.adapter.method != "full"
    flat = job.recipe.word("frozen_gradients", "none") == "flat"
    if job.parallelism.zero < 2 or not unsharded or (frozen and not flat):
        if phase != LAST:
            size = on_device("gradients", kept.gradients, job)
            yield _row(WAITING, where(job.micro_batches > 1, size, 0), job, "gradients")
        return
    # A flat parameter has one gradient, though only a few of its elements train.
    elements = found.blocks + found.outside if frozen else kept.trained_elements
    size = elements * (job.recipe.number("reduce_dtype", "B") or _gathered_bytes(job))
    if phase == LAST:
        # Either the last micro-batch has reduced all blocks but this one, or none is reduced yet.
        size = maximum(size - kept.gradients, 0)
    yield _row(ACCUMULATED, where(job.micro_batches > 1, size, 0), job, "accumulation")


def _reshards(job: TrainingJob) -> bool:
    habit = str(job.option("reshard_after_forward", job.recipe.word("reshard_after_forward", "yes")))
    return habit == "yes" or (habit == "no with pipeline" and job.parallelism.pp == 1)


def _block_bytes(found: Groups, kept: States, job: TrainingJob) -> Num:
    """Bytes of an element of a gathered block, on average over the codes of a quantised base. [B]"""
    if job.base is None or job.base.is_plain:
        return _gathered_bytes(job)
    return (kept.base_codes - found.outside * _gathered_bytes(job)) / found.blocks


def _gathered_bytes(job: TrainingJob) -> Num:
    """Bytes of an element of a gathered group: the dtype of the products, or that of a frozen base. [B]"""
    if job.base is not None:
        return packed_bytes(2**20, job.base.element_bits) / 2**20
    return job.recipe.number("gathered_dtype", "B") or packed_bytes(1, job.precision.parameters.element_bits)


def _row(name: str, size: Num, job: TrainingJob, fact: str) -> MemoryRow:
    return MemoryRow(name=name, size_bytes=size, basis="modelled", source=job.recipe.source(fact) or job.recipe.name)
