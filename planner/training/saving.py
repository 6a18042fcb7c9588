"""What a rank holds while a checkpoint is written.

Between two steps, gradients and activations are gone. A recipe's fact ``saving`` says what is added to what stays:

``sharded``
    Nothing: every rank writes its own share.
``by group``
    One whole group of divided parameters at a time, a block or all that stands outside of blocks, in the dtype in which
    they are stored; the host collects them.
``whole``
    All parameters of the stage at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.errors import CatalogError
from planner.formulas.memory import packed_bytes
from planner.memory import MemoryRow
from planner.numeric import Num, maximum
from planner.parallelism import Stage
from planner.sharding import RankTensor
from planner.training.job import TrainingJob
from planner.training.transients import groups

SAVE = "checkpoint saving"

WORDS = ("sharded", "by group", "whole")


def save_phase(held: Sequence[RankTensor], job: TrainingJob, stage: Stage) -> dict[str, tuple[MemoryRow, ...]]:
    """The phase, by its name.

    Parameters
    ----------
    held : sequence of RankTensor
        Tensors of the rank before data parallelism divides them.
    job : TrainingJob
        The job.
    stage : Stage
        Pipeline stage.

    Raises
    ------
    CatalogError
        The recipe's word is none of `WORDS`.
    """
    word = job.recipe.word("saving", "sharded")
    if word not in WORDS:
        raise CatalogError(f"'saving' of recipe '{job.recipe.name}' is '{word}', expected one of {', '.join(WORDS)}")
    if word == "sharded" or job.parallelism.zero < 3:
        return {SAVE: ()}
    found = groups(held, stage)
    elements: Num = found.blocks + found.outside if word == "whole" else maximum(found.block, found.outside)
    row = MemoryRow(
        name="gathered to be written",
        size_bytes=packed_bytes(elements, job.precision.parameters.element_bits),
        basis="modelled",
        source=job.recipe.source("saving"),
    )
    return {SAVE: (row,)}
