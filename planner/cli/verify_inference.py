"""What `planner verify --memory --cache` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.report import Table
    from planner.report.tables import Cell
    from planner.verify.inference_result import InferencePhase, InferenceVerification


def inference_json(results: Sequence[InferenceVerification]) -> str:
    """An object for each implementation."""
    return json.dumps([result.to_json() for result in results], indent=2, ensure_ascii=False) + "\n"


def inference_tables(results: Sequence[InferenceVerification]) -> list[Table]:
    """What the cache holds behind each call, by kind of layer, and below it what is held in all."""
    from planner.report import Table

    first = results[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    calls = " + ".join(str(phase.tokens) for phase in first.phases)
    how = f"{first.dtype}, {first.cache} cache, {first.tensors} tensors on {first.device}"
    figures = ["planner", "real model", "difference"]
    return [
        Table(
            title=f"{first.model}: {first.class_name}, {how}, {first.step.batch_size} x ({calls}) tokens; {versions}",
            columns=["attention", "experts", "behind", "bytes of the cache", "layers", *figures],
            rows=[row for result in results for row in _cached(result)],
            notes=list(_layers_apart(results)),
        ),
        Table(
            title="Weights and cache, and what a whole call holds",
            columns=["attention", "experts", "call", "bytes", *figures],
            rows=[row for result in results for row in _held(result)],
            notes=list(_notes(results)),
        ),
    ]


def _cached(result: InferenceVerification) -> Iterator[list[Cell]]:
    for phase in result.phases:
        how = [result.attention, result.experts, phase.name]
        for kind in phase.kinds:
            kept = kind.kept
            yield [*how, kind.name, kind.layers, kept.expected, kept.actual, kept.difference]
        total = phase.total
        yield [*how, "total", None, total.expected, total.actual, total.difference]


def _held(result: InferenceVerification) -> Iterator[list[Cell]]:
    for phase in result.phases:
        how = [result.attention, result.experts, phase.name]
        yield [*how, "storages of the cache", None, phase.storages_bytes, None]
        for name, figure in (("held behind it", phase.held), ("peak", phase.peak)):
            yield [*how, name, figure.expected, figure.actual, figure.difference]
    cuda = {"reserved by CUDA's allocator": result.reserved_bytes, "used of the device": result.device_bytes}
    for name, held in cuda.items():
        if held is not None:
            yield [result.attention, result.experts, None, name, None, held, None]


def _layers_apart(results: Sequence[InferenceVerification]) -> Iterator[str]:
    """Differences of two layers may hide each other in a sum."""
    for result in results:
        for phase in result.phases:
            yield from _apart(result, phase)


def _apart(result: InferenceVerification, phase: InferencePhase) -> Iterator[str]:
    for kind in phase.kinds:
        if kind.different:
            yield (
                f"{result.attention}, {phase.name}: {kind.different} of {kind.layers} layers ({kind.name}) "
                "do not hold what is predicted"
            )


def _notes(results: Sequence[InferenceVerification]) -> Iterator[str]:
    yield "planner: weights and cache; a peak has the temporaries of a call as well, of which nothing is predicted here"
    if any(phase.storages_bytes > phase.total.actual for result in results for phase in result.phases):
        yield "storages: a slice that is kept holds on to all that it was cut from until the next token"
    head = "logits of the last token" if results[0].has_head else "no head"
    yield f"a call runs the model with {head}, and without gradients"
    if any(result.device != "cuda" for result in results):
        yield "real model: bytes of storages; an allocator rounds up and keeps some for later"
