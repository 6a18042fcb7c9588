"""`planner memory`: what a model's states take, and which accelerators hold them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli import run_options as run
from planner.cli.checkpoint_files import FromFiles, files_memory, files_memory_table, named, stored_sizes
from planner.cli.options import ClassName, ModelName, ModelsDir, Offline, Overrides

if TYPE_CHECKING:
    from planner.devices import Device
    from planner.memory import Memory
    from planner.models import Model
    from planner.report import Table
    from planner.scenario import Scenario
    from planner.serving.weights import StoredSizes


@run.takes_fields(run.STEP, run.SPREAD, run.TRAINING, run.SERVING)
def memory(
    name: ModelName,
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="FORMAT", help="How weights are stored: bf16 (the default), int4, nf4, ..."),
    ] = None,
    training: Annotated[bool, typer.Option("--training", help="Add what training keeps for each parameter.")] = False,
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", metavar="NAME", help="With --training; adamw if left out.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="RECIPE",
            help="With --training: autocast, bf16, megatron, ...; if left out, what trains --weights, else autocast.",
        ),
    ] = None,
    gpus: Annotated[
        list[str] | None,
        typer.Option("--gpu", metavar="GPU", help="Show this accelerator, whether it holds the states or not."),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
    from_files: FromFiles = False,
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
    *,
    fields: Mapping[str, Any],
) -> None:
    """Add up weights and states; with a recipe the peak of a training step, with an engine whether it starts."""
    import json

    from planner.cli.output import emit
    from planner.devices import find_device, load_devices
    from planner.engines import find_engine
    from planner.errors import PlannerError
    from planner.plan import check_read
    from planner.report import check_format
    from planner.training.setup import DEFAULT_RECIPE

    check_format(output_format)
    devices = [find_device(gpu) for gpu in gpus] if gpus else list(load_devices().values())
    found = named(
        name,
        models_dir=models_dir,
        overrides=overrides,
        class_name=class_name,
        offline=offline,
        from_files=from_files,
    )
    model, as_stored = found.model, None if weights or training else files_memory(found)
    if model is None:
        emit(files_memory_table(found), output_format)
        return
    given = [field for field, value in fields.items() if value is not None]
    if fields["engine"] is not None:
        refuse_others(given, (*run.SERVING, *run.SPREAD, *run.STEP), "--engine")
        if training:
            raise PlannerError("serves a trained model, and --training is given too", key="--engine")
        asked = run.scenario_of_options(name, {**fields, "weights": weights})
        check_read(find_engine(asked.run["engine"]), given)
        if not gpus:
            raise PlannerError("is needed: what an engine reserves follows from its memory", key="--gpu")
        stored = stored_sizes(found)
        for device in devices:
            _serving(model, asked, device, stored, output_format)
        return
    if given:
        if not training:
            raise PlannerError(f"{run.flag_of(given[0])} has a meaning only with --training or --engine")
        refuse_others(given, (*run.TRAINING, *run.SPREAD, *run.STEP), "--training")
        wanted = {**fields, "recipe": DEFAULT_RECIPE if fields["recipe"] is None else fields["recipe"]}
        trained = _precision(weights, precision, wanted["recipe"])
        chosen = {"mode": "training", "precision": trained, "optimizer": optimizer, "gpu": gpus[0] if gpus else None}
        asked = run.scenario_of_options(name, {**wanted, **chosen})
        _training(model, asked, devices if gpus else [], output_format)
        return
    use, states = as_stored or _states(model, weights, precision, optimizer, training=training)
    if output_format == "json":
        typer.echo(json.dumps(_record(model, use, states, devices), indent=2, ensure_ascii=False))
        return
    emit(_rows_table(model, use, states), output_format)
    if output_format == "text":
        emit(_devices_table(states, devices, asked=bool(gpus)), "text")


def _precision(weights: str | None, precision: str | None, recipe: str) -> str | None:
    """Precision that the options state; None where it is the recipe's own, which trains such weights."""
    from planner.formats import plain_format
    from planner.precisions import DEFAULT_PRECISION, find_precision, precision_for
    from planner.training.recipe import load_recipes

    if weights is None:
        return precision
    found = load_recipes().get(recipe)
    own = find_precision(DEFAULT_PRECISION if found is None else found.word("precision", DEFAULT_PRECISION))
    if precision is None and plain_format(weights) == own.parameters:
        return None
    return precision_for(weights, precision).name


def refuse_others(given: Sequence[str], known: Collection[str], use: str) -> None:
    """Refuse options that a use of the command does not read.

    Raises
    ------
    PlannerError
        One of them is given; it is named.
    """
    from planner.errors import PlannerError

    for field in given:
        if field not in known:
            raise PlannerError(f"has no meaning with {use}", key=run.flag_of(field))


def _serving(model: Model, asked: Scenario, device: Device, stored: StoredSizes | None, output_format: str) -> None:
    """What an engine holds on one kind of device, and whether it starts."""
    import json

    from planner.cli import serving_report
    from planner.cli.output import emit
    from planner.plan import engine_answer

    answer = engine_answer(asked.run, model, model.tree, device, stored)
    if output_format == "json":
        found = serving_report.record(
            model, device, answer, serving_report.judged(model, asked, device, answer, stored)
        )
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif output_format == "text":
        serving_report.show(model, asked, device, answer, stored)
    else:
        emit(serving_report.rows_table(model, device, answer), output_format)


def _training(model: Model, asked: Scenario, devices: list[Device], output_format: str) -> None:
    """Peak of a training step, stage by stage."""
    import json

    from planner.cli import training_report
    from planner.cli.output import emit
    from planner.plan import job_of
    from planner.training import training_memory_of

    job = job_of(asked.run, asked.step, model, model.tree)
    memory = training_memory_of(model.tree, job)
    if output_format == "json":
        found = training_report.record(model, job, memory, devices)
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for stage in memory.stages:
        emit(training_report.stage_table(model, job, stage, len(memory.stages)), output_format)
    if output_format == "text":
        emit(training_report.verdict_table(model, job, memory, devices), "text")


def _states(
    model: Model, weights: str | None, precision: str | None, optimizer: str | None, *, training: bool
) -> tuple[str, Memory]:
    """What the options ask for, in words and in bytes."""
    from planner.errors import PlannerError
    from planner.formats import find_format
    from planner.memory import inference_memory, training_memory
    from planner.optimizers import find_optimizer
    from planner.precisions import DEFAULT_OPTIMIZER, precision_for

    if not training:
        for option, value in (("--optimizer", optimizer), ("--precision", precision)):
            if value is not None:
                raise PlannerError(f"{option} has a meaning only with --training")
        stored = find_format(weights or "bf16")
        return f"weights in {stored.name}", inference_memory(model.tree, stored)
    recipe, chosen = precision_for(weights, precision), find_optimizer(optimizer or DEFAULT_OPTIMIZER)
    return f"training, {recipe.name} with {chosen.name}", training_memory(model.tree, recipe, chosen)


def _record(model: Model, use: str, states: Memory, devices: list[Device]) -> dict[str, object]:
    from planner.plan import NOT_INCLUDED, fit

    return {
        "model": model.name,
        "class": model.class_name,
        "use": use,
        "rows": [
            {"name": row.name, "size_bytes": row.size_bytes, "basis": row.basis, "source": row.source}
            for row in states.rows
        ],
        "total_bytes": states.total_bytes,
        "gpus": [
            {
                "gpu": device.name,
                "memory_bytes": device.memory_bytes,
                "headroom_bytes": found.headroom_bytes,
                "fits": found.fits,
                "min_gpus": found.min_gpus,
            }
            for device in devices
            for found in (fit(device.memory_bytes, states.total_bytes),)
        ],
        "assumptions": [*model.assumptions, NOT_INCLUDED],
    }


def _rows_table(model: Model, use: str, states: Memory) -> Table:
    from planner.counts import count
    from planner.plan import NOT_INCLUDED
    from planner.report import Table
    from planner.units import format_count, format_gib

    parameters = count(model.tree).total
    total = states.total_bytes
    return Table(
        title=f"{model.name} ({model.class_name}), {format_count(parameters)} parameters: {use}",
        columns=("memory", "bytes", "GiB", "bytes/parameter", "basis", "source"),
        rows=[
            *(
                [
                    row.name,
                    row.size_bytes,
                    format_gib(row.size_bytes),
                    row.size_bytes / parameters,
                    row.basis,
                    row.source,
                ]
                for row in states.rows
            ),
            ["total", total, format_gib(total), total / parameters, "", ""],
        ],
        notes=["GiB is 2**30 bytes", NOT_INCLUDED, *(f"assumed: {line}" for line in model.assumptions)],
    )


MOST_LISTED = 20
"""Accelerators that a list shows unless they are asked for by name."""


def _devices_table(states: Memory, devices: list[Device], *, asked: bool) -> Table:
    from planner.plan import fit
    from planner.report import Table
    from planner.units import format_gib

    found = [(device, fit(device.memory_bytes, states.total_bytes)) for device in devices]
    holding = [(device, place) for device, place in found if asked or place.fits]
    title = "accelerators" if asked else "accelerators of which one holds it, the smallest first"
    if not holding:
        holding, title = found, "no single accelerator holds it; how many it takes, the fewest first"
    ranked = sorted(holding, key=lambda item: (item[1].min_gpus, item[0].memory_bytes, item[0].name))
    listed = ranked if asked else ranked[:MOST_LISTED]
    left_out = len(ranked) - len(listed)
    return Table(
        title=title,
        columns=("GPU", "memory GiB", "headroom GiB", "fits", "GPUs needed"),
        rows=[
            [
                device.name,
                format_gib(device.memory_bytes),
                format_gib(place.headroom_bytes),
                bool(place.fits),
                place.min_gpus,
            ]
            for device, place in listed
        ],
        notes=[
            "memory as the GPU's own counter shows it (`planner gpus`); GPUs needed if the states are spread evenly",
            *([f"and {left_out} more: name one with --gpu, or all in --format json"] if left_out else []),
        ],
    )
