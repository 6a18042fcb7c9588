"""`planner flops`: count floating-point operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.loading import named_model
from planner.cli.options import ClassName, ModelName, ModelsDir, Offline, Overrides

if TYPE_CHECKING:
    from planner.compute import Compute
    from planner.models import Model
    from planner.report import Table
    from planner.workload import Step


def flops(
    name: ModelName,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="B", help="Samples.")] = 1,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", metavar="S", help="New tokens a sample; images have their own length.")
    ] = 2048,
    past: Annotated[int, typer.Option("--past", metavar="P", help="Cached tokens a sample; more than 0 decodes.")] = 0,
    source_length: Annotated[
        int | None,
        typer.Option("--source-length", metavar="T", help="Encoder tokens of an encoder-decoder; S if left out."),
    ] = None,
    logits: Annotated[
        str, typer.Option("--logits", metavar="WHICH", help="all positions, or the last one as a prefill needs it.")
    ] = "all",
    images: Annotated[int, typer.Option("--images", metavar="N", help="Images a sample beside the text.")] = 0,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> None:
    """Count FLOPs of a forward pass and of training, under every named convention."""
    import json

    from planner.cli.output import emit
    from planner.plan import work
    from planner.report import check_format
    from planner.workload import Step, check_logits

    check_format(output_format)
    step = Step(
        batch_size=batch_size,
        sequence_length=sequence_length,
        past=past,
        source_length=source_length,
        logits=check_logits(logits),
        images=images,
    )
    model = named_model(name, models_dir=models_dir, overrides=overrides, class_name=class_name, offline=offline)
    result = work(model, model.tree, step)
    if output_format == "json":
        typer.echo(json.dumps(_record(model, step, result), indent=2, ensure_ascii=False))
        return
    emit(_conventions_table(model, step, result), output_format)
    if output_format == "text":
        emit(_components_table(result), "text")


def _record(model: Model, step: Step, result: Compute) -> dict[str, object]:
    from dataclasses import asdict

    from planner.compute import CONVENTIONS

    return {
        "model": model.name,
        "class": model.class_name,
        "step": asdict(step),
        "tokens": result.tokens,
        "flops_per_multiply_add": 2,
        "conventions": {
            name: {
                "counts": CONVENTIONS[name],
                "forward": flops.forward,
                "backward": flops.backward,
                "training": flops.training,
                "forward_per_token": flops.forward / result.tokens,
                "backward_per_token": flops.backward / result.tokens,
                "training_per_token": flops.training / result.tokens,
            }
            for name, flops in result.conventions.items()
        },
        "components": {
            name: {"forward": flops.forward, "backward": flops.backward, "training": flops.training}
            for name, flops in result.components.items()
        },
        "backward_with_fused_attention": result.fused_backward,
        "scans": result.scans,
        "assumptions": _assumptions(model, step),
    }


def _assumptions(model: Model, step: Step) -> list[str]:
    from planner.compute import step_warnings
    from planner.models import BUILDER
    from planner.plan import TRACED_NOTE

    traced = [] if model.method == BUILDER else [TRACED_NOTE]
    return [*model.assumptions, *step_warnings(model.tree, step), *traced]


def _conventions_table(model: Model, step: Step, result: Compute) -> Table:
    from planner.compute import CONVENTIONS
    from planner.report import Table
    from planner.units import format_count

    fused = format_count(result.fused_backward)
    shape = f"batch {step.batch_size}, {step.sequence_length} new tokens, {step.past} cached, logits for {step.logits}"
    return Table(
        title=f"{model.name} ({model.class_name}), {shape}: {format_count(result.tokens)} positions",
        columns=(
            "convention",
            "forward FLOP",
            "backward FLOP",
            "training FLOP",
            "forward FLOP/token",
            "training FLOP/token",
            "counts",
        ),
        rows=[
            [
                name,
                flops.forward,
                flops.backward,
                flops.training,
                flops.forward / result.tokens,
                flops.training / result.tokens,
                CONVENTIONS[name],
            ]
            for name, flops in result.conventions.items()
        ],
        notes=[
            "a multiply-add is 2 FLOP; training is forward and backward with every parameter trained",
            f"matmul backward where a fused attention kernel computes the scores again: {fused} FLOP",
            *(
                [f"recurrences beside that, which are no matrix products: {format_count(result.scans)} FLOP"]
                if result.scans
                else []
            ),
            *(f"assumed: {line}" for line in _assumptions(model, step)),
        ],
    )


def _components_table(result: Compute) -> Table:
    from planner.report import Table
    from planner.units import format_share

    total = result.conventions["matmul"]
    rows = [
        [name, flops.forward, flops.backward, flops.training, format_share(flops.forward / total.forward)]
        for name, flops in result.components.items()
    ]
    return Table(
        title="by component (matmul)",
        columns=("component", "forward FLOP", "backward FLOP", "training FLOP", "share of forward"),
        rows=[*rows, ["total", total.forward, total.backward, total.training, format_share(1)]],
    )
