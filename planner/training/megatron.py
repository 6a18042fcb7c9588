"""From a job to what layers of Megatron-Core, of the textbook and of nanotron keep, and what backward has alive."""

from __future__ import annotations

from collections.abc import Sequence

from planner.activations import SavedTensor
from planner.activations.megatron import Engine, megatron_gradients, megatron_saved
from planner.activations.nanotron import nanotron_gradients, nanotron_saved
from planner.activations.textbook import ENGINE
from planner.nodes import Node
from planner.numeric import Num, maximum
from planner.training.activations import rank_bytes
from planner.training.job import TrainingJob


def engine_of(job: TrainingJob) -> Engine:
    """How layers compute: what the job leaves open is read from the recipe.

    Dropout is a fact of the recipe, or an option of the job: `hidden_dropout` and `attention_dropout`. An option
    `float8` says that matrix products read 8-bit casts.
    """
    recipe = job.recipe
    if recipe.word("profile") == "textbook":
        return ENGINE

    def probability(name: str) -> float:
        return float(job.option(name, recipe.number(name, "-")))

    return Engine(
        element_bytes=element_bytes(job),
        attention=job.attention if job.attention in ("eager", "flash") else "sdpa",  # type: ignore[arg-type]
        hidden_dropout=probability("hidden_dropout"),
        attention_dropout=probability("attention_dropout"),
        float8=bool(job.option("float8", False)),
        context_parallel=job.parallelism.cp > 1,
    )


def element_bytes(job: TrainingJob) -> int:
    """Bytes of an activation: 16 bits, but where weights are trained in fp32. [B]"""
    return 4 if job.precision.parameters.name == "fp32" else 2


def saved(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    """What autograd keeps of one micro-batch."""
    if job.recipe.word("profile") == "nanotron":
        return nanotron_saved(tree, job.step, element_bytes(job))
    return megatron_saved(tree, job.step, engine_of(job))


def work_bytes(tree: Node, job: TrainingJob) -> Num:
    """Gradients of activations that are alive at once while a block is differentiated, on one rank. [B]"""
    if job.recipe.word("profile") == "nanotron":
        return _largest_of_each(nanotron_gradients(tree, job.step, element_bytes(job)), job)
    return _largest_of_each(megatron_gradients(tree, job.step, engine_of(job)), job)


def _largest_of_each(made: Sequence[SavedTensor], job: TrainingJob) -> Num:
    alive: dict[str, Num] = {}
    for tensor in made:
        alive[tensor.name] = maximum(alive.get(tensor.name, 0), rank_bytes(tensor, job.parallelism))
    total: Num = 0
    for size in alive.values():
        total = total + size
    return total
