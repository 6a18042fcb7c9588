"""The `planner` program: its commands, and what happens when one of them fails."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from planner._version import __version__
from planner.cli import cache as _cache
from planner.cli import fit as _fit
from planner.cli import flops as _flops
from planner.cli import gpus as _gpus
from planner.cli import memory as _memory
from planner.cli import models as _models
from planner.cli import params as _params
from planner.cli import plan as _plan
from planner.cli import recipes as _recipes
from planner.cli import schema as _schema
from planner.cli import sweep as _sweep
from planner.cli import validate as _validate
from planner.cli import verify as _verify
from planner.errors import PlannerError

app = typer.Typer(
    name="planner",
    help="Sizes transformer models before anyone rents a GPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"planner {__version__}")
        raise typer.Exit


@app.callback()
def planner(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sizes transformer models before anyone rents a GPU: parameters, memory, FLOPs, sweeps."""


app.command("params")(_params.params)
app.command("flops")(_flops.flops)
app.command("memory")(_memory.memory)
app.command("cache")(_cache.cache)
app.command("fit")(_fit.fit)
app.command("models")(_models.models)
app.command("gpus")(_gpus.gpus)
app.command("recipes")(_recipes.recipes)
app.command("engines")(_recipes.engines)
app.command("plan")(_plan.plan)
app.command("sweep")(_sweep.sweep)
app.command("schema")(_schema.schema)
app.command("verify")(_verify.verify)
app.command("validate")(_validate.validate)


def main() -> None:
    """Run the program; a `PlannerError` becomes one line on stderr and exit status 2."""
    try:
        app()
    except PlannerError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; point stdout away so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
