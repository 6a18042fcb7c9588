"""What a training loop holds beside the model: the batch, buckets of gradients, blocks that hooks do not let go.

A recipe says:

``batch``
    Bytes of a token of the batch that lie on the device: its id, its label, its mask. [B/token]
``gradient_buckets``
    ``yes`` where data parallelism that divides nothing copies gradients to buckets before it reduces them.
``sharded_gradients``
    ``kept`` where gradients of sharded parameters stay until the next forward begins.
``frozen_blocks``
    ``retained`` where FSDP's hooks keep the input of each frozen block that was computed again, and its gradient.

An option ``given_bytes`` of a job is what its caller holds besides.
"""

from __future__ import annotations

from planner.memory import SCALES, MemoryRow
from planner.numeric import Num, maximum, where
from planner.training.job import TrainingJob
from planner.training.states import States

SHARDED = 3
"""ZeRO stage that divides parameters."""


def loop_rows(kept: States, job: TrainingJob) -> tuple[MemoryRow, ...]:
    """What stays from step to step."""
    recipe, parallelism = job.recipe, job.parallelism
    rows = []
    if job.base is not None and job.base.has_scales:
        rows.append(MemoryRow(name=SCALES, size_bytes=kept.scales, basis="exact", source=job.base.name))
    per_token = recipe.number("batch", "B/token")
    if per_token:
        tokens = job.step.batch_size * job.step.sequence_length / parallelism.cp
        rows.append(_row("batch", per_token * tokens, recipe.source("batch")))
    given = float(job.option("given_bytes", 0))
    if given:
        rows.append(_row("tensors of the caller", int(given), recipe.name))
    if recipe.word("gradient_buckets") == "yes" and parallelism.zero == 0:
        size = where(parallelism.dp > 1, kept.whole_gradients, 0)
        rows.append(_row("gradient buckets", size, recipe.source("gradient_buckets")))
    return tuple(rows)


def idle_rows(gradients: tuple[MemoryRow, ...], job: TrainingJob) -> tuple[MemoryRow, ...]:
    """Gradients of sharded parameters, which are dropped when the next forward begins and not when a step is done."""
    if job.parallelism.zero < SHARDED or job.recipe.word("sharded_gradients") != "kept":
        return ()
    return gradients


def retained_rows(block_inputs: Num, block_input: Num, job: TrainingJob) -> tuple[MemoryRow, ...]:
    """What is left of the blocks behind when backward reaches the first one, where hooks hold on to it.

    Parameters
    ----------
    block_inputs : Num
        Inputs of all blocks that are computed again. [B]
    block_input : Num
        Of one. [B]
    job : TrainingJob
        The job.
    """
    recipe = job.recipe
    frozen = job.adapter is not None and job.adapter.method != "full"
    if recipe.word("frozen_blocks") != "retained" or not frozen or job.parallelism.zero < SHARDED:
        return ()
    if job.recompute.kind != "full":
        return ()
    # The gradients of the first block's input and output are counted where it is at work.
    gradients = maximum(block_inputs - 2 * block_input, 0)
    source = recipe.source("frozen_blocks")
    return (
        _row("inputs of blocks that hooks keep", maximum(block_inputs - block_input, 0), source),
        _row("gradients of those inputs", gradients, source),
    )


def _row(name: str, size: Num, source: str) -> MemoryRow:
    return MemoryRow(name=name, size_bytes=size, basis="modelled", source=source)
