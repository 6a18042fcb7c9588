"""`planner validate`: measurements against predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.options import ModelsDir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.report import Table
    from planner.validate.result import Judged
    from planner.validate.run import Group


def validate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE.jsonl]...", help="Measured rows; the shipped ones if left out.", show_default=False
        ),
    ] = None,
    models_dir: ModelsDir = None,
    show_rows: Annotated[bool, typer.Option("--rows", help="Show every row in the text form too.")] = False,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
) -> None:
    """Predict measured training steps and engine start-ups from their context, and say how far off that is."""
    import json
    import sys

    from planner.cli.output import emit
    from planner.report import check_format
    from planner.validate.rows import read_rows, shipped_rows
    from planner.validate.run import judge_rows, summary

    check_format(output_format)
    rows = [row for path in paths for row in read_rows(path)] if paths else shipped_rows()

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty() and (done % 20 == 0 or done == total):
            typer.echo(f"\r{done}/{total} rows", err=True, nl=done == total)

    judged = judge_rows(rows, models_dir=models_dir, progress=progress)
    groups = summary(judged)
    if output_format == "json":
        record = {"rows": [_record(item) for item in judged], "summary": [_group_record(group) for group in groups]}
        typer.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    if show_rows or output_format == "csv" or (paths and output_format == "text"):
        emit(_rows_table(judged), output_format)
    if output_format != "csv":
        emit(_summary_table(groups), output_format)


def _record(item: Judged) -> dict[str, Any]:
    start: dict[str, Any] = {"id": item.id, "quantity": item.quantity, "measured": item.measured}
    if item.predicted is None:
        return {**start, "skipped": item.skipped, "recipe": item.recipe}
    return {
        **start,
        "predicted": item.predicted,
        "low": item.low,
        "high": item.high,
        "error_percent": None if item.error is None else 100 * item.error,
        "recipe": item.recipe,
    }


def _group_record(group: Group) -> dict[str, Any]:
    found = group.residuals
    return {
        "recipe": group.recipe,
        "quality": group.quality,
        "quantity": group.quantity,
        "rows": group.rows,
        "skipped": group.skipped,
        "median_error_percent": None if found is None else 100 * found.median_error,
        "p90_error_percent": None if found is None else 100 * found.p90_error,
        "bias_percent": None if found is None else 100 * found.bias,
        "covered_percent": None if group.covered is None else 100 * group.covered,
    }


def _rows_table(judged: Sequence[Judged]) -> Table:
    from planner.report import Table

    return Table(
        title="measured and predicted",
        columns=("id", "recipe", "quantity", "measured", "predicted", "low", "high", "error %", "skipped"),
        rows=[
            [
                item.id,
                item.recipe,
                item.quantity,
                item.measured,
                item.predicted,
                item.low,
                item.high,
                None if item.error is None else 100 * item.error,
                item.skipped,
            ]
            for item in judged
        ],
        notes=["low and high hold 90 % of the shipped measurements of that recipe; empty where nothing covers it"],
    )


def _summary_table(groups: Sequence[Group]) -> Table:
    from planner.report import Table

    return Table(
        title="errors by recipe: predicted over measured, less one",
        columns=("recipe", "quality", "quantity", "rows", "skipped", "median %", "p90 %", "bias %", "in interval %"),
        rows=[
            [
                group.recipe,
                group.quality,
                group.quantity,
                group.rows,
                group.skipped,
                *(
                    [None] * 3
                    if group.residuals is None
                    else [
                        100 * group.residuals.median_error,
                        100 * group.residuals.p90_error,
                        100 * group.residuals.bias,
                    ]
                ),
                None if group.covered is None else 100 * group.covered,
            ]
            for group in groups
        ],
        notes=["median and p90 of the absolute error; bias is the median of the error itself"],
    )
