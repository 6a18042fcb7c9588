"""`planner sweep`: a scenario with axes, answered row by row into a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from planner.cli.options import ModelsDir, Offline

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from planner.sweep.table import Report

REPORTS = Path("reports")
"""Folder of the reports for which no output is named."""

LONG_WORK = 200_000
"""Rows, or other units of work, from which on progress is shown."""

LONG_MODEL_WORK = 500
"""The same for models, each of which takes longer."""


def sweep(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO.yaml", help="Fields with values, lists and ranges.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File of the report, - for stdout; reports/<scenario> and the format's suffix if left out.",
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="csv, parquet, json or markdown; by the file's suffix if left out."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Keep the first N rows of the report.")] = None,
    confirmed: Annotated[bool, typer.Option("--yes", help="Evaluate a grid of more than 1,000,000 rows.")] = False,
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> None:
    """Evaluate every combination of a scenario: rows to a file, a summary to the terminal."""
    from planner.errors import PlannerError
    from planner.report import render
    from planner.sweep import sweep as evaluate
    from planner.sweep.summary import summarise
    from planner.sweep.write import STDOUT, SUFFIXES, chosen_format, write

    chosen = chosen_format(output_format, output)
    target = output if output is not None else str(REPORTS / f"{scenario.stem}{SUFFIXES[chosen]}")
    if target == STDOUT and chosen == "parquet" and sys.stdout.isatty():
        raise PlannerError("parquet is binary and this is a terminal", hint="name a file with --output")
    with _StderrProgress() as progress:
        report = evaluate(
            scenario,
            confirmed=confirmed,
            limit=limit,
            models_dir=models_dir,
            offline=offline,
            progress=progress.stage,
        )
        write(report, target, chosen, progress.writing(report.rows))
    _say_notes(report)
    typer.echo(render(summarise(report), "text"), nl=False, err=target == STDOUT)
    if target != STDOUT:
        typer.echo(f"wrote {target}: {report.rows:,} rows, {len(report.columns)} columns", err=True)


def _say_notes(report: Report) -> None:
    from planner.families.config import NOT_READ

    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
    for line in report.assumptions:
        if NOT_READ in line:
            typer.echo(f"warning: {line}", err=True)


class _StderrProgress:
    """Progress of long work: a bar where stderr is a terminal, a line for each quarter where it is not."""

    def __init__(self) -> None:
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def stage(self, stage: str, done: int, total: int) -> None:
        """Told by the engine."""
        if total < (LONG_MODEL_WORK if stage == "models" else LONG_WORK):
            return
        if sys.stderr.isatty():
            self._bar(stage, done, total)
        elif 4 * done // total > self._quarters.get(stage, 0):
            self._quarters[stage] = 4 * done // total
            typer.echo(f"{stage}: {done:,} of {total:,}", err=True)

    def writing(self, total: int) -> _Counter:
        """Counter of the rows that are written."""
        return _Counter(self, total)

    def _bar(self, stage: str, done: int, total: int) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bars = Progress(console=Console(stderr=True), transient=True)
            self._bars.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done)


class _Counter:
    """Adds up rows for the stage of writing."""

    def __init__(self, progress: _StderrProgress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def __call__(self, rows: int) -> None:
        self._done += rows
        self._progress.stage("writing", self._done, self._total)
