"""Rows of the Hugging Face stack: Trainer, TRL and peft, DeepSpeed, and kernels that replace parts of them.

People write settings in words of their own, so fields are read by the words that they hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.adapters import METHODS, Adapter, adapter_parameters, resolved
from planner.nodes import Node
from planner.parallelism import Parallelism, ZeroStage
from planner.training.job import Recompute, TrainingJob
from planner.training.recipe import load_recipes
from planner.training.setup import training_job
from planner.validate.architecture import tree_of
from planner.validate.reading import Counter, Reading, Skipped
from planner.workload import Step

RECIPES: tuple[str, ...] = tuple(
    name for name, recipe in load_recipes().items() if recipe.word("profile") == "huggingface"
)

FULL = ("full", "sft", "pretrain", "full fine-tuning", "full-finetuning")
"""What people call training of every parameter."""

PEFT_NAMES = {
    "qlora": "lora",
    "prefixtuning": "prefix",
    "prompt_tuning": "prompt",
    "ptuning": "p-tuning",
    "adaptionprompt": "adaption-prompt",
}
"""Methods under names of peft's own that the planner calls otherwise."""

QWEN_NAMES = {
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "c_proj": ("o_proj", "down_proj"),
    "w1": ("up_proj",),
    "w2": ("gate_proj",),
}
"""Modules of Qwen's first generation, by the names that trees of bare dimensions have."""

DECOMPOSED = ("osf", "psoft")
"""Methods that store the weight anew as its singular vectors, in buffers that nothing here counts."""

FSDP_STAGE: ZeroStage = 3

MODEL_TYPE = "llama"
"""Type of transformers whose names the trees of bare dimensions have."""

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
USUAL_TARGETS: tuple[tuple[str, ...] | str, ...] = (("q_proj", "v_proj"), ATTENTION, MLP, "all-linear", ("v_proj",))
"""What people adapt."""


def read(row: Mapping[str, Any]) -> Reading:
    """A row in the planner's own types.

    Raises
    ------
    Skipped
        A setting without which nothing can be predicted is missing or unknown.
    """
    tokens, samples = row.get("seq_len"), row.get("micro_batch_per_gpu")
    if not tokens or not samples:
        raise Skipped("its sequence length or its micro-batch is not stated")
    tuning = row.get("finetune") or {}
    parallelism = _parallelism(row)
    tree = tree_of(_model(row))
    adapter = _adapter(row, tuning, parallelism, tree)
    base = _base(tuning)
    job = training_job(
        Step(batch_size=int(samples), sequence_length=int(tokens) + _virtual_tokens(adapter)),
        _recipe(row, adapter, base, parallelism),
        precision=_precision(row, parallelism, adapter),
        optimizer=_optimizer(row),
        parallelism=parallelism,
        loss=_loss(row),
        attention=_attention(row),
        micro_batches=int(row.get("grad_accum") or 1),
        adapter=adapter,
        base=base,
        device=str(row.get("gpu_kind") or ""),
    )
    job = replace(job, recompute=_recompute(row), options=_options(row, adapter, base, parallelism))
    return Reading(tree=tree, job=job, peak_counter=_counter(row))


def _model(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Dimensions; experts without a width of their own are as wide as the MLP that is stated."""
    model = row.get("model") or {}
    experts = model.get("moe")
    if isinstance(experts, Mapping) and not experts.get("moe_ffn"):
        return {**model, "moe": {**experts, "moe_ffn": model.get("ffn")}}
    return model


def _text(row: Mapping[str, Any], *names: str) -> str:
    return " ".join(str(row[name]) for name in names if row.get(name) is not None).lower()


def _framework(row: Mapping[str, Any]) -> str:
    extra = row.get("extra")
    return str(extra.get("framework_config") or "").lower() if isinstance(extra, Mapping) else ""


def _recipe(row: Mapping[str, Any], adapter: Adapter | None, base: str | None, parallelism: Parallelism) -> str:
    """Recipe of the same release with an adapter, with a quantised base, or with DeepSpeed, where the row has them."""
    stated = str(row["recipe"])
    kind, _, release = stated.partition("-4.")
    if kind != "huggingface":
        return stated
    if adapter is None:
        with_deepspeed = parallelism.zero > 0 and not (row.get("parallel") or {}).get("fsdp")
        return f"deepspeed-zero{parallelism.zero}" if with_deepspeed else stated
    name = "trl-lora" if base is None else "trl-qlora"
    name = f"{name}-4.{release}" if release else name
    return name if name in load_recipes() else stated


def _parallelism(row: Mapping[str, Any]) -> Parallelism:
    stated = row.get("parallel")
    stated = stated if isinstance(stated, Mapping) else {}
    words = str(stated.get("fsdp") or "").lower()
    named = re.search(r"zero-?([0-3])", str(stated.get("deepspeed") or "").lower())
    zero = stated.get("zero") or (int(named[1]) if named else 0)
    if "full_shard" in words or "fsdp" in words:
        zero = FSDP_STAGE
    offload = str(stated.get("offload") or "").lower()
    if offload not in ("", "none", "false"):
        raise Skipped("offloading to the host is not read from rows")
    return Parallelism(
        tp=int(stated.get("tp") or 1),
        pp=int(stated.get("pp") or 1),
        cp=int(stated.get("cp") or 1),
        dp=int(stated.get("dp") or 1),
        zero=int(zero),  # type: ignore[arg-type]  # one of the four
    )


def _precision(row: Mapping[str, Any], parallelism: Parallelism, adapter: Adapter | None) -> str | None:
    text = _text(row, "precision")
    if adapter is None and parallelism.zero > 0 and not (row.get("parallel") or {}).get("fsdp"):
        return None  # DeepSpeed keeps masters: what its recipe says
    if not text:
        return None
    if "upcasts" in text and parallelism.zero == FSDP_STAGE:
        return "autocast"
    if re.search(r"bfloat16|bf16|float16|fp16|half", text):
        return "bf16"
    if re.search(r"fp32|float32", text):
        return "fp32"
    raise Skipped(f"precision '{row.get('precision')}' is not known")


def _optimizer(row: Mapping[str, Any]) -> str | None:
    text = _text(row, "optimizer")
    if not text:
        return None
    if "8bit" in text or "8-bit" in text:
        return "paged-adamw-8bit" if "paged" in text else "adamw-8bit"
    if "adamw" in text or "adam" in text or "lora-fa" in text:
        return "adamw"
    for name in ("adafactor", "lion", "sgd", "muon"):
        if name in text:
            return name
    raise Skipped(f"optimizer '{row.get('optimizer')}' is not known")


def _attention(row: Mapping[str, Any]) -> str | None:
    text = _text(row, "attention")
    if "flash" in text:
        return "flash"
    if "sdpa" in text:
        return "sdpa"
    return "eager" if "eager" in text else None


def _loss(row: Mapping[str, Any]) -> str | None:
    """Loss path: a kernel in the place of cross-entropy sits on what the release does with the logits."""
    text = _text(row, "loss_impl")
    if "linear" in text and ("fused" in text or "liger" in text):
        return "fused-linear"
    if "fused" in text or "liger" in text or "triton" in text:
        release = load_recipes()[str(row["recipe"])].word("loss")
        return release.replace("eager", "fused", 1) if release.startswith("eager") else "fused"
    return None


def _recompute(row: Mapping[str, Any]) -> Recompute:
    text = _text(row, "act_ckpt")
    if not text or text.startswith(("none", "no", "off", "false")):
        return Recompute()
    if "full" in text or "gradient" in text or text in ("true", "yes", "on"):
        return Recompute(kind="full", offload="offload" in text)
    raise Skipped(f"activation checkpointing '{row.get('act_ckpt')}' is not known")


def _base(tuning: Mapping[str, Any]) -> str | None:
    """Format of a frozen base: what its kind usually is, since rows do not state group sizes."""
    text = f"{tuning.get('quant') or ''} {tuning.get('method') or ''}".lower()
    if "gptq" in text:
        return "gptq-int4"
    if "nf4" in text or "bnb" in text or "qlora" in text:
        return "nf4-double-quant"
    return None


def _adapter(row: Mapping[str, Any], tuning: Mapping[str, Any], parallelism: Parallelism, tree: Node) -> Adapter | None:
    stated = str(tuning.get("method") or "full").lower()
    if stated in FULL:
        return None
    method, _, beside = stated.split()[0].partition("+")
    if beside not in ("", "emb", "embeddings"):
        raise Skipped(f"the method '{stated}' is not known")
    method = PEFT_NAMES.get(method, method)
    if method not in METHODS:
        raise Skipped(f"the method '{stated}' is not known")
    if method in DECOMPOSED:
        raise Skipped(f"'{method}' stores weights decomposed, in buffers that are not modelled")
    spec = METHODS[method]
    dtype = "fp32"
    if _base(tuning) is not None and parallelism.zero == FSDP_STAGE:
        dtype = "bf16"
    adapter = Adapter(
        method=method,
        rank=tuning.get("rank") if spec.rank is not None else None,
        target_modules=_targets(tuning) if spec.targets in ("linear", "any") else None,
        modules_to_save=("embed_tokens", "lm_head") if beside else (),
        dtype=dtype,
        dropout=_dropout(row),
    )
    counted = tuning.get("trainable_params")
    if spec.targets == "prompt" and counted:
        return _with_prompt_of(counted, adapter, tree)
    if adapter.target_modules is not None or not counted:
        return resolved(adapter, tree, MODEL_TYPE)
    return _with_targets_of(counted, adapter, tree)


def _with_prompt_of(counted: int, adapter: Adapter, tree: Node) -> Adapter:
    """Where a run says how much it trained: as many virtual tokens as give that number, or the method's own."""
    for tokens in range(1, 1024):
        if "num_virtual_tokens" not in adapter.spec.options:
            break
        chosen = replace(adapter, options={**adapter.options, "num_virtual_tokens": tokens})
        trained = adapter_parameters(tree, chosen).trainable
        if trained == counted:
            return chosen
        if trained > counted:
            break
    return adapter


def _virtual_tokens(adapter: Adapter | None) -> int:
    """Tokens that a prompt puts before each sample."""
    if adapter is None or adapter.method not in ("prompt", "p-tuning"):
        return 0
    return adapter.count("num_virtual_tokens")


def _with_targets_of(counted: int, adapter: Adapter, tree: Node) -> Adapter:
    """Where a run says how much it trained and not what: the usual targets that give that number, peft's own first."""
    default = resolved(adapter, tree, MODEL_TYPE)
    if adapter.spec.targets not in ("linear", "any"):
        return default
    for targets in (default.target_modules, *USUAL_TARGETS):
        chosen = replace(adapter, target_modules=targets)
        if adapter_parameters(tree, chosen).trainable == counted:
            return chosen
    return default


def _targets(tuning: Mapping[str, Any]) -> tuple[str, ...] | str | None:
    stated = str(tuning.get("targets") or "")
    if not stated.strip():
        return None
    if "all" in stated.lower():
        return "all-linear"
    names = [name for name in re.split(r"[\s,+]+", stated) if name]
    if "c_proj" in names or "w1" in names:
        return tuple(dict.fromkeys(one for name in names for one in QWEN_NAMES.get(name, (name,))))
    return tuple(name for name in names if name != "c_attn")


def _dropout(row: Mapping[str, Any]) -> float:
    return 0.1 if "fms-acceleration" in str((row.get("source") or {}).get("repo")) else 0.0


def _options(
    row: Mapping[str, Any], adapter: Adapter | None, base: str | None, parallelism: Parallelism
) -> dict[str, str | int | float | bool]:
    framework = _framework(row)
    options: dict[str, str | int | float | bool] = {}
    fused = "foak" in framework or "fast-kernels" in framework or "unsloth" in framework
    if fused:
        options["norms"] = "fused"
        if base is not None:
            options["adapters"] = "fused"
    if "amp" in _text(row, "precision") and "no amp" not in _text(row, "precision"):
        options["autocast"] = "yes"
    if adapter is not None and base is not None and parallelism.zero == FSDP_STAGE:
        options["adapters_sharded"] = "no"
    if "baseline-peft" in framework and parallelism.zero != FSDP_STAGE:
        options["residual"] = "fp32"
    return options


def _counter(row: Mapping[str, Any]) -> Counter:
    metric = row.get("peak_mem")
    text = str(metric.get("metric") or "").lower() if isinstance(metric, Mapping) else ""
    if "allocated" in text:
        return "allocated"
    return "reserved" if "reserved" in text else "device"


__all__ = ["RECIPES", "TrainingJob", "read"]
