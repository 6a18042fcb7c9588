"""Rows of litgpt: one device, or FSDP with checkpointed blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.adapters import Adapter
from planner.training.job import parse_recompute
from planner.training.recipe import find_recipe
from planner.training.setup import training_job
from planner.validate.architecture import tree_of
from planner.validate.frameworks import fields
from planner.validate.reading import Reading, Skipped
from planner.workload import Step

RECIPES = ("litgpt", "litgpt-fsdp")

BATCH = 128
"""Samples that litgpt's scripts accumulate for one optimizer step. [-]"""

DROPOUT = 0.05
"""Of LoRA's input, as litgpt's scripts have it. [-]"""

MODULES = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "proj": "o_proj"}
"""Letters of the field `targets`, and the modules of a tree that they stand for."""

BASES = {"bnb.nf4": "nf4", "bnb.nf4-dq": "nf4-double-quant", "bnb.fp4": "nf4", "bnb.fp4-dq": "nf4-double-quant"}
"""Values of `--quantize`; fp4 takes as many bits as nf4."""


def read(row: Mapping[str, Any]) -> Reading:
    """A row as a model and a job."""
    layout = fields.parallelism(row)
    recipe = find_recipe("litgpt-fsdp" if layout.zero >= 3 else "litgpt")
    tuning = row.get("finetune") or {}
    words = fields.text(row, "precision")
    if "mixed" in words or "fp32" in words or "32-true" in words:
        raise Skipped(f"the precision '{row.get('precision')}' of litgpt is not modelled, only bf16-true is")
    batch = fields.needed(row, "micro_batch_per_gpu")
    quant = tuning.get("quant")
    if quant is not None and quant not in BASES:
        raise Skipped(f"the quantisation '{quant}' of litgpt is not known")
    job = training_job(
        Step(batch_size=batch, sequence_length=fields.needed(row, "seq_len")),
        recipe.name,
        parallelism=layout,
        micro_batches=fields.number(row, "grad_accum") or max(1, BATCH // (int(layout.dp) * batch)),
        adapter=_adapter(tuning),
        base=None if quant is None else BASES[quant],
        device=str(row.get("gpu_kind") or ""),
    )
    usual = parse_recompute(recipe.word("recompute", "none"))
    return Reading(
        tree=tree_of(row.get("model") or {}),
        job=replace(job, recompute=fields.recompute(row, usual)),
        peak_counter=fields.counter(row),
    )


def _adapter(tuning: Mapping[str, Any]) -> Adapter | None:
    method = str(tuning.get("method") or "full").lower()
    if method in ("full", "pretrain", "sft"):
        return None
    if method.removeprefix("q") in ("adapter", "adapter_v2"):
        return Adapter(method=method.removeprefix("q"), dtype="bf16")
    if method in ("lora", "qlora"):
        letters = re.findall(r"[a-z_]+", str(tuning.get("targets") or "q,v").lower())
        unknown = [letter for letter in letters if letter not in MODULES]
        if unknown:
            raise Skipped(f"the LoRA target '{unknown[0]}' of litgpt is not known")
        modules = tuple(MODULES[letter] for letter in letters)
        return Adapter(
            method="lora", rank=tuning.get("rank") or 8, target_modules=modules, dtype="bf16", dropout=DROPOUT
        )
    raise Skipped(f"litgpt has no fine-tuning '{tuning.get('method')}'")
