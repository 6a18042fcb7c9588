"""Results to stdout, words to stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from planner.models import Model
    from planner.report import Table


def emit(table: Table, output_format: str) -> None:
    """Print a table on stdout."""
    from planner.report import render

    typer.echo(render(table, output_format), nl=False)


def warn_about_unread_keys(model: Model) -> None:
    """Say on stderr which keys of a config nobody read."""
    from planner.families.config import NOT_READ

    for line in model.assumptions:
        if NOT_READ in line:
            typer.echo(f"warning: {model.name}: {line}", err=True)
