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

from planner.devices import find_device
from planner.errors import PlannerError, ScenarioError, near_miss
from planner.formats import find_format
from planner.located import Located, Place, read_yaml
from planner.optimizers import find_optimizer
from planner.precisions import DEFAULT_OPTIMIZER, DEFAULT_PRECISION, find_precision
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

    @model_validator(mode="after")
    def _training_has_no_past(self) -> Scenario:
        if self.mode == TRAINING and self.past > 0:
            raise PydanticCustomError("past", "must be 0 in training, which keeps no cache")
        return self

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

NUMBERS = ("batch_size", "sequence_length", "past", "source_length", "images")
"""Fields that may be ranges."""

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


def _canonical_names() -> Mapping[str, Callable[[str], str]]:
    return {
        "gpu": lambda name: find_device(name).name,
        "weights": lambda name: find_format(name).name,
        "precision": lambda name: find_precision(name).name,
        "optimizer": lambda name: find_optimizer(name).name,
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
