"""One value of one field, checked and under its catalog name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from planner.adapters.adapter import Adapter
from planner.devices import find_device
from planner.engines import find_engine
from planner.errors import PlannerError, near_miss
from planner.formats import find_format
from planner.located import Located
from planner.optimizers import find_optimizer
from planner.parallelism import parse_split
from planner.precisions import find_precision
from planner.scenario.fields import DEFAULT_WEIGHTS, FIELDS, INFERENCE, NUMBERS, TRAINING
from planner.serving.formats import check_quantization, kv_format_of
from planner.training.job import find_attention, parse_recompute
from planner.training.loss import find_loss_path
from planner.training.recipe import find_recipe


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
        "pipeline_split": _known(parse_split),
        "loss": lambda name: find_loss_path(name).name,
        "attention": find_attention,
        "adapter": lambda name: Adapter(method=name).method,
        "base_weights": lambda name: find_format(name).name,
        "engine": _known(find_engine),
        "kv_cache_dtype": _known(lambda name: kv_format_of(name, DEFAULT_WEIGHTS)),
        "quantization": _known(check_quantization),
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
    seen = shown(given)
    match error["type"]:
        case "int_type":
            return f"expected a whole number, got {seen}", None
        case "greater_than_equal":
            return f"must be at least {context['ge']}, got {given}", None
        case "greater_than":
            return f"must be above {context['gt']:g}, got {given}", None
        case "finite_number":
            return f"expected a number, got {seen}", None
        case "less_than_equal":
            return f"must be at most {context['le']:,}, got {given}", None
        case "bool_type":
            return f"expected true or false, got {seen}", None
        case "string_type":
            quotes = f"write '{given}' in quotes" if isinstance(given, (int, float)) else None
            return f"expected a name, got {seen}", quotes
        case "string_too_short":
            return "expected a name, got an empty text", None
        case "literal_error":
            words = [str(word) for word in (INFERENCE, TRAINING)] if key == "mode" else ["all", "last"]
            return f"expected {' or '.join(words)}, got {seen}", near_miss(str(given), words)
        case _:
            return error["msg"], None


def shown(value: object) -> str:
    """A wrong value in the words of an error."""
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
