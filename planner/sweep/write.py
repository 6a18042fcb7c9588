"""Reports as files: CSV, Parquet, JSON and Markdown, written beside their place and moved there when complete.

A run that is killed leaves the report that was there before, never half of a new one.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from planner.errors import PlannerError, UnknownNameError, near_miss
from planner.report.tables import Table, render
from planner.sweep.table import BATCH_ROWS, Report

STDOUT = "-"
"""Output that stands for standard output."""

SUFFIXES = {"csv": ".csv", "parquet": ".parquet", "json": ".json", "markdown": ".md"}
"""File names by format."""

Stream = IO[bytes]
Told = Callable[[int], None]


def chosen_format(output_format: str | None, output: str | None) -> str:
    """Format that is asked for: by name, or by the output's suffix, or CSV.

    Raises
    ------
    UnknownNameError
        No such format.
    """
    if output_format is None:
        suffix = "" if output in (None, STDOUT) else Path(str(output)).suffix.casefold()
        return next((name for name, known in SUFFIXES.items() if known == suffix), "csv")
    if output_format not in WRITERS:
        raise UnknownNameError(
            f"unknown format '{output_format}', expected one of {', '.join(WRITERS)}",
            hint=near_miss(output_format, WRITERS),
        )
    return output_format


def write(report: Report, output: str, output_format: str, told: Told | None = None) -> None:
    """Write a report.

    Parameters
    ----------
    report : Report
        The rows.
    output : str
        Path, whose folder is made if need be, or ``-`` for standard output.
    output_format : str
        One of `WRITERS`.
    told : callable, optional
        Told the number of rows that are written.

    Raises
    ------
    PlannerError
        The file cannot be written.
    """
    writer = WRITERS[output_format]
    telling = told or (lambda _: None)
    if output == STDOUT:
        sys.stdout.flush()
        writer(report, sys.stdout.buffer, telling)
        sys.stdout.buffer.flush()
        return
    try:
        with replacing(Path(output)) as stream:
            writer(report, stream, telling)
    except OSError as error:
        raise PlannerError(f"cannot be written: {error.strerror or error}", file=output) from None


@contextmanager
def replacing(path: Path) -> Iterator[Stream]:
    """Stream to a temporary file in the same folder that takes the place of `path` if the block ends well."""
    if path.exists() and not path.is_file():
        # A device or a pipe is written to; putting a file in its place would destroy it.
        with path.open("wb") as stream:
            yield stream
        return
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(report: Report, stream: Stream, told: Told) -> None:
    import pyarrow.csv

    with pyarrow.csv.CSVWriter(stream, report.arrow_schema()) as writer:
        for batch in report.batches(for_spreadsheets=True):
            writer.write_batch(batch)
            told(batch.num_rows)


def _write_parquet(report: Report, stream: Stream, told: Told) -> None:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(stream, report.arrow_schema(), compression="zstd") as writer:
        for batch in report.batches():
            writer.write_batch(batch)
            told(batch.num_rows)


def _write_json(report: Report, stream: Stream, told: Told) -> None:
    """A list of records, one a line."""
    names = [json.dumps(column.name) for column in report.columns]
    before = "[\n"
    for rows in _row_blocks(report):
        cells = [
            [json.dumps(cell, ensure_ascii=False) for cell in _cells(report, name, rows)] for name in _names(report)
        ]
        lines = (
            "{" + ", ".join(f"{name}: {cell}" for name, cell in zip(names, row, strict=True)) + "}"
            for row in zip(*cells, strict=True)
        )
        stream.write((before + ",\n".join(lines)).encode())
        before = ",\n"
        told(len(rows))
    stream.write(b"[]\n" if report.rows == 0 else b"\n]\n")


def _write_markdown(report: Report, stream: Stream, told: Told) -> None:
    names = _names(report)
    rows = np.arange(report.rows)
    cells = [_cells(report, name, rows) for name in names]
    table = Table(title=report.name, columns=names, rows=list(zip(*cells, strict=True)))
    stream.write(render(table, "markdown").encode())
    told(report.rows)


def _names(report: Report) -> list[str]:
    return [column.name for column in report.columns]


def _cells(report: Report, name: str, rows: Any) -> Any:
    return report.cells(name, rows)


def _row_blocks(report: Report) -> Iterator[Any]:
    for start in range(0, report.rows, BATCH_ROWS):
        yield np.arange(start, min(start + BATCH_ROWS, report.rows))


WRITERS: dict[str, Callable[[Report, Stream, Told], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "json": _write_json,
    "markdown": _write_markdown,
}
"""Writers by the name that `--format` takes."""
