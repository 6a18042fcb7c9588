"""Rows of nanotron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.optimizers import find_optimizer
from planner.precisions import find_precision
from planner.training.job import TrainingJob
from planner.training.recipe import find_recipe
from planner.validate.architecture import tree_of
from planner.validate.frameworks import fields
from planner.validate.frameworks.megatron import recompute
from planner.validate.reading import Rank, Reading
from planner.workload import Step

RECIPES = ("nanotron",)


def read(row: Mapping[str, Any]) -> Reading:
    """A row as a model and a job."""
    recipe = find_recipe(str(row["recipe"]))
    layout = fields.parallelism(row, zero=int(recipe.number("zero", "-")))
    batch = fields.needed(row, "micro_batch_per_gpu")
    total = fields.number(row, "global_batch")
    fallback = 4 * layout.pp if total is None else max(1, total // int(layout.dp * batch))
    job = TrainingJob(
        step=Step(batch_size=batch, sequence_length=fields.needed(row, "seq_len")),
        recipe=recipe,
        precision=find_precision(recipe.word("precision")),
        optimizer=find_optimizer(recipe.word("optimizer")),
        parallelism=layout,
        recompute=recompute(fields.text(row, "act_ckpt")),
        loss=recipe.word("loss"),
        attention=recipe.word("attention"),
        micro_batches=fields.number(row, "grad_accum") or fallback,
        device=str(row.get("gpu_kind") or ""),
    )
    scope = fields.text(row.get("peak_mem") or {}, "scope")
    rank: Rank = "fullest" if "max" in scope else "first"
    return Reading(tree=tree_of(row.get("model") or {}), job=job, rank=rank, peak_counter=fields.counter(row))
