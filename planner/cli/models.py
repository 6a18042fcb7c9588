"""`planner models`: the models of the catalog."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    family: Annotated[
        str | None, typer.Option("--family", metavar="MODEL_TYPE", help="Only this model_type, such as llama.")
    ] = None,
    min_parameters: Annotated[
        float | None, typer.Option("--min-parameters", metavar="N", help="At least so many, 7e9 for example.")
    ] = None,
    max_parameters: Annotated[
        float | None, typer.Option("--max-parameters", metavar="N", help="At most so many.")
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
) -> None:
    """List the models of the catalog with their counts."""
    from planner.catalog.models import catalog_models
    from planner.cli.output import emit
    from planner.counts import count
    from planner.errors import UnknownNameError, near_miss
    from planner.models import build_model
    from planner.report import Table, check_format
    from planner.sources import ConfigSource

    check_format(output_format)
    entries = catalog_models()
    known = sorted({str(entry.config["model_type"]) for entry in entries})
    if family is not None and family not in known:
        raise UnknownNameError(
            f"no model of the catalog has model_type '{family}', expected one of {', '.join(known)}",
            hint=near_miss(family, known),
        )
    rows = []
    for entry in entries:
        if family is not None and entry.config["model_type"] != family:
            continue
        model = build_model(ConfigSource(name=entry.id, raw=entry.config, origin=entry.source))
        counts = count(model.tree)
        if not (min_parameters or 0) <= counts.total <= (max_parameters or float("inf")):
            continue
        rows.append(
            [
                entry.id,
                model.family.model_type,
                model.class_name,
                counts.total,
                counts.active,
                entry.published_total,
                ", ".join(entry.aliases),
                entry.source,
            ]
        )
    emit(
        Table(
            title=f"{len(rows)} models",
            columns=("model", "model_type", "class", "total", "active", "published_total", "aliases", "source"),
            rows=rows,
            notes=["published_total: as its source counts; `planner params MODEL --checkpoint` says what it holds"],
        ),
        output_format,
    )
