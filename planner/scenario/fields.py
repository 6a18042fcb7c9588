"""The fields of a scenario, each described once: the editor's schema and the documentation's tables are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from planner.precisions import DEFAULT_OPTIMIZER, DEFAULT_PRECISION
from planner.workload import Logits, Step

Mode = Literal["inference", "training"]
INFERENCE: Mode = "inference"
TRAINING: Mode = "training"

DEFAULT_WEIGHTS = "bf16"
"""What nearly every published checkpoint is stored in."""

EVERY_GPU = "all"
"""Word for every accelerator of the catalog."""

LARGEST_COUNT = 2**40
"""Far beyond any batch or context; a larger number is a typing error."""

AtLeastOne: TypeAlias = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
AtLeastZero: TypeAlias = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class Scenario(BaseModel):
    """One model in one use on one kind of accelerator."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    model: str = Field(
        min_length=1,
        description="Path to a config.json or its folder, or a name: <org>/<name>, or an alias such as gpt2.",
    )
    class_name: str | None = Field(
        None, alias="class", description="Class of transformers to count; the one that the config names if left out."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        alias="set",
        description="Keys of the model's config to change; a dotted or nested key reaches into a nested config.",
    )
    mode: Mode = Field(
        INFERENCE,
        description="inference holds the weights; training holds gradients and the optimizer's state as well.",
    )
    weights: str = Field(
        DEFAULT_WEIGHTS,
        description="Format that the weights are stored in for inference; in training the precision decides.",
    )
    precision: str = Field(
        DEFAULT_PRECISION, description="Training: what weights, gradients and master weights are kept in."
    )
    optimizer: str = Field(DEFAULT_OPTIMIZER, description="Training: the optimizer, whose states are kept.")
    gpu: str | None = Field(
        None, description="Accelerator, by any spelling that `planner gpus` finds; no question of fit if left out."
    )
    batch_size: AtLeastOne = Field(1, description="Samples in one step.", json_schema_extra=_unit("sample"))
    sequence_length: AtLeastOne = Field(
        2048,
        description="New tokens of a sample in one step; the decoder's in an encoder-decoder; "
        "of no effect where the sample is an image.",
        json_schema_extra=_unit("token"),
    )
    past: AtLeastZero = Field(
        0,
        description="Tokens of a sample that are in the cache already: more than 0 is decoding.",
        json_schema_extra=_unit("token"),
    )
    source_length: AtLeastOne | None = Field(
        None,
        description="Tokens of an encoder-decoder's encoder; as many as sequence_length if left out.",
        json_schema_extra=_unit("token"),
    )
    logits: Logits = Field("all", description="Positions that get logits: all, or the last as in a prefill.")
    images: AtLeastZero = Field(
        0, description="Images of a sample, for models that read images beside text.", json_schema_extra=_unit("image")
    )

    tp: AtLeastOne = Field(1, description="Tensor-parallel ranks.", json_schema_extra=_unit("GPU"))
    pp: AtLeastOne = Field(1, description="Pipeline stages.", json_schema_extra=_unit("GPU"))
    ep: AtLeastOne = Field(1, description="Expert-parallel ranks.", json_schema_extra=_unit("GPU"))
    recipe: str | None = Field(
        None,
        description="Training: the framework whose habits decide activations, buffers and peaks; "
        "only the model's states if left out.",
    )
    vp: AtLeastOne = Field(1, description="Training: model chunks on each pipeline stage.")
    dp: AtLeastOne = Field(1, description="Training: data-parallel ranks.", json_schema_extra=_unit("GPU"))
    cp: AtLeastOne = Field(1, description="Training: context-parallel ranks.", json_schema_extra=_unit("GPU"))
    etp: AtLeastOne | None = Field(
        None,
        description="Training: tensor-parallel ranks within an expert; as many as tp if left out.",
        json_schema_extra=_unit("GPU"),
    )
    sequence_parallel: bool = Field(
        False, description="Training: what lies outside of the split matrices is divided by tp as well."
    )
    zero: Annotated[int, Field(ge=0, le=3)] | None = Field(
        None, description="Training: ZeRO stage, 3 being FSDP's full shard; what the recipe does if left out."
    )
    shard: AtLeastOne | None = Field(
        None,
        description="Training: ranks that share one sharded copy (HSDP); dp times cp of them if left out.",
        json_schema_extra=_unit("GPU"),
    )
    pipeline_split: str | None = Field(
        None, description="Training: layers of each pipeline chunk, as 7,8,8,9; as even as can be if left out."
    )
    gradient_accumulation: AtLeastOne = Field(
        1, description="Training: micro-batches of one optimizer step; batch_size is one of them."
    )
    recompute: str | None = Field(
        None,
        description="Training: none, full, full:2 (every second block), selective:core_attention,mlp, or per_op; "
        "what the recipe does if left out.",
    )
    offload_activations: bool = Field(
        False, description="Training: what is kept of blocks that are recomputed lies in the host's memory."
    )
    loss: str | None = Field(
        None, description="Training: how the loss is computed from the last hidden states; the recipe's if left out."
    )
    attention: str | None = Field(None, description="Training: eager, sdpa or flash; what the recipe does if left out.")
    adapter: str | None = Field(
        None, description="Training: lora, dora, ia3, prefix, ...; every parameter is trained if left out."
    )
    rank: AtLeastOne | None = Field(None, description="Training: rank of the adapter; the method's own if left out.")
    target_modules: str | None = Field(
        None, description="Training: modules with an adapter, q_proj,v_proj or all-linear; the method's if left out."
    )
    base_weights: str | None = Field(
        None, description="Training: format of frozen weights, nf4 for QLoRA; that of the precision if left out."
    )

    engine: str | None = Field(
        None,
        description="Inference: the engine that serves the model, vllm or vllm 0.19 for one release; "
        "only the weights if left out.",
    )
    max_model_len: AtLeastOne | None = Field(
        None,
        description="Serving: longest request, prompt and answer; what the config allows if left out.",
        json_schema_extra=_unit("token"),
    )
    max_num_seqs: AtLeastOne | None = Field(
        None, description="Serving: requests of a step at most; the engine's default if left out."
    )
    max_num_batched_tokens: AtLeastOne | None = Field(
        None,
        description="Serving: new tokens of a step at most; the engine's default if left out.",
        json_schema_extra=_unit("token"),
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Serving: share of a GPU that the engine may use; its default if left out."
    )
    kv_cache_dtype: str = Field("auto", description="Serving: format of the KV cache; that of the weights if auto.")
    quantization: str | None = Field(
        None, description="Serving: how weights are stored, by the engine's word; as the config says if left out."
    )
    block_size: AtLeastOne | None = Field(
        None, description="Serving: tokens of a block of the cache.", json_schema_extra=_unit("token")
    )
    cpu_offload_gb: AtLeastZero = Field(
        0, description="Serving: weights of each GPU that stay on the host.", json_schema_extra=_unit("GiB")
    )
    n_gpu_layers: AtLeastZero | None = Field(
        None, description="Serving with llama.cpp: layers on GPUs, the last ones first; all if left out."
    )
    max_new_tokens: AtLeastOne = Field(
        128,
        description="Serving with transformers: tokens that generate adds to a prompt of sequence_length.",
        json_schema_extra=_unit("token"),
    )
    enforce_eager: bool = Field(False, description="Serving: no CUDA graphs.")
    enable_expert_parallel: bool = Field(False, description="Serving: whole experts are spread over the GPUs.")

    @model_validator(mode="after")
    def _one_mode(self) -> Scenario:
        if self.engine is not None and self.mode != INFERENCE:
            raise PydanticCustomError("engine", "is an inference engine, but mode is training")
        if self.recipe is not None and self.mode != TRAINING:
            raise PydanticCustomError("recipe", "is a training recipe, but mode is inference")
        return self

    @model_validator(mode="after")
    def _ranks_divide_the_sequence(self) -> Scenario:
        if self.sequence_parallel and self.tp == 1:
            raise PydanticCustomError("sequence_parallel", "divides by tp what tp leaves whole, but tp is 1")
        return self

    @model_validator(mode="after")
    def _training_has_no_past(self) -> Scenario:
        if self.mode == TRAINING and self.past > 0:
            raise PydanticCustomError("past", "must be 0 in training, which keeps no cache")
        return self

    @property
    def run(self) -> dict[str, Any]:
        """Fields that a training job or an engine reads; None where the recipe decides."""
        stated = self.model_fields_set
        decided = {name: getattr(self, name) if name in stated else None for name in ("precision", "optimizer")}
        stored = self.weights if "weights" in stated and self.quantization is None else self.quantization
        return {**self.model_dump(exclude={"class_name", "overrides"}), **decided, "quantization": stored}

    @property
    def step(self) -> Step:
        """The forward pass that it asks about."""
        return Step(
            batch_size=self.batch_size,
            sequence_length=self.sequence_length,
            past=self.past,
            source_length=self.source_length,
            logits=self.logits,
            images=self.images,
        )


def _key_of(name: str, field: FieldInfo) -> str:
    return field.alias or name


FIELDS: Mapping[str, FieldInfo] = {_key_of(name, field): field for name, field in Scenario.model_fields.items()}
"""Fields by the key that a file gives them."""

DEGREES = ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "shard")
"""Fields that say how a job is spread."""

TRAINING_ONLY = (
    "recipe",
    "vp",
    "dp",
    "cp",
    "etp",
    "sequence_parallel",
    "zero",
    "shard",
    "pipeline_split",
    "gradient_accumulation",
    "recompute",
    "offload_activations",
    "loss",
    "attention",
    "adapter",
    "rank",
    "target_modules",
    "base_weights",
)
"""Fields that only a training job reads."""

SERVING_ONLY = (
    "engine",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "quantization",
    "block_size",
    "cpu_offload_gb",
    "n_gpu_layers",
    "max_new_tokens",
    "enforce_eager",
    "enable_expert_parallel",
)
"""Fields that only an engine reads."""

NUMBERS = (
    "batch_size",
    "sequence_length",
    "past",
    "source_length",
    "images",
    "gradient_accumulation",
    "rank",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "cpu_offload_gb",
    "n_gpu_layers",
    "max_new_tokens",
    *DEGREES,
)
"""Fields that may be ranges."""

USUAL = ("model", "class", "set", "mode", "weights", "precision", "optimizer", "gpu", *NUMBERS[:5], "logits")
"""Fields that every report shows; the others are shown where a file states them."""

COMBINING: Mapping[str, str] = {
    "zip": "Groups of fields whose lists go together, value by value, instead of being multiplied.",
    "where": "Conditions on the columns of the report; a row that fails one is dropped.",
}
"""Keys that a sweep reads beside the fields."""

RANGE_KEYS: Mapping[str, str] = {
    "start": "First value.",
    "stop": "Last value, if the steps hit it.",
    "step": "Added each time.",
    "factor": "Multiplied each time; in place of step.",
}
"""Keys of a range."""
