"""The peak of a training step on each pipeline stage: resident rows add, phases take the maximum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.formulas.training import in_flight_chunks, in_flight_micro_batches, in_flight_of_chunk
from planner.memory import GRADIENTS, MASTERS, OPTIMIZER, WEIGHTS, MemoryRow
from planner.nodes import Attention, Node, walk
from planner.numeric import Num, maximum
from planner.parallelism import WHOLE, Stage, pipeline_stages
from planner.sharding import counted_layers, main_stack, rank_tensors
from planner.training.activations import Kept, kept
from planner.training.build import build_phase
from planner.training.choices import check_choices
from planner.training.job import Recompute, TrainingJob
from planner.training.layout import check_layout
from planner.training.loop import idle_rows, loop_rows, retained_rows
from planner.training.loss import loss_backward_rows, loss_forward_rows
from planner.training.offload import on_device
from planner.training.profiles import block_input_bytes, saved_tensors, work_bytes
from planner.training.saving import save_phase
from planner.training.stages import stage_split
from planner.training.states import States, states
from planner.training.transients import FIRST, FORWARD, LAST, LOSS, as_held, transient_rows
from planner.training.workspace import workspace_rows

STEP = "optimizer step"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Memory of one rank of one pipeline stage.

    Attributes
    ----------
    stage : Stage
        Which.
    resident : tuple of MemoryRow
        What is always there.
    between : tuple of MemoryRow
        What else is there between steps, and makes room when the next one begins.
    phases : dict of str to tuple of MemoryRow
        What each phase adds.
    """

    stage: Stage
    resident: tuple[MemoryRow, ...]
    phases: dict[str, tuple[MemoryRow, ...]]
    between: tuple[MemoryRow, ...] = ()

    @property
    def steady_bytes(self) -> Num:
        """Allocated between steps. [B]"""
        return _sum(self.resident) + _sum(self.between)

    def phase_bytes(self, name: str) -> Num:
        """Allocated in a phase. [B]"""
        return _sum(self.resident) + _sum(self.phases[name])

    @property
    def peak_phase(self) -> str:
        """Phase in which it peaks, where sizes are plain numbers."""
        return max(self.phases, key=self.phase_bytes)

    @property
    def peak_bytes(self) -> Num:
        """Allocated at most. [B]"""
        peak: Num = 0
        for name in self.phases:
            peak = maximum(peak, self.phase_bytes(name))
        return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Memory of a training step on every pipeline stage."""

    stages: tuple[StageMemory, ...]

    @property
    def steady_bytes(self) -> Num:
        """Of the fullest rank between steps. [B]"""
        steady: Num = 0
        for stage in self.stages:
            steady = maximum(steady, stage.steady_bytes)
        return steady

    @property
    def peak_bytes(self) -> Num:
        """Of the fullest rank. [B]"""
        peak: Num = 0
        for stage in self.stages:
            peak = maximum(peak, stage.peak_bytes)
        return peak


def training_memory_of(tree: Node, job: TrainingJob) -> TrainingMemory:
    """Memory of one training step, stage by stage.

    Raises
    ------
    PlannerError
        The layout cannot exist, or the recipe cannot follow a word.
    """
    rows = list(walk(tree))
    check_layout(rows, job)
    check_choices(job)
    if job.parallelism.pp == 1:
        cut: Sequence[Stage] = (WHOLE,)
    else:
        cut = pipeline_stages(
            counted_layers(rows, main_stack(rows)),
            job.parallelism.pp,
            job.parallelism.vp,
            stage_split(rows, job),
        )
    return TrainingMemory(stages=tuple(_stage_memory(tree, job, stage) for stage in cut))


def _stage_memory(tree: Node, job: TrainingJob, stage: Stage) -> StageMemory:
    multiple = _vocabulary_multiple(job)
    tensors = rank_tensors(tree, job.parallelism, stage, vocabulary_multiple=multiple)
    held = tuple(as_held(item, job) for item in tensors)
    kept_states = states(held, job, tree, stage)
    gradients_stay = job.recipe.word("gradients", "freed") == "kept"
    size = on_device("gradients", kept_states.gradients, job)
    gradients = _row(GRADIENTS, size, "exact", job.precision.gradients_source)
    made = () if gradients_stay else (gradients,)
    input_bytes = block_input_bytes(tree, job)
    found = kept(saved_tensors(tree, job), job.parallelism, stage, job.recompute, input_bytes)
    whole = replace(job, recompute=Recompute(group=job.recompute.group))
    block = found
    if job.recompute.kind != "none":
        block = kept(saved_tensors(tree, whole), job.parallelism, stage, whole.recompute, 0)
    activations = _activation_rows(found, job, stage, input_bytes)
    # What stays of a block may be made of more than its operands, such as results that no gradient needs.
    again = _modelled("a block computed again", maximum(block.largest_block - found.largest_kept, 0), job)
    at_work = _modelled("gradients of activations", work_bytes(tree, job), job)

    def transient(phase: str) -> tuple[MemoryRow, ...]:
        return transient_rows(phase, held, kept_states, job, stage)

    # Activations shrink and gradients grow from block to block, so backward peaks at one of its ends. A block that is
    # computed again is there in backward alone, when the loss is gone.
    phases = {
        FORWARD: (*activations, *_batch_rows(job), *loss_forward_rows(held, job, stage), *transient(FORWARD)),
        LOSS: (*activations, *loss_backward_rows(held, job, stage), *transient(LOSS)),
        FIRST: (
            *_activation_rows(found, job, stage, input_bytes, loss_is_done=True),
            again,
            at_work,
            *transient(FIRST),
        ),
        LAST: (
            *_other_micro_batches(found, job, stage),
            _modelled("one block's activations", block.largest_block, job),
            at_work,
            *retained_rows(found.blocks, input_bytes, job),
            *made,
            *transient(LAST),
        ),
        STEP: (*made, *_main_gradients(kept_states, job), *_step_rows(kept_states, job)),
    }
    resident = (
        _row(WEIGHTS, on_device("weights", kept_states.weights, job), "exact", job.precision.parameters_source),
        _row(MASTERS, kept_states.masters, "exact", job.precision.masters_source),
        _row(OPTIMIZER, on_device("optimizer", kept_states.optimizer, job), "exact", job.optimizer.name),
        *((gradients,) if gradients_stay else ()),
        *loop_rows(kept_states, job),
        *workspace_rows(held, job),
        *_rotary_tables(tree, job, stage),
    )
    return StageMemory(
        stage=stage,
        resident=resident,
        between=(*_between(input_bytes, job, stage), *_main_gradients(kept_states, job), *idle_rows(made, job)),
        phases={**build_phase(tree, job, stage, _sum(resident)), **phases, **save_phase(held, job, stage)},
    )


def _vocabulary_multiple(job: TrainingJob) -> Num:
    """To what the vocabulary is padded: a number, or one for each tensor-parallel rank. [-]"""
    of_rank = job.recipe.number("rank_vocabulary_multiple", "-", 1)
    return maximum(job.recipe.number("vocabulary_multiple", "-", 1), of_rank * job.parallelism.tp)


def _activation_rows(
    found: Kept, job: TrainingJob, stage: Stage, input_bytes: Num, *, loss_is_done: bool = False
) -> tuple[MemoryRow, ...]:
    """Saved activations of every micro-batch in flight; of one of them, nothing behind the blocks once it is done."""
    blocks: Num = 0
    flights = _in_flight(job, stage)
    for size, micro_batches in zip(found.chunks, flights, strict=True):
        blocks = blocks + size * micro_batches
    outside = found.before * flights[0] + found.behind * (flights[-1] - (1 if loss_is_done else 0))
    passed = job.recipe.number("passed_stage_inputs", "-") if job.parallelism.pp > 1 else 0
    return (
        _modelled("activations of blocks", blocks, job),
        _modelled("activations outside of blocks", outside, job),
        *([_modelled("passed between stages", passed * input_bytes, job)] if passed else []),
    )


def _in_flight(job: TrainingJob, stage: Stage) -> tuple[Num, ...]:
    """Micro-batches in flight of each model chunk of a stage, when most are. [-]"""
    pp, vp = job.parallelism.pp, job.parallelism.vp
    if pp == 1:
        return (1,)
    if vp == 1:
        return (in_flight_micro_batches(stage.index, pp, job.micro_batches),)
    passes = in_flight_chunks(stage.index, pp, vp, job.micro_batches)
    return tuple(in_flight_of_chunk(passes, chunk, vp, pp) for chunk in range(vp))


def _other_micro_batches(found: Kept, job: TrainingJob, stage: Stage) -> tuple[MemoryRow, ...]:
    """Activations of the micro-batches that wait while the last block of one of them is done."""
    if job.parallelism.pp == 1:
        return ()
    waiting: Num = 0
    flights = _in_flight(job, stage)
    for position, (size, micro_batches) in enumerate(zip(found.chunks, flights, strict=True)):
        waiting = waiting + size * maximum(micro_batches - (1 if position == 0 else 0), 0)
    waiting = waiting + found.before * maximum(flights[0] - 1, 0) + found.behind * maximum(flights[-1] - 1, 0)
    return (_modelled("activations of other micro-batches", waiting, job),)


def _between(input_bytes: Num, job: TrainingJob, stage: Stage) -> tuple[MemoryRow, ...]:
    """Inputs of a pipeline's chunks and their gradients, where the framework names them until the next step."""
    copies = job.recipe.number("kept_stage_inputs", "-")
    chunks = job.parallelism.vp - (1 if stage.first else 0)
    if job.parallelism.pp == 1 or not copies or not chunks:
        return ()
    size = copies * chunks * input_bytes
    return (_row("last inputs of the stage", size, "modelled", job.recipe.source("kept_stage_inputs")),)


def _rotary_tables(tree: Node, job: TrainingJob, stage: Stage) -> tuple[MemoryRow, ...]:
    """Cosines and sines, where each layer has a table of its own."""
    of_element = job.recipe.number("rotary_table", "B/element")
    if not of_element:
        return ()
    size: Num = 0
    for row in walk(tree):
        if isinstance(row.leaf, Attention) and row.leaf.causal:
            outer = row.indices[0] if row.indices else None
            held = stage.layers is None or outer is None
            copies = row.copies if held else len(set(outer or ()) & set(stage.layers or ()))
            size = size + copies * row.leaf.qk_head_dim / 2 * job.step.sequence_length * of_element
    return (_row("tables of rotary positions", size, "modelled", job.recipe.source("rotary_table")),)


def _batch_rows(job: TrainingJob) -> tuple[MemoryRow, ...]:
    """The micro-batch itself, where the framework lets it go when its forward pass is done."""
    of_token, of_pair = job.recipe.number("step_batch", "B/token"), job.recipe.number("step_mask", "B/pair")
    if not of_token and not of_pair:
        return ()
    step = job.step
    masked = of_pair * step.sequence_length if job.option("attention_mask", True) else 0
    size = step.batch_size * step.sequence_length * (of_token + masked) / job.parallelism.cp
    return (_row("micro-batch", size, "modelled", job.recipe.source("step_batch")),)


def _main_gradients(kept_states: States, job: TrainingJob) -> tuple[MemoryRow, ...]:
    """Gradients in the dtype of the masters, where the framework makes such a copy and drops it at the next step."""
    is_wide = job.precision.gradients.element_bits >= 32
    if job.recipe.word("main_gradients", "no") != "yes" or job.precision.masters is None or is_wide:
        return ()
    return (_row("gradients of masters", kept_states.masters, "exact", job.recipe.source("main_gradients")),)


def _modelled(name: str, size: Num, job: TrainingJob) -> MemoryRow:
    return _row(name, size, "modelled", job.recipe.word("profile"))


def _step_rows(kept_states: States, job: TrainingJob) -> tuple[MemoryRow, ...]:
    if job.recipe.word("step_temporary", "none") != "foreach":
        return ()
    return (_row("optimizer temporary", kept_states.stepped, "modelled", job.recipe.source("step_temporary")),)


def _row(name: str, size: Num, basis: str, source: str) -> MemoryRow:
    return MemoryRow(name=name, size_bytes=size, basis=basis, source=source)  # type: ignore[arg-type]


def _sum(rows: Sequence[MemoryRow]) -> Num:
    total: Num = 0
    for row in rows:
        total = total + row.size_bytes
    return total
