"""Training jobs as runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planner.models import Model
from planner.nodes import Node
from planner.plan import job_of
from planner.sweep.runs import Kind
from planner.training import training_memory_of
from planner.training.counters import device_bytes
from planner.validate.context import training_context
from planner.validate.intervals import interval
from planner.workload import Step


def _answer(model: Model, tree: Node, fields: Mapping[str, Any]) -> dict[str, Any]:
    step = Step(**{name: fields[name] for name in ("batch_size", "sequence_length", "source_length", "images")})
    job = job_of(fields, step, model, tree)
    memory = training_memory_of(tree, job)
    peak = memory.peak_bytes
    low, high = interval(job.recipe.name, "peak_bytes", peak, context=training_context(tree, job)) or (np.nan, np.nan)
    return {
        "gpus": job.parallelism.devices,
        "steady_bytes": memory.steady_bytes,
        "peak_bytes": peak,
        "peak_low_bytes": low,
        "peak_high_bytes": high,
        "device_bytes": device_bytes(peak, job),
    }


TRAINING_RUN = Kind(
    words=(
        "recipe",
        "precision",
        "optimizer",
        "recompute",
        "loss",
        "attention",
        "adapter",
        "target_modules",
        "base_weights",
        "sequence_parallel",
        "zero",
        "pipeline_split",
        "offload_activations",
        "pp",
        "vp",
    ),
    numbers=(
        "batch_size",
        "sequence_length",
        "source_length",
        "images",
        "gradient_accumulation",
        "rank",
        "tp",
        "dp",
        "cp",
        "ep",
        "etp",
        "shard",
    ),
    results=("gpus", "steady_bytes", "peak_bytes", "peak_low_bytes", "peak_high_bytes", "device_bytes"),
    answer=_answer,
)
"""A training step by a recipe."""
