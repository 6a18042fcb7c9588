"""Layouts that cannot exist, refused with the reason before anything is counted."""

from __future__ import annotations

from collections.abc import Sequence

from planner.errors import PlannerError
from planner.nodes import Attention, Experts, Row
from planner.numeric import Num, all_true, divides
from planner.training.job import TrainingJob


def check_layout(rows: Sequence[Row], job: TrainingJob) -> None:
    """Refuse degrees that a model or a step cannot be divided by.

    Raises
    ------
    PlannerError
        With the reason; the key names the degree.
    """
    _check_heads(rows, job)
    _check_experts(rows, job)
    _check_sequence(job)
    _check_pipeline(job)


def _check_heads(rows: Sequence[Row], job: TrainingJob) -> None:
    tp = job.parallelism.tp
    for row in rows:
        core = row.leaf
        # Products of every sample with every other one have no heads.
        if not isinstance(core, Attention) or core.keys == "pairs" or row.bucket.startswith(("vision.", "audio.")):
            continue
        if not divides(tp, core.num_heads):
            raise PlannerError(f"tp {_text(tp)} does not divide the {core.num_heads} heads of {row.path}", key="tp")
        shared = core.num_kv_heads
        if shared is not None and not _one_divides_the_other(tp, shared):
            raise PlannerError(
                f"tp {_text(tp)} neither divides the {shared} key/value heads of {row.path} nor is a multiple of them",
                key="tp",
            )


def _one_divides_the_other(first: Num, second: Num) -> bool:
    """Whether it is so in every element of a column, whichever of the two divides the other there."""
    if divides(first, second) or divides(second, first):
        return True
    return all_true((second % first == 0) | (first % second == 0))


def _check_experts(rows: Sequence[Row], job: TrainingJob) -> None:
    parallelism = job.parallelism
    counts = {id(row.leaf): row.leaf.num_experts for row in rows if isinstance(row.leaf, Experts)}
    if not counts:
        if not all_true(parallelism.ep == 1):
            raise PlannerError(f"ep {_text(parallelism.ep)} for a model without routed experts", key="ep")
        return
    for count in counts.values():
        if not divides(parallelism.ep, count):
            raise PlannerError(f"ep {_text(parallelism.ep)} does not divide {count} experts", key="ep")
    ranks = parallelism.tp * parallelism.cp * parallelism.dp
    if not divides(parallelism.ep * parallelism.expert_tp, ranks):
        raise PlannerError(
            f"ep {_text(parallelism.ep)} x {_text(parallelism.expert_tp)} tensor-parallel ranks of an expert do not "
            f"divide the {_text(ranks)} ranks of a pipeline stage (tp x cp x dp)",
            key="ep",
        )


def _check_sequence(job: TrainingJob) -> None:
    parallelism, length = job.parallelism, job.step.sequence_length
    # Each rank holds two pieces, one from either end, so that a causal mask costs all of them the same.
    if not all_true(parallelism.cp == 1) and not divides(2 * parallelism.cp, length):
        raise PlannerError(
            f"a sequence of {_text(length)} tokens is not a multiple of 2 x cp {_text(parallelism.cp)}", key="cp"
        )
    if parallelism.sequence_parallel and not divides(parallelism.tp * parallelism.cp, length):
        raise PlannerError(
            f"a sequence of {_text(length)} tokens is not a multiple of tp {_text(parallelism.tp)} x cp "
            f"{_text(parallelism.cp)}, which sequence parallelism divides it by",
            key="sequence_parallel",
        )


def _check_pipeline(job: TrainingJob) -> None:
    parallelism = job.parallelism
    if parallelism.vp > 1 and not all_true(job.micro_batches >= parallelism.pp):
        raise PlannerError(
            f"{parallelism.vp} model chunks a stage need at least as many micro-batches as there are stages "
            f"({parallelism.pp}), got {_text(job.micro_batches)}",
            key="vp",
        )


def _text(number: Num) -> str:
    """A degree in a sentence; of a column, that it is one."""
    return "(some of a column)" if hasattr(number, "shape") else f"{number:g}"
