"""`planner memory`: what a model's states take, and which accelerators hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.loading import named_model
from planner.cli.options import ClassName, ModelName, ModelsDir, Offline, Overrides

if TYPE_CHECKING:
    from planner.devices import Device
    from planner.memory import Memory
    from planner.models import Model
    from planner.report import Table


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
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> None:
    """Add up weights, gradients, master weights and optimizer state, and list the GPUs that hold them."""
    import json

    from planner.cli.output import emit
    from planner.devices import find_device, load_devices
    from planner.report import check_format

    check_format(output_format)
    devices = [find_device(gpu) for gpu in gpus] if gpus else list(load_devices().values())
    model = named_model(name, models_dir=models_dir, overrides=overrides, class_name=class_name, offline=offline)
    use, states = _states(model, weights, precision, optimizer, training=training)
    if output_format == "json":
        typer.echo(json.dumps(_record(model, use, states, devices), indent=2, ensure_ascii=False))
        return
    emit(_rows_table(model, use, states), output_format)
    if output_format == "text":
        emit(_devices_table(states, devices, asked=bool(gpus)), "text")


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
