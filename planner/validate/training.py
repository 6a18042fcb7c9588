"""Measured training steps: which framework reads a row, and what its reading predicts."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from planner.catalog import read_text
from planner.errors import PlannerError
from planner.numeric import Num
from planner.training import training_memory_of
from planner.training.counters import device_bytes, reserved_bytes
from planner.training.phases import StageMemory, TrainingMemory
from planner.validate.context import training_context
from planner.validate.reading import MALFORMED, Reading, Skipped
from planner.validate.result import Judged
from planner.validate.wellformed import checked_row, measured_bytes

FRAMEWORKS = ("huggingface", "megatron", "nanotron", "fsdp", "litgpt", "kernels")
"""Modules of `planner.validate.frameworks`."""

SOURCES = "measured/sources.csv"

QUANTITIES = ("peak_bytes", "steady_bytes")

MEASURED_KINDS = ("measured", "rounded_doc", "measured_config_uncertain")
"""Values of `kind` that are measurements; a row without one is a measurement."""


def judge(row: Mapping[str, Any]) -> list[Judged]:
    """Predictions for every quantity that a row measured, or why there are none."""
    recipe = recipe_name(row) or _group(row)
    measured: dict[str, float] = {}
    unread: list[Judged] = []
    for name in QUANTITIES:
        try:
            size = measured_bytes(row, name)
        except Skipped as reason:
            unread += _skipped(row, recipe, {name: None}, str(reason))
        else:
            measured |= {} if size is None else {name: size}
    if not measured:
        missing = "nothing was measured: peak_bytes and steady_bytes are not stated"
        return unread or _skipped(row, recipe, {QUANTITIES[0]: None}, missing)
    try:
        kind = row.get("kind") or "measured"
        if kind not in MEASURED_KINDS:
            raise Skipped(f"its kind is '{kind}', which is no measurement")
        reading = read(checked_row(row))
        recipe = reading.job.recipe.name
        predicted = {name: _finite(size) for name, size in predict(reading).items()}
    except (Skipped, PlannerError) as reason:
        return [*_skipped(row, recipe, measured, str(reason)), *unread]
    except MALFORMED as error:
        words = f"a field is not what it should be: {type(error).__name__}: {error}"
        return [*_skipped(row, recipe, measured, words), *unread]
    judged = [
        Judged(
            id=row["id"],
            recipe=recipe,
            quality=str(row.get("quality") or ""),
            quantity=name,
            measured=value,
            predicted=predicted[name],
            context=training_context(reading.tree, reading.job),
        )
        for name, value in measured.items()
    ]
    return [*judged, *unread]


def _skipped(row: Mapping[str, Any], recipe: str, measured: Mapping[str, float | None], reason: str) -> list[Judged]:
    return [
        Judged(
            id=row["id"],
            recipe=recipe,
            quality=str(row.get("quality") or ""),
            quantity=name,
            measured=value,
            skipped=reason,
        )
        for name, value in measured.items()
    ]


def _group(row: Mapping[str, Any]) -> str:
    """What a row without a recipe is counted under."""
    group = row.get("group")
    return group if isinstance(group, str) and group else "unknown"


def _finite(size: Num) -> float:
    if not 0 <= float(size) < math.inf:
        raise Skipped(f"the prediction is {float(size)} B, so a field must be far from what any run has")
    return float(size)


def read(row: Mapping[str, Any]) -> Reading:
    """A row in the planner's own types.

    Raises
    ------
    Skipped
        No framework reads it, or one does and cannot.
    """
    name = recipe_name(row)
    if name is None:
        raise Skipped("no recipe: the row states none, and its source is not one that is known")
    for framework in _frameworks():
        if name in framework.RECIPES:
            reading: Reading = framework.read({**row, "recipe": name})
            return reading
    raise Skipped(f"no framework reads the recipe '{name}'")


@cache
def _frameworks() -> tuple[ModuleType, ...]:
    return tuple(import_module(f"planner.validate.frameworks.{name}") for name in FRAMEWORKS)


def recipe_name(row: Mapping[str, Any]) -> str | None:
    """Recipe that a row states, or that of its source."""
    stated = row.get("recipe")
    if isinstance(stated, str):
        return stated
    source = row.get("source")
    if not isinstance(source, Mapping):
        return None
    places = ["/".join(str(source[key]) for key in ("repo", "path") if source.get(key)), str(source.get("url") or "")]
    device = str(row.get("gpu_kind") or "")
    for prefix, gpu, recipe in _prefixes():
        if gpu in device and any(place.removeprefix("https://").startswith(prefix) for place in places if place):
            return recipe
    return None


@cache
def _prefixes() -> tuple[tuple[str, str, str], ...]:
    """Beginnings of sources, the accelerator where a source ran another release on each, and the recipe behind them.

    The longest come first, and of equal ones those that name an accelerator.
    """
    rows = csv.DictReader(read_text(SOURCES).splitlines())
    found = [(row["prefix"], row["gpu"], row["recipe"]) for row in rows]
    return tuple(sorted(found, key=lambda item: (-len(item[0]), not item[1])))


def predict(reading: Reading) -> dict[str, Num]:
    """Quantities of a reading, by the counter and on the rank that the measurement shows. [B]"""
    memory = training_memory_of(reading.tree, reading.job)
    stages = list(_shown(memory, reading))
    peak = max(stage.peak_bytes for stage in stages)
    steady = max(stage.steady_bytes for stage in stages)
    counters = {"allocated": lambda size, _: size, "reserved": reserved_bytes, "device": device_bytes}
    return {"peak_bytes": counters[reading.peak_counter](peak, reading.job), "steady_bytes": steady}


def _shown(memory: TrainingMemory, reading: Reading) -> Iterator[StageMemory]:
    if reading.rank == "first":
        yield memory.stages[0]
    elif reading.rank == "last":
        yield memory.stages[-1]
    else:
        yield from memory.stages
