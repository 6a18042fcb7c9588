"""`planner plan`: a scenario without axes, answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.options import ModelsDir, Offline

if TYPE_CHECKING:
    from planner.plan import Plan
    from planner.report import Table

FORMATS = ("text", "json")


def plan(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="One question: fields with single values.")],
    output_format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="text or json.")] = "text",
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> None:
    """Answer one scenario: parameters, memory, FLOPs, and whether it fits."""
    import json

    from planner.cli import serving_report, training_report
    from planner.cli.output import emit, warn_about_unread_keys
    from planner.errors import PlannerError, UnknownNameError, near_miss
    from planner.plan import plan as answer
    from planner.scenario import at_its_field, read_scenario

    if output_format not in FORMATS:
        raise UnknownNameError(
            f"unknown format '{output_format}', expected text or json", hint=near_miss(output_format, FORMATS)
        )
    asked = read_scenario(scenario)
    try:
        found = answer(asked, models_dir=models_dir, offline=offline)
    except PlannerError as error:
        raise at_its_field(error, scenario) from None
    warn_about_unread_keys(found.model)
    if output_format == "json":
        typer.echo(json.dumps(_record(found), indent=2, ensure_ascii=False))
        return
    if found.serving is not None and found.device is not None:
        serving_report.show(found.model, found.scenario, found.device, found.serving)
        typer.echo()
    elif found.job is None or found.training is None:
        emit(_memory_table(found), "text")
    else:
        for stage in found.training.stages:
            emit(training_report.stage_table(found.model, found.job, stage, len(found.training.stages)), "text")
        devices = [] if found.device is None else [found.device]
        emit(training_report.verdict_table(found.model, found.job, found.training, devices), "text")
    emit(_compute_table(found), "text")
    if found.job is None and found.serving is None:
        typer.echo(_verdict(found))
    for line in found.assumptions:
        typer.echo(f"assumed: {line}")


def _record(found: Plan) -> dict[str, object]:
    from dataclasses import asdict

    from planner.plan import CONVENTION

    device = found.device
    return {
        "scenario": found.scenario.model_dump(by_alias=True),
        "model": found.model.name,
        "class": found.model.class_name,
        "method": found.model.method,
        "total_parameters": found.counts.total,
        "active_parameters": found.counts.active,
        "memory": [asdict(row) for row in found.memory.rows],
        "total_bytes": found.memory.total_bytes,
        "training": _training(found),
        "serving": _serving(found),
        "flops_convention": CONVENTION,
        "forward_flops_per_token": found.flops_per_token.forward,
        "training_flops_per_token": found.flops_per_token.training,
        "gpu": None if device is None else device.name,
        "gpu_memory_bytes": None if device is None else device.memory_bytes,
        "gpu_memory_basis": None if device is None else device.memory_basis,
        "headroom_bytes": None if found.fit is None else found.fit.headroom_bytes,
        "fits": None if found.fit is None else found.fit.fits,
        "min_gpus": None if found.fit is None else found.fit.min_gpus,
        "assumptions": list(found.assumptions),
    }


def _serving(found: Plan) -> dict[str, object] | None:
    from planner.cli import serving_report

    if found.serving is None or found.device is None:
        return None
    judged = serving_report.judged(found.model, found.scenario, found.device, found.serving)
    return serving_report.record(found.model, found.device, found.serving, judged)


def _training(found: Plan) -> dict[str, object] | None:
    from planner.cli import training_report

    if found.job is None or found.training is None:
        return None
    return training_report.record(found.model, found.job, found.training, [])


def _memory_table(found: Plan) -> Table:
    from planner.report import Table
    from planner.scenario import TRAINING
    from planner.units import format_count, format_gib

    scenario = found.scenario
    use = f"precision {scenario.precision}, {scenario.optimizer}" if scenario.mode == TRAINING else scenario.weights
    total = found.memory.total_bytes
    return Table(
        title=f"{found.model.name} ({found.model.class_name}), {scenario.mode}, {use}: "
        f"{format_count(found.counts.total)} parameters, {format_count(found.counts.active)} active a token",
        columns=("memory", "bytes", "GiB", "basis", "source"),
        rows=[
            *(
                [row.name, row.size_bytes, format_gib(row.size_bytes), row.basis, row.source]
                for row in found.memory.rows
            ),
            ["total", total, format_gib(total), None, None],
        ],
    )


def _compute_table(found: Plan) -> Table:
    from planner.plan import CONVENTION
    from planner.report import Table
    from planner.units import format_si

    step = found.scenario.step
    flops = found.flops_per_token
    rows = (("forward", flops.forward), ("training", flops.training))
    return Table(
        title=f"FLOPs a token (convention {CONVENTION}), batch {step.batch_size}, "
        f"{step.sequence_length} new tokens, {step.past} cached",
        columns=("pass", "FLOP/token", "about"),
        rows=[[name, value, format_si(float(value), "FLOP")] for name, value in rows],
    )


def _verdict(found: Plan) -> str:
    from planner.units import format_gib

    if found.device is None or found.fit is None:
        return "no gpu is named: whether it fits was not asked"
    name, memory = found.device.name, format_gib(found.device.memory_bytes)
    if found.fit.fits:
        return f"fits: {name} has {memory} GiB, {format_gib(found.fit.headroom_bytes)} GiB are left"
    short = format_gib(-found.fit.headroom_bytes)
    enough = f"{found.fit.min_gpus:,} of them hold the states"
    return f"does not fit: {name} has {memory} GiB, {short} GiB are missing; {enough}"
