"""Shipped facts: one row, one fact, one source. Adding a GPU, a dtype, an optimizer or a model is adding rows."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from planner.errors import CatalogError

FACT_COLUMNS = ("name", "parameter", "value", "unit", "source")
"""Columns of every long table: what it is about, which fact, its value, the value's unit, where it was read."""


def read_text(filename: str) -> str:
    """Text of a shipped catalog file, such as ``devices.csv``."""
    return files(__name__).joinpath(filename).read_text(encoding="utf-8")


@cache
def read_facts(filename: str) -> dict[str, dict[str, Fact]]:
    """Long table as ``{name: {parameter: Fact}}``, in the order of the file.

    Raises
    ------
    CatalogError
        A header that is not `FACT_COLUMNS`, an empty cell, or the same fact twice; names the file and line.
    """
    table: dict[str, dict[str, Fact]] = {}
    for line, row in _rows(filename):
        facts = table.setdefault(row["name"], {})
        if row["parameter"] in facts:
            raise CatalogError(f"'{row['parameter']}' of '{row['name']}' is given twice", file=filename, line=line)
        facts[row["parameter"]] = Fact(row["value"], row["unit"], row["source"], filename, line)
    return table


def _rows(filename: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(read_text(filename).splitlines())
    if tuple(reader.fieldnames or ()) != FACT_COLUMNS:
        raise CatalogError(f"the header must be {','.join(FACT_COLUMNS)}", file=filename, line=1)
    for row in reader:
        for column in FACT_COLUMNS:
            if not row.get(column):
                raise CatalogError(f"the cell '{column}' is empty", file=filename, line=reader.line_num)
        yield reader.line_num, row


class Fact:
    """One fact of a catalog: a value in the source's own unit.

    Attributes
    ----------
    value, unit, source : str
        As the row states them; ``-`` is the unit of a word or a pure number.
    """

    __slots__ = ("_file", "_line", "source", "unit", "value")

    def __init__(self, value: str, unit: str, source: str, file: str, line: int) -> None:
        self.value = value
        self.unit = unit
        self.source = source
        self._file = file
        self._line = line

    def number(self, unit: str) -> float:
        """Value as a number, its unit checked against the one that the reader expects."""
        if self.unit != unit:
            raise CatalogError(f"expected the unit '{unit}', found '{self.unit}'", file=self._file, line=self._line)
        try:
            number = float(self.value)
        except ValueError:
            raise CatalogError(f"'{self.value}' is not a number", file=self._file, line=self._line) from None
        if not math.isfinite(number):
            raise CatalogError(f"'{self.value}' is not a finite number", file=self._file, line=self._line)
        return number

    def integer(self, unit: str) -> int:
        """Value as a whole number, its unit checked."""
        number = self.number(unit)
        if number != int(number):
            raise CatalogError(f"'{self.value}' is not a whole number", file=self._file, line=self._line)
        return int(number)
