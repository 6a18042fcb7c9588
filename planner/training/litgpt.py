"""What litgpt's modules keep in a job: the adapter's own words to those of the fold."""

from __future__ import annotations

from collections.abc import Callable

from planner.activations import SavedTensor
from planner.activations.litgpt import Tuning, litgpt_saved
from planner.adapters import Adapter, adapted
from planner.errors import UnsupportedError
from planner.nodes import Node, Row
from planner.numeric import all_true
from planner.training.job import TrainingJob


def saved(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    """Saved tensors of one micro-batch, before any rank divides them.

    Raises
    ------
    UnsupportedError
        An adapter that litgpt does not have.
    """
    return litgpt_saved(tree, job.step, _tuning(job))


def _tuning(job: TrainingJob) -> Tuning:
    adapter = job.adapter
    packed = job.base is not None and not job.base.is_plain
    if adapter is None or adapter.method == "full":
        return Tuning(method="full")
    if adapter.method in ("lora", "qlora"):
        return Tuning(
            method="lora",
            rank=adapter.rank_or_default,
            adapted=_adapted_by(adapter),
            dropout=adapter.dropout,
            packed=packed,
        )
    if adapter.method in ("adapter", "adapter_v2"):
        return Tuning(
            method="adapter" if adapter.method == "adapter" else "adapter_v2",
            first_block=adapter.count("adapter_start_layer"),
            packed=packed,
        )
    raise UnsupportedError(
        f"litgpt has no '{adapter.method}', expected full, lora, qlora, adapter or adapter_v2", key="adapter"
    )


def _adapted_by(adapter: Adapter) -> Callable[[Row], bool]:
    def is_adapted(row: Row) -> bool:
        return all_true(adapted(row, adapter) >= 1)

    return is_adapted
