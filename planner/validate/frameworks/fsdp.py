"""Rows of frameworks on torch's FSDP2: torchtitan and torchao on it, torchtune, KempnerForge, and of a bare DDP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.adapters import Adapter
from planner.catalog.models import catalog_models
from planner.formats import WeightFormat, find_format
from planner.models import build_model
from planner.nodes import Node
from planner.parallelism import Parallelism
from planner.precisions import Precision, find_precision
from planner.sources import ConfigSource, find_config
from planner.training.job import Recompute, TrainingJob, parse_recompute
from planner.training.recipe import Recipe, find_recipe
from planner.validate.architecture import tree_of
from planner.validate.frameworks import fields
from planner.validate.reading import Reading, Skipped
from planner.workload import Step

RECIPES = (
    "torchtitan",
    "torchtitan-2024",
    "torchtune",
    "kempner-fsdp2",
    "kempner-fsdp2-accumulating",
    "fsdp2",
    "modded-nanogpt",
    "torch",
)

ALPACA = "full_finetune_single_device default"
"""Words of a row that runs torchtune's usual config for one device, whatever it states besides."""

ALPACA_BATCH, ALPACA_LONGEST = 2, 1304
"""Of that config: samples of a micro-batch, and tokens of the longest sample of Alpaca. [-, token]"""


def read(row: Mapping[str, Any]) -> Reading:
    """A row as a model and a job."""
    recipe = find_recipe(str(row["recipe"]))
    if not (row.get("model") or {}).get("vocab", 1):
        recipe = find_recipe("torch")  # an encoder of images, trained by a script of its own
    if ALPACA in fields.text(row, "act_ckpt"):
        row = {"micro_batch_per_gpu": ALPACA_BATCH, "seq_len": ALPACA_LONGEST, **_stated(row)}
    layout, options = _layout(row, recipe), _options(row)
    return Reading(
        tree=_tree(row.get("model") or {}),
        job=TrainingJob(
            step=Step(batch_size=_batch(row, layout.dp, layout.pp), sequence_length=fields.needed(row, "seq_len")),
            recipe=recipe,
            precision=_precision(row, recipe),
            optimizer=fields.optimizer(row),
            parallelism=layout,
            recompute=fields.recompute(row, _default_recompute(recipe)),
            loss=_loss(row, recipe),
            micro_batches=1 if "optimizer_in_backward" in options else _micro_batches(row, recipe, layout),
            compiled=bool(row.get("compile")),
            device=str(row.get("gpu_kind") or ""),
            adapter=_adapter(row),
            base=_base(row),
            options=options,
        ),
        peak_counter=fields.counter(row),
    )


def _tree(model: Mapping[str, Any]) -> Node:
    """Model of a row; "NAME cut to N layers" is the text model of that name with fewer blocks."""
    found = re.fullmatch(r"(.+?) cut to (\d+) layers", str(model.get("name") or ""))
    if found is None:
        return tree_of(model)
    source = _cut_source(found[1])
    raw = source.raw.get("text_config", source.raw)
    layers = int(found[2])
    return build_model(replace(source, raw={**raw, "num_hidden_layers": layers, **_shorter(raw, layers)})).tree


def _shorter(raw: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Keys that list every layer, cut to the first ones."""
    return {key: value[:layers] for key, value in raw.items() if isinstance(value, list) and len(value) > layers}


def _cut_source(name: str) -> ConfigSource:
    """Config of the catalog whose name has the words of a free name, such as ``Llama-4 Scout``."""
    words = [word for word in re.findall(r"[a-z0-9]+", name.lower()) if not re.fullmatch(r"\d+bx?\d*e?", word)]
    for known in catalog_models():
        if all(word in known.id.lower() for word in words):
            return find_config(known.id, offline=True)
    raise Skipped(f"the catalog does not know '{name}'")


def _stated(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _adapter(row: Mapping[str, Any]) -> Adapter | None:
    """LoRA of attention and MLP, as torchtune's configs have it; None where all of the model trains."""
    tuning = row.get("finetune") or {}
    method = str(tuning.get("method") or "full").lower()
    if method in ("lora", "qlora", "dora"):
        return Adapter(
            method="dora" if method == "dora" else "lora",
            rank=tuning.get("rank") or 8,
            target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            dtype="bf16",
        )
    if method in ("full", "pretrain", "sft", "full fine-tuning"):
        return None
    raise Skipped(f"the fine-tuning '{tuning.get('method')}' is not known here")


def _base(row: Mapping[str, Any]) -> WeightFormat | None:
    """Format of frozen weights: the NF4Tensor of torchao quantises its scales too."""
    quant = (row.get("finetune") or {}).get("quant")
    if not quant:
        return None
    if "nf4" not in str(quant).lower():
        raise Skipped(f"the quantisation '{quant}' is not known here")
    return find_format("nf4-double-quant")


def _options(row: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    words = fields.text(row, "optimizer", "notes") if row.get("optimizer") else ""
    options: dict[str, str | int | float | bool] = {}
    if "cpu off" in words or "cpu_offload" in words:
        options["host"] = "weights gradients optimizer"
    if "optimizer-in-b" in words or "optimizer_in_b" in words:
        options["optimizer_in_backward"] = True
    return options


def _layout(row: Mapping[str, Any], recipe: Recipe) -> Parallelism:
    """Degrees; where expert parallelism is stated beside data parallelism, its ranks are data-parallel ones too."""
    layout = fields.parallelism(row, zero=int(recipe.number("zero", "-")))
    gpus, ranks = fields.number(row, "gpus"), layout.tp * layout.pp * layout.cp * layout.dp
    if gpus is not None and ranks * layout.ep == gpus:
        layout = replace(layout, dp=layout.dp * layout.ep)
    stated = row.get("parallel") or {}
    schedule = str(stated.get("schedule") or "").lower()
    if stated.get("sp") is None and recipe.word("sequence_parallel") == "yes" and layout.pp == 1:
        has_experts = bool((row.get("model") or {}).get("moe"))
        layout = replace(layout, sequence_parallel=bool(layout.tp > 1) and not has_experts)
    if layout.pp > 1 and layout.vp == 1 and "interleaved" in schedule:
        layout = replace(layout, vp=2)
    return layout


def _batch(row: Mapping[str, Any], dp: Any, pp: int) -> int:
    """Samples of a micro-batch: where a pipeline cuts the batch, as many as make it one for each micro-batch."""
    stated = fields.number(row, "micro_batch_per_gpu")
    if stated is not None:
        return stated
    total = fields.number(row, "global_batch")
    if total is None and pp == 1:
        raise Skipped("neither 'micro_batch_per_gpu' nor 'global_batch' is stated")
    # A pipeline of torch cuts the batch of a rank into as many micro-batches as it has stages.
    return max(1, (total or 1) // (int(dp) * pp))


def _micro_batches(row: Mapping[str, Any], recipe: Recipe, layout: Parallelism) -> int:
    stated = fields.number(row, "grad_accum")
    if stated is not None:
        return stated
    total, batch = fields.number(row, "global_batch"), fields.number(row, "micro_batch_per_gpu")
    if total is not None and batch is not None:
        return max(1, total // (int(layout.dp) * batch))
    return max(layout.pp, int(recipe.number("micro_batches", "-", 1)))


def _precision(row: Mapping[str, Any], recipe: Recipe) -> Precision:
    words = fields.text(row, "precision")
    if "amp" in words.split() or "fp32 param" in words or "fp32 sharded" in words or "fp32 master" in words:
        return find_precision("autocast")
    if "pure bf16" in words or "bf16-true" in words or "params bf16" in words:
        return find_precision("bf16")
    return find_precision(recipe.word("precision", "autocast"))


def _default_recompute(recipe: Recipe) -> Recompute:
    return parse_recompute(recipe.word("recompute", "none"))


def _loss(row: Mapping[str, Any], recipe: Recipe) -> str:
    """A loss is compiled where the model is; else it is the recipe's, or what torch makes of fp32 logits."""
    usual = recipe.word("loss", "eager")
    if usual == "fused" and not row.get("compile"):
        usual = "eager"
    if usual == "chunked-output" and row.get("compile"):
        usual = "chunked-output-fused"
    tensor_parallel = ((row.get("parallel") or {}).get("tp") or 1) > 1
    return f"{usual}-parallel" if tensor_parallel and recipe.word("loss_parallel", "no") == "yes" else usual
