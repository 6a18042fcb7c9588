"""`planner fit`: the most that fits, and the least that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli import run_options as run
from planner.cli.loading import named_model
from planner.cli.memory import refuse_others
from planner.cli.options import ClassName, ModelName, ModelsDir, Offline, Overrides

if TYPE_CHECKING:
    from planner.devices import Device
    from planner.fit import Answer
    from planner.models import Model
    from planner.report import Table


@run.takes_fields(run.STEP, run.SPREAD, run.TRAINING, run.SERVING)
def fit(
    name: ModelName,
    gpu: Annotated[str, typer.Option("--gpu", metavar="GPU", help="The accelerator to fit into.")],
    precision: Annotated[str | None, typer.Option("--precision", metavar="RECIPE", help="autocast, bf16, ...")] = None,
    optimizer: Annotated[str | None, typer.Option("--optimizer", metavar="NAME", help="adamw, ...")] = None,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
    *,
    fields: Mapping[str, Any],
) -> None:
    """Find the most that fits and the least that it takes: for a training recipe, or, with --engine, for serving."""
    import json
    from dataclasses import asdict

    from planner import fit as inverse
    from planner.cli.output import emit
    from planner.devices import find_device
    from planner.plan import job_of
    from planner.report import check_format
    from planner.training.setup import DEFAULT_RECIPE

    check_format(output_format)
    device = find_device(gpu)
    model = named_model(name, models_dir=models_dir, overrides=overrides, class_name=class_name, offline=offline)
    if fields["engine"] is not None:
        _serving(model, device, fields, output_format)
        return
    recipe = DEFAULT_RECIPE if fields["recipe"] is None else fields["recipe"]
    chosen = {"mode": "training", "gpu": device.name, "recipe": recipe}
    refuse_others(
        [key for key, value in fields.items() if value is not None], (*run.TRAINING, *run.SPREAD, *run.STEP), "--recipe"
    )
    asked = run.scenario_of_options(name, {**fields, **chosen, "precision": precision, "optimizer": optimizer})
    job = job_of(asked.run, asked.step, model, model.tree)
    tree, memory = model.tree, device.memory_bytes
    answers = [
        inverse.largest_micro_batch(tree, job, memory),
        inverse.longest_sequence(tree, job, memory),
        inverse.fewest_devices(tree, job, memory),
        inverse.cheapest_recomputation(tree, job, memory),
    ]
    if output_format == "json":
        typer.echo(
            json.dumps(
                {
                    "model": model.name,
                    "gpu": device.name,
                    "gpu_memory_bytes": memory,
                    "recipe": job.recipe.name,
                    "answers": [asdict(answer) for answer in answers],
                },
                indent=2,
                ensure_ascii=False,
            )
        )
        return
    emit(_table(model.name, job.recipe.name, device, answers), output_format)


def _serving(model: Model, device: Device, fields: Mapping[str, Any], output_format: str) -> None:
    """Inverse questions of an engine."""
    import json

    from planner.cli.output import emit
    from planner.engines import find_engine
    from planner.errors import PlannerError
    from planner.plan import check_read, engine_answer, serve_options
    from planner.report import Table
    from planner.serving import ask
    from planner.units import format_gib

    given = [key for key, value in fields.items() if value is not None]
    refuse_others(given, (*run.SERVING, *run.SPREAD), "--engine")
    asked = run.scenario_of_options(model.name, {**fields, "gpu": device.name}).run
    engine, options = find_engine(asked["engine"]), serve_options(asked)
    check_read(engine, given)
    if engine_answer(asked, model, model.tree, device).serving is None:
        message = f"{engine.kind} has no pool that takes what is left, so that it has no answer here"
        raise PlannerError(message, key="--engine", hint="`planner memory` says what it holds")
    where = (model, engine, device.memory_bytes, options, device)
    answers = {
        "longest context": ask.longest_context(*where),
        "most requests at full length": ask.most_requests(*where),
        "fewest GPUs of this kind (tp)": ask.fewest_ranks(*where),
        "smallest GPU": ask.smallest_device(model, engine, options),
        "first format that starts": ask.best_format(*where),
    }
    rows: list[list[Any]] = [
        [
            question,
            "none" if found.value is None else f"{found.value:,}" if isinstance(found.value, int) else found.value,
            None if found.serving is None else format_gib(found.serving.kv_pool_bytes),
            None if found.serving is None else round(float(found.serving.concurrency), 2),
            found.note,
        ]
        for question, found in answers.items()
    ]
    if output_format == "json":
        record = [
            {
                "question": question,
                "answer": found.value,
                "kv_pool_bytes": None if found.serving is None else found.serving.kv_pool_bytes,
                "max_concurrency": None if found.serving is None else float(found.serving.concurrency),
                "note": found.note,
            }
            for question, found in answers.items()
        ]
        typer.echo(
            json.dumps({"model": model.name, "gpu": device.name, "engine": engine.label, "answers": record}, indent=2)
        )
        return
    table = Table(
        title=f"{model.name} served by {engine.label} on {device.name} with {format_gib(device.memory_bytes)} GiB",
        columns=("question", "answer", "KV pool GiB", "requests at full length", "note"),
        rows=rows,
        notes=["each question changes one flag and leaves the others as they are"],
    )
    emit(table, output_format)


def _table(model: str, recipe: str, device: Device, answers: list[Answer]) -> Table:
    from planner.report import Table
    from planner.units import format_gib

    return Table(
        title=f"{model}, {recipe}, on {device.name} with {format_gib(device.memory_bytes)} GiB",
        columns=("question", "answer", "needed GiB", "note"),
        rows=[
            [
                answer.question,
                answer.answer or "none",
                None if answer.needed_bytes is None else format_gib(answer.needed_bytes),
                answer.note,
            ]
            for answer in answers
        ],
        notes=["needed is what the driver reports on the fullest GPU: allocator, context, collectives"],
    )
