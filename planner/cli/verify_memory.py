"""What `planner verify --memory` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.report import Table
    from planner.report.tables import Cell
    from planner.verify.memory_result import MemoryVerification


def memory_json(results: Sequence[MemoryVerification]) -> str:
    """An object for each implementation."""
    return json.dumps([result.to_json() for result in results], indent=2, ensure_ascii=False) + "\n"


def memory_tables(results: Sequence[MemoryVerification]) -> list[Table]:
    """What is kept, part by part, and below it what a whole step holds."""
    from planner.report import Table

    first = results[0]
    step, versions = first.step, ", ".join(f"{name} {version}" for name, version in first.versions.items())
    how = f"{first.dtype}{', checkpointing' if first.checkpointing else ''}, {first.tensors} tensors on {first.device}"
    asked = f"{step.batch_size} x {step.sequence_length} tokens"
    columns = ["attention", "experts", "bytes kept for backward", "copies", "planner", "real model", "difference"]
    tables = [
        Table(
            title=f"{first.model}: {first.class_name}, {how}, {asked}; {versions}",
            columns=columns,
            rows=[row for result in results for row in _kept(result)],
            notes=["no dropout; each storage once; without parameters, buffers and inputs"],
        )
    ]
    if any(result.peak for result in results):
        tables.append(
            Table(
                title="Most that a whole step with AdamW holds at a time",
                columns=["attention", "experts", "bytes", "planner", "real model", "difference"],
                rows=[row for result in results for row in _held(result)],
                notes=list(_notes(results)),
            )
        )
    return tables


def _kept(result: MemoryVerification) -> Iterator[list[Cell]]:
    for part in result.parts:
        figures = (part.kept.expected, part.kept.actual, part.kept.difference)
        yield [result.attention, result.experts, part.name, part.copies, *figures]
    total = result.total
    yield [result.attention, result.experts, "total", None, total.expected, total.actual, total.difference]


def _held(result: MemoryVerification) -> Iterator[list[Cell]]:
    peak, how = result.peak, [result.attention, result.experts]
    if peak is None:
        return
    ends = {"end of forward": peak.phases[0].end_bytes}
    for name, size in peak.predicted.items():
        actual = ends.get(name)
        yield [*how, name, size, actual, None if actual is None else actual - size]
    for phase in peak.phases:
        expected = peak.of_phase(phase)
        apart = None if expected is None else phase.peak_bytes - expected
        yield [*how, f"peak of {phase.name}", expected, phase.peak_bytes, apart]
    figure = peak.figure
    yield [*how, "peak of the step", figure.expected, figure.actual, figure.difference]
    cuda = {"reserved by CUDA's allocator": peak.reserved_bytes, "used of the device": peak.device_bytes}
    for name, held in cuda.items():
        if held is not None:
            yield [*how, name, None, held, None]


def _notes(results: Sequence[MemoryVerification]) -> Iterator[str]:
    yield "planner: weights, AdamW's states, what is kept, and the largest temporaries of each phase"
    yield "backward of the blocks: of the fullest one, with the gradients of its activations and of weights so far"
    if any(result.device != "cuda" for result in results):
        yield "real model: bytes of storages; an allocator rounds up and keeps some for later"
    if any(result.tensors == "fake" and result.dtype == "autocast" for result in results):
        yield (
            "fake tensors under autocast: where a LayerNorm has a bf16 input and an fp32 gain, as in BERT's head, "
            "torch gives its statistics 2 bytes, and real ones 4"
        )
