"""Small tables in every output format; one registered function a format."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from planner.errors import UnknownNameError, near_miss
from planner.numeric import Num
from planner.units import format_count

Cell: TypeAlias = "str | Num | bool | None"
"""One value of a table; a number is a single one here, never a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A result with named columns.

    Attributes
    ----------
    title : str
        One line above the text form; not part of the data.
    columns : sequence of str
        Headers; a header of a quantity names its unit.
    rows : sequence of sequence of Cell
        The cells, machine values: a number is formatted only in the text form.
    notes : sequence of str
        Lines under the text form.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()


def render(table: Table, output_format: str) -> str:
    """Table in one of `FORMATS`, ending in a newline.

    Raises
    ------
    UnknownNameError
        No such format.
    """
    check_format(output_format)
    return FORMATS[output_format](table)


def check_format(output_format: str) -> None:
    """Refuse an unknown format before any work is done.

    Raises
    ------
    UnknownNameError
        No such format.
    """
    if output_format not in FORMATS:
        raise UnknownNameError(
            f"unknown format '{output_format}', expected one of {', '.join(FORMATS)}",
            hint=near_miss(output_format, FORMATS),
        )


def harmless(cell: Cell) -> Cell:
    """Cell that a spreadsheet will not run: text that could start a formula gets a leading apostrophe.

    Examples
    --------
    >>> harmless("=HYPERLINK(0)"), harmless(-1)
    ("'=HYPERLINK(0)", -1)
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _text(table: Table) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if _is_numeric(table, index) else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(_text_cell(cell)) for cell in row))
    # A width that no row exceeds: a table in a pipe must not depend on the terminal that it does not have.
    out = io.StringIO()
    console = Console(file=out, width=_terminal_width(), color_system=None, highlight=False, soft_wrap=False)
    if table.title:
        console.print(Text(table.title), soft_wrap=True)
    console.print(grid)
    for note in table.notes:
        console.print(Text(note), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).rstrip("\n") + "\n\n"


def _terminal_width() -> int:
    import shutil
    import sys

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def _is_numeric(table: Table, index: int) -> bool:
    """Whether a column holds numbers, or text that `planner.units` made of them."""
    filled = [row[index] for row in table.rows if row[index] not in (None, "")]
    return bool(filled) and all(
        (isinstance(cell, (int, float)) and not isinstance(cell, bool)) or re.fullmatch(r"[+-]?[\d,.]+( %)?", str(cell))
        for cell in filled
    )


def _text_cell(cell: Cell) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, (int, float)):
        return format_count(cell)
    return str(cell)


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([harmless(cell) for cell in row] for row in table.rows)
    return out.getvalue()


def _json(table: Table) -> str:
    records = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---:" if _is_numeric(table, index) else "---" for index in range(len(table.columns))]
    body = [line([_text_cell(cell) for cell in row]) for row in table.rows]
    return "\n".join([line(list(table.columns)), line(rule), *body]) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {"text": _text, "json": _json, "csv": _csv, "markdown": _markdown}
"""Renderers by the name that `--format` takes."""
