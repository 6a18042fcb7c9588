"""A scenario: one question, as data. A file of it may ask many at once, see `planner.sweep`.

Every field is described once, here; the editor's schema and the tables of the documentation are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from planner.adapters.adapter import Adapter
from planner.devices import find_device
from planner.engines import find_engine
from planner.errors import PlannerError, ScenarioError, near_miss
from planner.formats import find_format
from planner.located import Located, Place, read_yaml
from planner.optimizers import find_optimizer
from planner.precisions import DEFAULT_OPTIMIZER, DEFAULT_PRECISION, find_precision
from planner.training.job import find_attention, parse_recompute
from planner.training.loss import find_loss_path
from planner.training.recipe import find_recipe
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
    gradient_accumulation: AtLeastOne = Field(
        1, description="Training: micro-batches of one optimizer step; batch_size is one of them."
    )
    recompute: str | None = Field(
        None,
        description="Training: none, full, full:2 (every second block), selective:core_attention,mlp, or per_op; "
        "what the recipe does if left out.",
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

DEGREES = ("tp", "pp", "vp", "dp", "cp", "ep", "etp")
"""Fields that say how a job is spread."""

TRAINING_ONLY = (
    "recipe",
    "vp",
    "dp",
    "cp",
    "etp",
    "sequence_parallel",
    "zero",
    "gradient_accumulation",
    "recompute",
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


def _known(find: Callable[[str], object]) -> Callable[[str], str]:
    """Text as it is, once it is found to mean something."""

    def check(text: str) -> str:
        find(text)
        return text

    return check


def _canonical_names() -> Mapping[str, Callable[[str], str]]:
    return {
        "gpu": lambda name: find_device(name).name,
        "weights": lambda name: find_format(name).name,
        "precision": lambda name: find_precision(name).name,
        "optimizer": lambda name: find_optimizer(name).name,
        "recipe": lambda name: find_recipe(name).name,
        "recompute": _known(parse_recompute),
        "loss": lambda name: find_loss_path(name).name,
        "attention": find_attention,
        "adapter": lambda name: Adapter(method=name).method,
        "base_weights": lambda name: find_format(name).name,
        "engine": _known(find_engine),
    }


def checked_value(key: str, found: Located) -> Any:
    """One value of one field, checked and under its catalog name.

    Parameters
    ----------
    key : str
        One of `FIELDS`, or ``set.<key>``, whose values are checked when the model is built.
    found : Located
        The value.

    Raises
    ------
    ScenarioError
        Wrong type, out of range, or a name that the catalog does not know; file, line and key path are named.
    """
    value = found.plain()
    if key.startswith("set."):
        return value
    if key in NUMBERS and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        checked = _adapter(key).validate_python(value)
        canonical = _canonical_names().get(key)
        return canonical(checked) if canonical and checked is not None else checked
    except ValidationError as error:
        message, hint = _explained(key, error.errors(include_url=False)[0])
        raise found.place.error(message, hint) from None
    except PlannerError as error:
        raise found.place.error(error.message, error.hint) from None


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    field = FIELDS[key]
    annotation: Any = field.annotation
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(Annotated[annotation, *field.metadata] if field.metadata else annotation, config=strict)


def _explained(key: str, error: ErrorDetails) -> tuple[str, str | None]:
    """Message and hint for what pydantic found."""
    given, context = error["input"], error.get("ctx") or {}
    shown = _shown(given)
    match error["type"]:
        case "int_type":
            return f"expected a whole number, got {shown}", None
        case "greater_than_equal":
            return f"must be at least {context['ge']}, got {given}", None
        case "less_than_equal":
            return f"must be at most {context['le']:,}, got {given}", None
        case "bool_type":
            return f"expected true or false, got {shown}", None
        case "string_type":
            quotes = f"write '{given}' in quotes" if isinstance(given, (int, float)) else None
            return f"expected a name, got {shown}", quotes
        case "string_too_short":
            return "expected a name, got an empty text", None
        case "literal_error":
            words = [str(word) for word in (INFERENCE, TRAINING)] if key == "mode" else ["all", "last"]
            return f"expected {' or '.join(words)}, got {shown}", near_miss(str(given), words)
        case _:
            return error["msg"], None


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def read_document(path: Path) -> Located:
    """Keys and values of a scenario file, the keys known to exist.

    Raises
    ------
    ScenarioError
        Not YAML, not a mapping, an unknown key, or no model.
    """
    return check_document(read_yaml(path))


def check_document(document: Located) -> Located:
    """The same document, its keys known to exist; see `read_document`."""
    if not isinstance(document.value, Mapping):
        raise document.place.error(f"expected keys such as model and gpu, got {_shown(document.plain())}")
    for key, found in document.value.items():
        if key not in FIELDS and key not in COMBINING:
            known = [*FIELDS, *COMBINING]
            raise found.place.error("unknown key", near_miss(key, known) or f"known are {', '.join(known)}")
    if "model" not in document.value:
        raise ScenarioError("is missing, expected the name of a model", file=document.place.file, key="model")
    return document


def stated_fields(document: Located) -> Iterator[tuple[str, Located]]:
    """Fields that a file states in its order, each changed config key as ``set.<key>``."""
    assert isinstance(document.value, Mapping)  # noqa: S101 - `check_document` comes first
    for key, found in document.value.items():
        if key == "set":
            yield from _overrides(found)
        elif key not in COMBINING:
            yield key, found


def at_its_field(error: PlannerError, path: Path) -> PlannerError:
    """The same error with the file and the line of the field that it is about, where the file states it."""
    document = read_document(path)
    assert isinstance(document.value, Mapping)  # noqa: S101 - `check_document` comes first
    found = document.value.get(error.key or "")
    if error.file is not None or found is None:
        return error
    return found.place.error(error.message, error.hint)


def is_range(found: Located) -> bool:
    """Whether a value is written as a range."""
    return isinstance(found.value, Mapping) and any(key in RANGE_KEYS for key in found.value)


def _overrides(found: Located, prefix: str = "set") -> Iterator[tuple[str, Located]]:
    if not isinstance(found.value, Mapping):
        raise found.place.error(f"expected keys of the model's config, got {_shown(found.plain())}")
    for key, inner in found.value.items():
        if isinstance(inner.value, Mapping) and not is_range(inner):
            yield from _overrides(inner, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", inner


def read_scenario(path: Path) -> Scenario:
    """Scenario of a file that asks one question.

    Raises
    ------
    ScenarioError
        The file is wrong, or asks several questions at once.
    """
    return scenario_of(read_document(path))


def scenario_of(document: Located) -> Scenario:
    """Scenario of a checked document; see `read_scenario`."""
    assert isinstance(document.value, Mapping)  # noqa: S101 - `check_document` comes first
    way_out = f"`planner sweep {document.place.file}` answers every combination"
    for key in COMBINING:
        if key in document.value:
            raise document.value[key].place.error("a plan answers one question, this belongs to a sweep", way_out)
    values: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    places: dict[str, Place] = {}
    for key, found in stated_fields(document):
        single = _single(found)
        if single is None or (key == "gpu" and single.value == EVERY_GPU):
            raise found.place.error("has several values, and a plan answers one question", way_out)
        places[key] = single.place
        if key.startswith("set."):
            overrides[key.removeprefix("set.")] = single.plain()
        else:
            values[key] = checked_value(key, single)
    return _scenario({**values, "set": overrides}, places, document.place)


def _single(found: Located) -> Located | None:
    """The one value; a list of one is that one."""
    if isinstance(found.value, tuple):
        if not found.value:
            raise found.place.error("is an empty list, expected at least one value")
        return found.value[0] if len(found.value) == 1 else None
    return None if is_range(found) else found


def _scenario(values: Mapping[str, Any], places: Mapping[str, Place], whole: Place) -> Scenario:
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # A rule between fields carries the name of the field that it is about as its type.
        raise places.get(first["type"], whole).error(first["msg"]) from None


def scenario_from(values: Mapping[str, Any]) -> Scenario:
    """Scenario of values that are checked one by one already, see `checked_value`.

    Raises
    ------
    ScenarioError
        They contradict each other; the field is named.
    """
    try:
        return Scenario.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ScenarioError(first["msg"], key=first["type"] if first["type"] in FIELDS else None) from None
