"""What `planner verify` prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.report import Table
    from planner.report.tables import Cell
    from planner.verify import Figure, Verification
    from planner.verify.every import Outcome

LONGEST_LIST = 50
"""Differing paths that the text form prints; JSON has all of them."""


def results_json(results: Sequence[Verification]) -> str:
    """An object for each implementation."""
    return json.dumps([result.to_json() for result in results], indent=2, ensure_ascii=False) + "\n"


def results_table(results: Sequence[Verification]) -> Table:
    """Rows for each implementation of one model."""
    from planner.report import Table

    first = results[0]
    sides = ["planner", "real model"] if first.builder else ["modules, fvcore", "real model, FlopCounterMode"]
    where = f"{first.device} ({first.dtype})"
    return Table(
        title=f"{first.model}: {first.class_name} on {where}, {_step(first)}; {_versions(first)}",
        columns=["attention", "experts", "quantity", "counted by", *sides, "difference"],
        rows=[row for result in results for row in _rows(result)],
        notes=list(_notes(results)),
    )


def _versions(result: Verification) -> str:
    return ", ".join(f"{name} {version}" for name, version in result.versions.items())


def _step(result: Verification) -> str:
    step = result.step
    if step is None:
        return "inputs " + ", ".join(" x ".join(map(str, shape)) or "scalar" for shape in result.inputs)
    words = f"{step.batch_size} x {step.sequence_length} tokens"
    words += f", {step.source} of the encoder" if step.source_length is not None else ""
    words += f", {step.images} images a sample" if step.images else ""
    return words + (f", {step.past} in the cache" if step.past else "")


def _rows(result: Verification) -> Iterator[list[Cell]]:
    def row(quantity: str, counted_by: str, figure: Figure) -> list[Cell]:
        numbers = (figure.expected, figure.actual, figure.difference)
        return [result.attention, result.experts, quantity, counted_by, *numbers]

    yield row("parameters", "named_parameters", result.parameters)
    if not result.builder:
        yield row("forward FLOPs", "both", result.flops)
        return
    yield row("forward FLOPs", "fvcore", result.flops)
    if result.witness.forward is not None:
        yield row("forward FLOPs", "FlopCounterMode", result.witness.forward)
    if result.witness.backward is not None:
        yield row("backward FLOPs", "FlopCounterMode", result.witness.backward)


def _notes(results: Sequence[Verification]) -> Iterator[str]:
    for result in results:
        how = result.attention + (f", {result.experts}" if result.experts else "")
        compared = f"{result.tensors:,} tensors and {result.modules:,} modules compared one by one"
        yield f"{how}: {compared}: {_verdict(result)}"
        yield from _differences(result)
        if result.apart:
            yield f"  {result.apart:,} FLOPs of recurrences and past the sequence: scan, not compared"
        if result.witness.reason is not None:
            yield f"  second count not run: {result.witness.reason}"
    yield from dict.fromkeys(note for result in results for note in result.notes)
    yield "1 multiply-add = 2 FLOPs; matrix products only, masked scores included"


def _verdict(result: Verification) -> str:
    return f"{len(result.differences)} paths differ" if result.differences else "no path differs"


def _differences(result: Verification) -> Iterator[str]:
    for difference in result.differences[:LONGEST_LIST]:
        yield f"  {difference}"
    if len(result.differences) > LONGEST_LIST:
        yield f"  and {len(result.differences) - LONGEST_LIST:,} more, all of them with --format json"


def outcomes_json(outcomes: Sequence[Outcome]) -> str:
    """An object for each model: its verification, or why there is none."""
    records = [
        {
            "model": outcome.model,
            "class": outcome.class_name,
            "verdict": outcome.verdict,
            "unsupported": outcome.unsupported,
            "failure": outcome.failure,
            "seconds": round(outcome.seconds, 3),
            "verification": outcome.result.to_json() if outcome.result else None,
        }
        for outcome in outcomes
    ]
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def outcomes_table(outcomes: Sequence[Outcome], device: str) -> Table:
    """A row for each model that was compared, and below it the reasons of all others."""
    from planner.report import Table

    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    versions = f"; {_versions(results[0])}" if results else ""
    return Table(
        title=f"{len(outcomes)} models on {device}{versions}",
        columns=[
            "model",
            "class",
            "tokens",
            "parameters",
            "difference",
            "forward FLOPs",
            "fvcore's difference",
            "FlopCounterMode's",
            "seconds",
        ],
        rows=[_outcome_row(outcome.result, outcome.seconds) for outcome in outcomes if outcome.result is not None],
        notes=list(_outcome_notes(outcomes)),
    )


def _outcome_row(result: Verification, seconds: float) -> list[Cell]:
    second = result.witness.forward
    return [
        result.model,
        result.class_name,
        int(result.step.sequence_length) if result.step else None,
        result.parameters.actual,
        result.parameters.difference,
        result.flops.actual,
        result.flops.difference if result.builder else None,
        second.difference if second is not None else "not run",
        round(seconds, 1),
    ]


def _outcome_notes(outcomes: Sequence[Outcome]) -> Iterator[str]:
    by_verdict: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_verdict.setdefault(outcome.verdict, []).append(outcome)
    yield ", ".join(f"{len(of_kind)} {verdict}" for verdict, of_kind in by_verdict.items())
    for outcome in by_verdict.get("different", ()):
        if outcome.result is not None:
            yield f"{outcome.model}: {_verdict(outcome.result)}"
            yield from _differences(outcome.result)
    for outcome in (*by_verdict.get("failed", ()), *by_verdict.get("unsupported", ())):
        why = outcome.failure or outcome.unsupported
        yield f"{outcome.model} ({outcome.class_name or 'no class'}) {outcome.verdict}: {why}"
    if any(outcome.result is not None and not outcome.result.builder for outcome in outcomes):
        from planner.verify.witnesses import NO_BUILDER

        yield f"where fvcore has no difference of its own: {NO_BUILDER}"
    yield "1 multiply-add = 2 FLOPs; matrix products only, masked scores included"
