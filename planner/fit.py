"""The inverse questions of training: what is the most that fits, and the least that it takes?

Every answer is read off a column: all candidates are evaluated at once by the same functions that answer a single
question, and the best one that fits is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import lcm
from typing import TYPE_CHECKING, Any

from planner.compute import longest_sequence as position_limit
from planner.errors import PlannerError
from planner.nodes import Experts, Node, walk
from planner.numeric import Num, divides
from planner.training import TrainingJob, training_memory_of
from planner.training.choices import attentions_of, recomputations_of
from planner.training.counters import device_bytes
from planner.training.job import parse_recompute

if TYPE_CHECKING:
    from planner.numeric import Column

MOST_SAMPLES = 4096
"""Largest micro-batch that is looked at. [-]"""

SEQUENCE_STEP = 128
"""Sequence lengths are looked at in multiples of this. [token]"""

LONGEST_SEQUENCE = 2**21
"""Longest sequence that is looked at. [token]"""

MOST_RANKS = 1024
"""Most data-parallel ranks that are looked at. [-]"""

TENSOR_DEGREES = (1, 2, 4, 8)
PIPELINE_DEGREES = (1, 2, 4, 8, 16)

EXPERT_DEGREES = (1, 8, 64)
"""Expert-parallel ranks that are looked at, where they divide the experts. [-]"""

CUTTING = ("megatron", "nanotron", "textbook", "torchtitan")
"""Profiles whose frameworks cut matrices and stacks of blocks; the others spread a model by sharding it only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Answer to one inverse question.

    Attributes
    ----------
    question : str
        In words.
    answer : str or None
        In words; None where nothing fits.
    needed_bytes : float or None
        Memory of the fullest device at that answer. [B]
    note : str
        What bounds it, or why there is none.
    """

    question: str
    answer: str | None
    needed_bytes: float | None
    note: str = ""


def needed_bytes(tree: Node, job: TrainingJob) -> Num:
    """Memory of the fullest device as the driver reports it. [B]"""
    return device_bytes(training_memory_of(tree, job).peak_bytes, job)


def largest_micro_batch(tree: Node, job: TrainingJob, memory_bytes: float) -> Answer:
    """Most samples of a micro-batch that fit."""
    candidates = _whole_numbers(1, MOST_SAMPLES)
    needed = _evaluated(tree, replace(job, step=replace(job.step, batch_size=candidates)))
    return _last_that_fits("largest micro-batch", "samples", candidates, needed, memory_bytes)


def longest_sequence(tree: Node, job: TrainingJob, memory_bytes: float) -> Answer:
    """Longest sequence that fits with the micro-batch of the job, in steps; a table of positions bounds it."""
    longest = min(float(position_limit(tree)), LONGEST_SEQUENCE)
    parallelism = job.parallelism
    # Two pieces of the sequence for each context-parallel rank, which sequence parallelism divides again.
    pieces = lcm(2 * int(parallelism.cp), int(parallelism.cp * parallelism.tp))
    step = min(lcm(SEQUENCE_STEP, pieces), int(longest))
    candidates = _whole_numbers(1, int(longest) // step) * step
    needed = _evaluated(tree, replace(job, step=replace(job.step, sequence_length=candidates)))
    return _last_that_fits("longest sequence", "tokens", candidates, needed, memory_bytes)


def fewest_devices(tree: Node, job: TrainingJob, memory_bytes: float) -> Answer:
    """Fewest devices of the kind, over tensor, pipeline, expert and data parallelism; the recipe's sharding stays."""
    best: tuple[int, str, float] | None = None
    cuts = job.recipe.word("profile") in CUTTING
    tensor_degrees, pipeline_degrees = (TENSOR_DEGREES, PIPELINE_DEGREES) if cuts else ((1,), (1,))
    expert_degrees = _expert_degrees(tree) if cuts else (1,)
    for tp, pp, ep in product(tensor_degrees, pipeline_degrees, expert_degrees):
        # Ranks of an expert are tensor-parallel ones where there is but one of it, and data-parallel ones else.
        ranks = _whole_numbers(1, MOST_RANKS // ep) * ep
        spread = replace(
            job.parallelism,
            tp=tp,
            sequence_parallel=tp > 1,
            pp=pp,
            vp=1,
            dp=ranks,
            shard=None,
            ep=ep,
            etp=None if ep == 1 else 1,
        )
        try:
            needed = _evaluated(tree, replace(job, parallelism=spread, micro_batches=max(pp, job.micro_batches)))
        except PlannerError:
            continue  # such a layout cannot exist: heads or layers do not divide
        fitting = ranks[needed <= memory_bytes]
        if not fitting.size:
            continue
        dp, context = int(fitting[0]), int(job.parallelism.cp)
        devices = tp * pp * context * dp
        if best is None or devices < best[0]:
            words = [f"tp {tp}", f"pp {pp}", *([f"cp {context}"] if context > 1 else []), f"dp {dp}"]
            words += [f"ep {ep}"] if ep > 1 else []
            best = (devices, ", ".join(words), float(needed[dp // ep - 1]))
    if best is None:
        most = f"tp up to {tensor_degrees[-1]}, pp up to {pipeline_degrees[-1]}, " if cuts else ""
        sharded = "" if job.parallelism.zero == 3 else f"; ZeRO stage {job.parallelism.zero} leaves weights whole"
        return Answer(
            question="fewest GPUs",
            answer=None,
            needed_bytes=None,
            note=f"none of {most}dp up to {MOST_RANKS} fits{sharded}",
        )
    return Answer(question="fewest GPUs", answer=f"{best[0]}: {best[1]}", needed_bytes=best[2])


def _expert_degrees(tree: Node) -> tuple[int, ...]:
    experts = [row.leaf.num_experts for row in walk(tree) if isinstance(row.leaf, Experts)]
    if not experts:
        return (1,)
    return tuple(degree for degree in EXPERT_DEGREES if all(divides(degree, count) for count in experts))


def cheapest_recomputation(tree: Node, job: TrainingJob, memory_bytes: float) -> Answer:
    """Recomputation that computes least again among those that fit."""
    least: float | None = None
    for word in recomputations_of(job):
        again = replace(job, recompute=parse_recompute(word))
        if job.attention not in attentions_of(again):
            continue
        needed = float(needed_bytes(tree, again))
        least = needed if least is None else min(least, needed)
        if needed <= memory_bytes:
            return Answer(question="cheapest recomputation", answer=word, needed_bytes=needed)
    return Answer(
        question="cheapest recomputation",
        answer=None,
        needed_bytes=least,
        note="not even recomputing whole blocks fits",
    )


def _whole_numbers(first: int, last: int) -> Column:
    import numpy as np

    return np.arange(first, last + 1, dtype=np.float64)


def _evaluated(tree: Node, job: TrainingJob) -> Column:
    import numpy as np

    candidates: Sequence[Any] = (job.step.batch_size, job.step.sequence_length, job.parallelism.dp)
    rows = max(np.size(value) for value in candidates)
    return np.broadcast_to(np.asarray(needed_bytes(tree, job), dtype=np.float64), (rows,))


def _last_that_fits(question: str, unit: str, candidates: Column, needed: Column, memory_bytes: float) -> Answer:
    fitting = candidates[needed <= memory_bytes]
    if not fitting.size:
        return Answer(
            question=question,
            answer=None,
            needed_bytes=float(needed[0]),
            note=f"{int(candidates[0])} {unit} already do not fit",
        )
    found = int(fitting[-1])
    at_the_end = found == int(candidates[-1])
    return Answer(
        question=question,
        answer=f"{found} {unit}",
        needed_bytes=float(needed[int((candidates == found).argmax())]),
        note=f"more than {found} were not looked at" if at_the_end else "",
    )
