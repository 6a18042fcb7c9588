"""Measured rows from JSON lines: untrusted input, so a wrong line is named and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from planner.errors import ScenarioError

SHIPPED = "measured"


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """Rows of a file of JSON lines.

    Raises
    ------
    ScenarioError
        The file cannot be read, or a line is no object with an `id`; file and line are named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot be read: {error}", file=str(path)) from None
    return list(parse_rows(text, str(path)))


def shipped_rows() -> list[Mapping[str, Any]]:
    """Measurements of the catalog."""
    folder = files("planner.catalog").joinpath(SHIPPED)
    rows: list[Mapping[str, Any]] = []
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".jsonl"):
            rows += parse_rows(entry.read_text(encoding="utf-8"), f"catalog/{SHIPPED}/{entry.name}")
    return rows


def parse_rows(text: str, file: str) -> Iterator[Mapping[str, Any]]:
    """Rows of JSON lines; see `read_rows`."""
    seen: dict[str, int] = {}
    # Texts may hold characters that end a line elsewhere than in JSON lines.
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ScenarioError(f"is no JSON: {error}", file=file, line=line) from None
        if not isinstance(row, dict):
            raise ScenarioError(f"expected an object, got {type(row).__name__}", file=file, line=line)
        name = row.get("id")
        if not isinstance(name, str) or not name:
            raise ScenarioError("is missing, expected a name of the row", file=file, line=line, key="id")
        if name in seen:
            raise ScenarioError(f"'{name}' is the id of line {seen[name]} too", file=file, line=line, key="id")
        seen[name] = line
        yield row
