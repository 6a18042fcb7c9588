"""What a rank holds while its model is built, before anything of it is divided.

A recipe whose fact ``built`` is ``whole without tensor parallelism`` makes all parameters of its pipeline stage on
every device and divides them among data-parallel and expert-parallel ranks afterwards; with tensor parallelism it
makes the rank's share only. No optimizer state is there yet. A counter that is never reset shows this peak where
training stays below it.
"""

from __future__ import annotations

from dataclasses import replace

from planner.formulas.memory import packed_bytes
from planner.memory import MemoryRow
from planner.nodes import Node
from planner.numeric import Num, maximum, where
from planner.parallelism import Stage
from planner.sharding import rank_tensors
from planner.training.job import TrainingJob

BUILD = "model is built"

WHOLE_FIRST = "whole without tensor parallelism"


def build_phase(tree: Node, job: TrainingJob, stage: Stage, steady: Num) -> dict[str, tuple[MemoryRow, ...]]:
    """The phase, by its name; none where the recipe builds what a rank keeps.

    Parameters
    ----------
    tree : Node
        The model.
    job : TrainingJob
        The job.
    stage : Stage
        Pipeline stage.
    steady : Num
        What is allocated between steps, which a phase is added to. [B]
    """
    if job.recipe.word("built") != WHOLE_FIRST:
        return {}
    undivided = replace(job.parallelism, tp=1, ep=1, etp=None, sequence_parallel=False)
    elements: Num = 0
    for item in rank_tensors(tree, undivided, stage):
        elements = elements + item.elements
    whole = packed_bytes(elements, job.precision.parameters.element_bits)
    more = where(job.parallelism.tp > 1, 0, maximum(whole - steady, 0))
    row = MemoryRow(
        name="parameters before they are divided, beyond what stays",
        size_bytes=more,
        basis="exact",
        source=job.recipe.source("built"),
    )
    return {BUILD: (row,)}
