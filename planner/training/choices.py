"""What the layers of a profile can do: a word that they have no way to follow is refused, not taken for another."""

from __future__ import annotations

from collections.abc import Mapping

from planner.errors import UnsupportedError, near_miss
from planner.nodes import Node, walk
from planner.numeric import all_true
from planner.training.job import ATTENTIONS, KINDS, TrainingJob

RECOMPUTATIONS: Mapping[str, tuple[str, ...]] = {
    "huggingface": ("none", "full"),
    "litgpt": ("none", "full"),
    "megatron": ("none", "selective", "full"),
    "nanotron": ("none", "selective", "full"),
    "textbook": ("none", "selective", "full"),
    "torchtitan": ("none", "selective", "per_op", "full"),
}
"""Kinds of recomputation by profile, from the one that computes least again on.

The gradient checkpointing of transformers and the policy of litgpt know whole blocks only; a list of kept operators is
torch's selective checkpointing, which loops of one's own can use.
"""

FUSED = tuple(word for word in ATTENTIONS if word != "eager")
"""Attention that keeps no scores."""

KNOW_ADAPTERS = ("huggingface", "litgpt")
"""Profiles that know what frozen weights do not keep, and what adapters keep beside them."""


def recomputations_of(job: TrainingJob) -> tuple[str, ...]:
    """Kinds of recomputation that a job's recipe knows, from the one that computes least again on."""
    return RECOMPUTATIONS.get(job.recipe.word("profile"), KINDS)


def attentions_of(job: TrainingJob) -> tuple[str, ...]:
    """Implementations of attention that a job's recipe has."""
    match job.recipe.word("profile"):
        case "textbook":
            return ("eager",)
        case "nanotron" | "litgpt":
            return FUSED
        case "torchtitan" if job.compiled or job.recompute.kind == "per_op":
            return FUSED
        case _:
            return ATTENTIONS


def left_out(tree: Node, job: TrainingJob) -> list[str]:
    """What a job's figures do not have, one line each."""
    lines = []
    frozen = job.adapter is not None and job.adapter.method != "full"
    if frozen and job.recipe.word("profile") not in KNOW_ADAPTERS:
        lines.append(
            f"activations by {job.recipe.name} are those of training everything, which is an upper bound for an adapter"
        )
    if frozen and not all_true(job.parallelism.tp == 1):
        lines.append("adapters are not divided by tp")
    if job.step.images == 0 and any(row.stream.kind == "image" for row in walk(tree)):
        lines.append("a text without images: activations of what reads images are not included")
    return lines


def check_choices(job: TrainingJob) -> None:
    """Refuse words that a job's recipe cannot follow.

    Raises
    ------
    UnsupportedError
        The key names the word; the message says which the recipe knows.
    """
    for key, chosen, known in (
        ("recompute", job.recompute.kind, recomputations_of(job)),
        ("attention", job.attention, attentions_of(job)),
    ):
        if chosen not in known:
            raise UnsupportedError(
                f"recipe '{job.recipe.name}' has no '{chosen}', expected {' or '.join(known)}",
                key=key,
                hint=near_miss(chosen, known),
            )
