"""Which fold over the tree says what autograd keeps, by the execution profile of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from planner.activations import SavedTensor
from planner.activations.layers import layers_of
from planner.compute import positions
from planner.errors import CatalogError, near_miss
from planner.nodes import Node, walk
from planner.numeric import Num, maximum
from planner.training.job import TrainingJob

Fold: TypeAlias = Callable[[Node, TrainingJob], tuple[SavedTensor, ...]]
"""From a model and a job to what autograd keeps of one micro-batch, before any rank divides it."""


def saved_tensors(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    """Saved tensors of one micro-batch by the recipe's profile."""
    name = job.recipe.word("profile")
    if name not in PROFILES:
        raise CatalogError(
            f"recipe '{job.recipe.name}' has the profile '{name}', expected one of {', '.join(PROFILES)}",
            hint=near_miss(name, PROFILES),
        )
    return PROFILES[name](tree, job)


def _torchtitan(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    per_op = job.recompute.kind == "per_op"
    if job.compiled or per_op:
        from planner.activations.compiled import compiled_saved

        # FSDP casts what it gathers; autocast keeps copies of its own, and a residual stream in fp32.
        autocast = _dtype(job) == "autocast" and job.recipe.word("weight_copies") != "none"
        return compiled_saved(tree, job.step, per_op=per_op, cached_results=not job.compiled, autocast=autocast)
    from planner.activations.huggingface import huggingface_saved

    kernel: Literal["eager", "sdpa"] = "eager" if job.attention == "eager" else "sdpa"
    played = huggingface_saved(tree, job.step, dtype=_dtype(job), attention=kernel)
    return tuple(tensor for tensor in played if tensor.path != LOSS_PATH)


def _dtype(job: TrainingJob) -> Literal["fp32", "bf16", "autocast"]:
    if job.precision.name == "autocast":
        return "autocast" if job.parallelism.zero < 3 else "bf16"
    return "fp32" if job.precision.name == "fp32" else "bf16"


def _huggingface(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    from planner.training.huggingface import played

    return played(tree, job).saved


def _megatron(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    from planner.training.megatron import saved

    return saved(tree, job)


def _litgpt(tree: Node, job: TrainingJob) -> tuple[SavedTensor, ...]:
    from planner.training.litgpt import saved

    return saved(tree, job)


LOSS_PATH = "loss"
"""Path of what a profile keeps for the loss, which `planner.training.loss` counts."""


PROFILES: Mapping[str, Fold] = {
    "megatron": _megatron,
    "nanotron": _megatron,
    "textbook": _megatron,
    "huggingface": _huggingface,
    "torchtitan": _torchtitan,
    "litgpt": _litgpt,
}
"""Folds by the word that a recipe's fact `profile` has; each loads its module when it is asked for."""


def work_bytes(tree: Node, job: TrainingJob) -> Num:
    """What the backward of one block has alive at its fullest beyond what it saved, on one rank. [B]"""
    if job.recipe.word("profile") == "huggingface":
        from planner.training.huggingface import work_bytes as of_huggingface

        return of_huggingface(tree, job)
    if PROFILES.get(job.recipe.word("profile")) is _megatron:
        from planner.training.megatron import work_bytes as of_megatron

        return of_megatron(tree, job)
    from planner.activations.compiled import gradients_at_work

    element_bytes = 4 if job.precision.name == "fp32" else 2
    return gradients_at_work(tree, job.step, element_bytes) / (job.parallelism.cp * job.parallelism.tp)


def block_input_bytes(tree: Node, job: TrainingJob) -> Num:
    """Bytes of the hidden states that enter a block, on one rank, in the dtype of activations. [B]"""
    if job.recipe.word("profile") == "huggingface":
        from planner.training.huggingface import block_input_bytes as of_huggingface

        return of_huggingface(tree, job)
    elements: Num = 0
    for layer in layers_of(list(walk(tree))):
        elements = maximum(elements, positions(layer.rows[0].stream, job.step) * layer.hidden)
    parallelism = job.parallelism
    divided = parallelism.tp if parallelism.sequence_parallel else 1
    element_bytes = 4 if job.precision.name == "fp32" else 2
    return elements * element_bytes / (parallelism.cp * divided)
