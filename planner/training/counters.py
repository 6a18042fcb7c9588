"""Three figures for one peak: bytes of tensors, bytes that the allocator holds, bytes that the driver reports."""

from __future__ import annotations

from planner.numeric import Num, where
from planner.training.job import TrainingJob

CUDA_CONTEXT_BYTES = 2**29
"""Context of a process on current stacks where a recipe has no measurement: vLLM's logs leave about 0.5 GiB. [B]"""

COLLECTIVE_BYTES = 2**30
"""Buffers of NCCL where a recipe has no measurement: vLLM's logs show 1.5 to 2 GiB outside of torch with several GPUs,
of which 0.5 GiB are the context. [B]"""


def reserved_bytes(allocated: Num, job: TrainingJob) -> Num:
    """What the caching allocator must hold at the peak: measured over allocated, by recipe. [B]

    It keeps more while the device has room, and frees that before it gives up.
    """
    return allocated * job.recipe.number("reserved_ratio", "-", 1)


def device_bytes(allocated: Num, job: TrainingJob) -> Num:
    """What the driver reports: reserved, the CUDA context, and with several devices collectives' buffers. [B]"""
    collectives = job.recipe.number("collective_buffers", "B", COLLECTIVE_BYTES)
    return (
        reserved_bytes(allocated, job)
        + job.recipe.number("cuda_context", "B", CUDA_CONTEXT_BYTES)
        + where(job.parallelism.devices > 1, collectives, 0)
    )
