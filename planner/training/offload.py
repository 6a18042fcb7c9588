"""What lies in the host's memory and not on the device.

A recipe's fact ``host``, or an option of a job of that name, lists what is offloaded: ``weights``, ``gradients``,
``optimizer``. States of a paged optimizer are managed memory, which the device's allocator does not count. Where an
optimizer steps in backward, tensor by tensor, gradients are gone before there are many of them; an option
``optimizer_in_backward`` says so.
"""

from __future__ import annotations

from planner.numeric import Num
from planner.training.job import TrainingJob

PAGED = "paged-"
"""How the names of optimizers begin whose states are managed memory."""


def on_device(part: str, size: Num, job: TrainingJob) -> Num:
    """Bytes of a part of the states that the device's allocator holds: all or nothing. [B]

    Parameters
    ----------
    part : str
        ``weights``, ``gradients`` or ``optimizer``.
    size : Num
        What it takes wherever it lies. [B]
    job : TrainingJob
        The job.
    """
    if part in str(job.option("host", job.recipe.word("host"))).split():
        return 0 * size
    if part == "optimizer" and job.optimizer.name.startswith(PAGED):
        return 0 * size
    if part == "gradients" and job.option("optimizer_in_backward", False):
        return 0 * size
    return size
