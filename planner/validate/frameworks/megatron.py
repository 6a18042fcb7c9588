"""Rows of Megatron-Core and what is built on it: Megatron-LM's functional tests, SimuMax, Megatron-Bridge, BLOOM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.numeric import divides
from planner.optimizers import Optimizer, find_optimizer
from planner.parallelism import Parallelism
from planner.precisions import Precision, find_precision
from planner.training.job import Recompute, TrainingJob
from planner.training.recipe import Recipe, find_recipe, load_recipes
from planner.training.workspace import BEFORE_HOPPER, architecture
from planner.validate.frameworks import fields
from planner.validate.frameworks.megatron_trees import hybrid_pattern, tree_of_row
from planner.validate.reading import Rank, Reading, Skipped
from planner.workload import Step

RECIPES = (
    "megatron",
    "megatron-distributed",
    "megatron-triton",
    "megatron-bridge",
    "megatron-bridge-moments",
    "megatron-local",
    "megatron-deepspeed",
)

MODULES: Mapping[str, str] = {
    "core_attn": "core_attention",
    "moe_act": "moe_activation",
    "layernorm": "norm",
    "mla_up_proj": "mla_up",
    "mlp": "mlp",
    "moe": "moe",
    "shared_experts": "shared_experts",
}
"""Words of `--recompute-modules`, and the parts of a block that they name."""

DEFAULT_DROPOUT = 0.1
"""`--hidden-dropout` and `--attention-dropout` of a command line that does not name them."""

TEST_WORKSPACE = 8 * 4096 * 1024
"""CUBLAS_WORKSPACE_CONFIG is :4096:8 in deterministic functional tests of Megatron-LM: 8 times 4 MiB a handle. [B]"""


def read(row: Mapping[str, Any]) -> Reading:
    """A row as a model and a job."""
    arguments = _arguments(row)
    layout = _layout(row)
    words = fields.text(row, "precision")
    recipe = find_recipe(_recipe_name(row, arguments))
    local = recipe.name in ("megatron-local", "megatron-deepspeed")
    device = str(row.get("gpu_kind") or "")
    job = TrainingJob(
        step=Step(
            batch_size=fields.needed(row, "micro_batch_per_gpu"),
            sequence_length=_sequence(row, arguments),
            source_length=arguments.get("encoder-seq-length"),
        ),
        recipe=recipe,
        precision=_precision(words, recipe),
        optimizer=_optimizer(row, recipe),
        parallelism=layout,
        recompute=recompute(fields.text(row, "act_ckpt")),
        loss=_loss(row, recipe),
        attention="eager" if local else _attention(row, device),
        micro_batches=_micro_batches(row, layout),
        device=device,
        options=_options(row, arguments, words),
    )
    if layout.zero == 3:
        raise Skipped("Megatron-FSDP, which no recipe describes")
    return Reading(tree=tree_of_row(row), job=job, rank=_rank(row, recipe), peak_counter=fields.counter(row))


def _arguments(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (row.get("extra") or {}).get("megatron_args")
    return found if isinstance(found, Mapping) else {}


def _recipe_name(row: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Local layers where the row says so, whatever its source; and a recipe of its own for models that have one."""
    stated = str(row["recipe"])
    if stated in ("megatron", "megatron-distributed") and arguments.get("transformer-impl") == "local":
        return "megatron-local"
    name = str((row.get("model") or {}).get("name") or "").lower()
    for recipe in load_recipes().values():
        own = recipe.name.startswith(f"{stated}-") and recipe.word("models")
        if own and any(word in name for word in own.split()):
            return recipe.name
    return stated


def _sequence(row: Mapping[str, Any], arguments: Mapping[str, Any]) -> int:
    decoder = arguments.get("decoder-seq-length")
    return int(decoder) if decoder else fields.needed(row, "seq_len")


def _layout(row: Mapping[str, Any]) -> Parallelism:
    """Degrees: where the number of accelerators is not stated and divides nothing, the fewest that hold the layout."""
    stated: Mapping[str, Any] = row.get("parallel") or {}
    found = fields.parallelism(row)
    if stated.get("dp") is None and fields.number(row, "gpus") is None:
        if found.zero:
            raise Skipped("the number of accelerators, by which the distributed optimizer divides, is not stated")
        needed = -(-found.ep * (found.etp or found.tp) // (found.tp * found.cp))
        found = replace(found, dp=max(1, int(needed)))
    if found.etp is None and not divides(found.ep * found.tp, found.tp * found.cp * found.dp):
        found = replace(found, etp=1)  # experts that are divided as the rest is would not fit
    if found.pp == 1:
        return found
    return replace(found, vp=_virtual_stages(row, stated, found.pp))


def _virtual_stages(row: Mapping[str, Any], stated: Mapping[str, Any], pp: int) -> int:
    pattern = hybrid_pattern(row.get("model") or {})
    if pattern is not None and "|" in pattern:
        return max(1, (pattern.count("|") + 1) // pp)
    for key in ("vpp_stages", "vpp", "vp"):
        if stated.get(key):
            return fields.needed(stated, key)
    of_chunk = fields.number(stated, "vpp_layers")
    if of_chunk is None:
        return 1
    return max(1, fields.needed(row.get("model") or {}, "layers") // (pp * of_chunk))


def _micro_batches(row: Mapping[str, Any], layout: Parallelism) -> int:
    stated = fields.number(row, "grad_accum")
    if stated is not None:
        return stated
    total = fields.number(row, "global_batch")
    if total is None:
        return 4 * layout.pp
    return max(1, total // int(layout.dp * fields.needed(row, "micro_batch_per_gpu")))


def _precision(words: str, recipe: Recipe) -> Precision:
    if words.startswith("fp32"):
        return find_precision("fp32")
    if "fp16" in words and "bf16" not in words:
        return find_precision("fp16-master")
    # Recipes of Megatron-Bridge are files that say how gradients are reduced; of others, what a row says counts.
    stated = "fp32 grad" in words and not recipe.name.startswith("megatron-bridge")
    return find_precision("megatron" if stated else recipe.word("precision"))


def _optimizer(row: Mapping[str, Any], recipe: Recipe) -> Optimizer:
    stated = fields.optimizer(row)
    return find_optimizer(recipe.word("optimizer")) if stated.name == "adamw" else stated


def _loss(row: Mapping[str, Any], recipe: Recipe) -> str:
    words = fields.text(row, "loss_impl")
    if "fus" in words:
        return recipe.word("fused_loss")
    return recipe.word("loss") if not words else "vocab-parallel"


def recompute(words: str) -> Recompute:
    """Recomputation from words such as ``full(uniform,1)`` or ``selective([layernorm mla_up_proj mlp moe_act])``.

    Raises
    ------
    Skipped
        A word is none that is known.
    """
    if not words or words.startswith(("none", "no ", "not stated")):
        return Recompute()
    group = re.search(r"uniform\D*(\d+)", words)
    if "full" in words:
        return Recompute(kind="full", group=int(group[1]) if group else 1)
    if "selective" in words:
        named = [word for word in re.findall(r"[a-z_]+", words.split("selective", 1)[1]) if word in MODULES]
        return Recompute(kind="selective", parts=frozenset(MODULES[word] for word in named or ["core_attn"]))
    raise Skipped(f"the activation checkpointing '{words}' is not known")


def _attention(row: Mapping[str, Any], device: str) -> str:
    words = fields.text(row, "attention")
    if "unfused" in words or "local" in words:
        return "eager"
    if words.startswith("flash") and "te" not in words.replace("(", " ").replace(")", " ").split():
        return "flash"
    # TransformerEngine's own choice: FlashAttention before Hopper, cuDNN since; but on Blackwell that has no
    # deterministic backward pass, which Megatron-LM's functional tests ask for.
    found = architecture(device)
    refused = found.startswith("Blackwell") and _is_deterministic(row, _arguments(row))
    return "flash" if found in BEFORE_HOPPER or refused else "sdpa"


def _is_deterministic(row: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a functional test asks for deterministic kernels: all do that use none which cannot be so."""
    words = fields.text(row, "attention")
    return bool(arguments) and not words.startswith("flash") and not arguments.get("cross-entropy-loss-fusion")


def _options(row: Mapping[str, Any], arguments: Mapping[str, Any], words: str) -> dict[str, str | int | float | bool]:
    options: dict[str, str | int | float | bool] = {
        "gradient_accumulation_fusion": not arguments.get("no-gradient-accumulation-fusion", False),
        "float8": "fp8" in words,
    }
    options["attention_mask"] = bool(arguments)
    if arguments:
        for name in ("hidden", "attention"):
            options[f"{name}_dropout"] = float(arguments.get(f"{name}-dropout", DEFAULT_DROPOUT))
        if _is_deterministic(row, arguments):
            options["cublas_workspace"] = TEST_WORKSPACE
        options["grouped_experts"] = bool(arguments.get("moe-grouped-gemm"))
    return options


def _rank(row: Mapping[str, Any], recipe: Recipe) -> Rank:
    """The stage that was read: Megatron prints on its last rank, unless a scope says that others were read too."""
    scope = fields.text(row.get("peak_mem") or {}, "scope")
    if "max" in scope or "first" in scope:
        return "fullest"
    if "last" in scope:
        return "last"
    return "last" if recipe.word("logged_rank") == "last" else "fullest"
