"""Measured rows are untrusted: a wrong line is named."""

from pathlib import Path

import pytest

from planner.errors import ScenarioError
from planner.validate.rows import parse_rows, read_rows, shipped_rows


def test_rows_are_objects_with_ids() -> None:
    assert [row["id"] for row in parse_rows('{"id": "a"}\n\n{"id": "b"}\n', "x.jsonl")] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a"}\n{"id": ', "x.jsonl:2: is no JSON"),
        ("[1]", "x.jsonl:1: expected an object, got list"),
        ('{"peak_bytes": 1}', "x.jsonl:1: id: is missing"),
        ('{"id": "a"}\n{"id": "a"}', "x.jsonl:2: id: 'a' is the id of line 1 too"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        list(parse_rows(text, "x.jsonl"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="missing.jsonl: cannot be read"):
        read_rows(tmp_path / "missing.jsonl")


def test_every_shipped_row_has_a_source_and_an_own_id() -> None:
    rows = shipped_rows()
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row.get("source") for row in rows)
