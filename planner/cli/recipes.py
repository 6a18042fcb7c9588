"""`planner recipes` and `planner engines`: whose habits are known, and how well."""

from __future__ import annotations

from typing import Annotated

import typer

Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")]

HABITS = ("precision", "optimizer", "zero", "recompute", "loss", "attention", "adapter", "base")
"""Facts of a recipe that a user may override."""


def recipes(output_format: Format = "text") -> None:
    """List the training recipes: what each does unless it is told otherwise, and how far off its peaks have been."""
    from planner.cli.output import emit
    from planner.report import Table, check_format
    from planner.training import load_recipes
    from planner.validate.intervals import residuals_for

    check_format(output_format)
    rows = []
    for recipe in load_recipes().values():
        known = residuals_for(recipe.name, "peak_bytes")
        rows.append(
            [
                recipe.name,
                *(recipe.word(habit) or None for habit in HABITS),
                None if known is None else known.rows,
                None if known is None else round(100 * known.median_error, 2),
            ]
        )
    emit(
        Table(
            title="training recipes",
            columns=("recipe", *HABITS, "measured peaks", "median error %"),
            rows=rows,
            notes=["a blank habit is torch's or the framework's own default"],
        ),
        output_format,
    )


def engines(output_format: Format = "text") -> None:
    """List the inference engines by range of versions, and how far off their KV pools have been."""
    from planner.cli.output import emit
    from planner.engines import engine_labels
    from planner.report import Table, check_format
    from planner.validate.intervals import residuals_for

    check_format(output_format)
    rows = []
    for label in engine_labels():
        known = residuals_for(label, "kv_cache_gib_per_gpu")
        rows.append(
            [
                label,
                None if known is None else known.rows,
                None if known is None else round(100 * known.median_error, 2),
            ]
        )
    emit(
        Table(title="inference engines", columns=("engine", "measured pools", "median error %"), rows=rows),
        output_format,
    )
