"""What a scenario file may say, as a JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.adapters.adapter import METHODS
from planner.catalog.models import catalog_models
from planner.devices import load_devices
from planner.formats import load_formats
from planner.optimizers import load_optimizers
from planner.precisions import load_precisions
from planner.scenario import COMBINING, EVERY_GPU, FIELDS, NUMBERS, RANGE_KEYS, Scenario
from planner.training.job import ATTENTIONS
from planner.training.loss import load_loss_paths
from planner.training.recipe import load_recipes

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def json_schema() -> Schema:
    """JSON Schema of a scenario file: each field a value, a list, or a range.

    Names are offered, not enforced: a GPU has many spellings, and a model may be a path.
    """
    values = Scenario.model_json_schema(by_alias=True)["properties"]
    return {
        "$schema": DIALECT,
        "title": "planner scenario",
        "description": "Which model, in which use, on which accelerator. Lists and ranges multiply into a grid.",
        "type": "object",
        "properties": {
            **{key: _field(key, values[key]) for key in FIELDS if key != "set"},
            "set": _overrides(),
            "zip": _zip(),
            "where": _where(),
        },
        "required": ["model"],
        "additionalProperties": False,
        "$defs": {"range": _range(), "override": _override()},
    }


def unit_of(key: str) -> str:
    """Unit of a field, ``-`` where it has none."""
    extra = FIELDS[key].json_schema_extra
    return str(extra.get("unit", "-")) if isinstance(extra, Mapping) else "-"


def _known_names() -> Mapping[str, list[str]]:
    return {
        "model": [name for model in catalog_models() for name in model.names],
        "weights": list(load_formats()),
        "precision": list(load_precisions()),
        "optimizer": list(load_optimizers()),
        "gpu": [EVERY_GPU, *load_devices()],
        "recipe": list(load_recipes()),
        "loss": list(load_loss_paths()),
        "attention": list(ATTENTIONS),
        "adapter": list(METHODS),
        "base_weights": list(load_formats()),
    }


def _field(key: str, value: Schema) -> Schema:
    about = {word: value[word] for word in ("description", "default") if value.get(word) is not None}
    if key in NUMBERS and "unit" in value:
        about["description"] += f" [{value['unit']}]"
    one = _value(key, value)
    choices = [one, {"type": "array", "items": one, "minItems": 1}]
    if key in NUMBERS:
        choices.append({"$ref": "#/$defs/range"})
    return {**about, "anyOf": choices}


def _value(key: str, value: Schema) -> Schema:
    names = _known_names().get(key)
    if names is not None:
        open_ended: Schema = {"anyOf": [{"enum": names}, {"type": "string", "minLength": 1}]}
        if not FIELDS[key].is_required() and FIELDS[key].default is None:
            open_ended["anyOf"].append({"type": "null"})
        return open_ended
    return {word: value[word] for word in ("type", "enum", "anyOf", "minimum", "maximum") if word in value}


def _overrides() -> Schema:
    return {
        "description": FIELDS["set"].description,
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/override"},
    }


def _override() -> Schema:
    return {
        "description": "A value of a config key, a list of them (a list as value stands in a list), a range, or keys.",
        "anyOf": [
            {"type": ["string", "number", "boolean", "null"]},
            {"type": "array", "minItems": 1},
            {"$ref": "#/$defs/range"},
            {
                "type": "object",
                "propertyNames": {"not": {"enum": list(RANGE_KEYS)}},
                "additionalProperties": {"$ref": "#/$defs/override"},
            },
        ],
    }


def _range() -> Schema:
    whole: Mapping[str, Schema] = {
        "start": {},
        "stop": {},
        "step": {"not": {"const": 0}},
        "factor": {"minimum": 2},
    }
    return {
        "description": "Whole numbers from start to stop, by step or by factor.",
        "type": "object",
        "properties": {key: {"type": "integer", "description": text, **whole[key]} for key, text in RANGE_KEYS.items()},
        "required": ["start", "stop"],
        "oneOf": [{"required": ["step"]}, {"required": ["factor"]}],
        "additionalProperties": False,
    }


def _zip() -> Schema:
    names = {"type": "string", "description": "A field, or set.<key>."}
    group = {"type": "array", "items": names, "minItems": 2, "uniqueItems": True}
    return {"description": COMBINING["zip"], "type": "array", "items": group, "minItems": 1}


def _where() -> Schema:
    condition = {"type": "string", "minLength": 1}
    return {
        "description": COMBINING["where"],
        "anyOf": [condition, {"type": "array", "items": condition, "minItems": 1}],
    }
