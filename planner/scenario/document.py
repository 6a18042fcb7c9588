"""From a file to scenarios: keys that are known, values with their places, one question or many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.errors import PlannerError, ScenarioError, near_miss
from planner.located import Located, Place, read_yaml
from planner.scenario.fields import COMBINING, EVERY_GPU, FIELDS, RANGE_KEYS, Scenario
from planner.scenario.values import checked_value, shown


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
        raise document.place.error(f"expected keys such as model and gpu, got {shown(document.plain())}")
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
        raise found.place.error(f"expected keys of the model's config, got {shown(found.plain())}")
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
