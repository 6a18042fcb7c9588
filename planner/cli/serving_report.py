"""Text and records of what an inference engine holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from planner.devices import Device
    from planner.memory import MemoryRow
    from planner.models import Model
    from planner.plan import EngineAnswer
    from planner.report import Table
    from planner.scenario import Scenario
    from planner.serving.verdict import Verdict
    from planner.serving.weights import StoredSizes


def judged(
    model: Model, asked: Scenario, device: Device, answer: EngineAnswer, stored: StoredSizes | None = None
) -> Verdict | None:
    """Whether the engine starts, where it is one that gives the cache what is left."""
    from planner.plan import serve_options
    from planner.serving.verdict import verdict

    if answer.serving is None:
        return None
    return verdict(model, answer.engine, device.memory_bytes, serve_options(asked.run, stored), answer.serving, device)


def show(
    model: Model, asked: Scenario, device: Device, answer: EngineAnswer, stored: StoredSizes | None = None
) -> None:
    """Print all of it as text."""
    from planner.cli.output import emit

    for table in (rows_table(model, device, answer), host_table(answer), pool_table(answer)):
        if table is not None:
            emit(table, "text")
    for line in verdict_lines(device, answer, judged(model, asked, device, answer, stored)):
        typer.echo(line)


def record(model: Model, device: Device, answer: EngineAnswer, verdict: Verdict | None) -> dict[str, Any]:
    """Everything that is known, for machines."""
    serving = answer.serving
    found: dict[str, Any] = {
        "model": model.name,
        "class": model.class_name,
        "engine": answer.engine.label,
        "gpu": device.name,
        "gpu_memory_bytes": device.memory_bytes,
        "rows": [asdict(row) for row in answer.rows],
        "device_bytes": answer.device_bytes,
        "fits": bool(answer.device_bytes <= device.memory_bytes),
        "assumptions": list(model.assumptions),
    }
    if answer.llama is not None:
        found["host"] = [asdict(row) for row in answer.llama.host.rows]
    if serving is None or verdict is None:
        return found
    low, high = _bounds(answer) or (None, None)
    return {
        **found,
        "kv_pool_bytes": serving.kv_pool_bytes,
        "kv_pool_low_bytes": low,
        "kv_pool_high_bytes": high,
        "kv_tokens": serving.kv_tokens,
        "max_concurrency": serving.concurrency,
        "limits": {name: value for name, value in asdict(serving.limits).items() if name != "assumptions"},
        "fits": verdict.starts,
        "starts": verdict.starts,
        "reasons": list(verdict.reasons),
        "suggestions": [{"flags": item.flags, "effect": item.effect} for item in verdict.suggestions],
        "warnings": list(verdict.warnings),
        "assumptions": [*found["assumptions"], *serving.limits.assumptions],
    }


def _bounds(answer: EngineAnswer) -> tuple[Any, Any] | None:
    from planner.units import GIB
    from planner.validate.intervals import interval

    if answer.serving is None:
        return None
    found = interval(answer.engine.label, "kv_cache_gib_per_gpu", answer.serving.kv_pool_bytes / GIB)
    return None if found is None else (found[0] * GIB, found[1] * GIB)


def rows_table(model: Model, device: Device, answer: EngineAnswer) -> Table:
    """What the fullest device holds."""
    from planner.report import Table
    from planner.units import format_gib, whole_bytes

    serving = answer.serving
    where = ""
    if serving is not None and len(serving.stages) > 1:
        where = f", stage {serving.worst.stage.index} of {len(serving.stages)}"
    total = sum(row.size_bytes for row in answer.rows)
    notes = ["GiB is 2**30 bytes", *(serving.limits.assumptions if serving is not None else ())]
    return Table(
        title=f"{model.name} ({model.class_name}) served by {answer.engine.label} on {device.name}{where}, one GPU",
        columns=("memory", "bytes", "GiB", "basis", "source"),
        rows=[
            *_cells(answer.rows),
            ["total", whole_bytes(total), format_gib(total), None, None],
        ],
        notes=[*notes, *(f"assumed: {line}" for line in model.assumptions)],
    )


def host_table(answer: EngineAnswer) -> Table | None:
    """What the host holds beside the devices, where the engine splits a model so."""
    from planner.report import Table

    if answer.llama is None:
        return None
    return Table(
        title="on the host",
        columns=("memory", "bytes", "GiB", "basis", "source"),
        rows=_cells(answer.llama.host.rows),
    )


def _cells(rows: Sequence[MemoryRow]) -> list[list[Any]]:
    from planner.units import format_gib, whole_bytes

    return [[row.name, whole_bytes(row.size_bytes), format_gib(row.size_bytes), row.basis, row.source] for row in rows]


def pool_table(answer: EngineAnswer) -> Table | None:
    """The cache that is left, and what it holds."""
    from planner.report import Table
    from planner.units import format_gib
    from planner.validate.intervals import residuals_for

    serving = answer.serving
    if serving is None:
        return None
    low, high = _bounds(answer) or (None, None)
    residuals = residuals_for(answer.engine.label, "kv_cache_gib_per_gpu")
    covered = (
        "no measurement covers this engine and version: no interval can be given"
        if residuals is None
        else f"the interval holds 90 % of {residuals.rows} measured pools of {answer.engine.label}, "
        f"whose median error is {100 * residuals.median_error:.2f} % (`planner validate`)"
    )
    rows: list[list[Any]] = [
        [
            "KV cache pool, GiB",
            format_gib(serving.kv_pool_bytes),
            *(None if end is None else format_gib(end) for end in (low, high)),
        ],
        ["tokens", int(max(serving.kv_tokens, 0)), None, None],
        [
            f"requests of {int(serving.limits.max_model_len):,} tokens",
            round(float(max(serving.concurrency, 0)), 2),
            None,
            None,
        ],
    ]
    return Table(
        title="what is left for requests", columns=("figure", "value", "low", "high"), rows=rows, notes=[covered]
    )


def verdict_lines(device: Device, answer: EngineAnswer, verdict: Verdict | None) -> list[str]:
    """Whether it starts, the way a good error reads."""
    from planner.units import format_gib

    if verdict is None:
        left = device.memory_bytes - answer.device_bytes
        word = "fits" if left >= 0 else "does not fit"
        amount = f"{format_gib(left)} GiB are left" if left >= 0 else f"{format_gib(-left)} GiB are missing"
        return [f"{word}: {device.name} has {format_gib(device.memory_bytes)} GiB, {amount}"]
    lines = ["starts" if verdict.starts else f"does not start: {'; '.join(verdict.reasons)}"]
    if verdict.suggestions:
        lines.append("it would start with one of")
        width = max(len(item.flags) for item in verdict.suggestions)
        lines += [f"  {item.flags:<{width}}   {item.effect}" for item in verdict.suggestions]
    elif not verdict.starts:
        lines.append("no single flag makes it start")
    return [*lines, *(f"warning: {line}" for line in verdict.warnings)]
