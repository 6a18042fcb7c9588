"""Reports as files: they open elsewhere as they are, are harmless there, and are whole or not there."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import planner.sweep.write as writing
from planner.errors import PlannerError, UnknownNameError
from planner.located import parse_yaml
from planner.sweep import Report, evaluate_axes
from planner.sweep.axes import axes_of
from planner.sweep.table import RESULTS, column_table, field_table
from planner.sweep.write import WRITERS, chosen_format, replacing, write

GRID = """
model: [gpt2, meta-llama/Llama-3.1-405B]
set: {vocab_size: [50257, 128256]}
mode: [inference, training]
gpu: [T4, H100]
past: [0, 7]
sequence_length: 100
"""


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate_axes(axes_of(parse_yaml(GRID, "grid.yaml")), "grid", offline=True)


def written(report: Report, output_format: str, folder: Path) -> Path:
    path = folder / f"report{writing.SUFFIXES[output_format]}"
    write(report, str(path), output_format)
    return path


def expected(report: Report) -> list[list[Any]]:
    rows = np.arange(report.rows)
    cells = [report.cells(column.name, rows) for column in report.columns]
    return [list(row) for row in zip(*cells, strict=True)]


def rows_of(frame: pd.DataFrame) -> list[list[Any]]:
    """Rows of a frame, blank cells as None."""
    cells = frame.astype(object)
    found: list[list[Any]] = cells.where(cells.notna(), None).to_numpy().tolist()
    return found


def test_csv_opens_in_pandas_as_it_is(report: Report, tmp_path: Path) -> None:
    frame = pd.read_csv(written(report, "csv", tmp_path))
    assert list(frame) == [column.name for column in report.columns]
    assert rows_of(frame) == expected(report)
    for column in report.columns:
        if column.kind == "integer" and column.name != "source_length":
            assert frame[column.name].dtype == np.int64, column.name
    assert frame["fits"].dtype == bool
    assert frame["forward_flops_per_token"].dtype in (np.float64, np.int64)


def test_csv_opens_in_duckdb_as_it_is(report: Report, tmp_path: Path) -> None:
    path = written(report, "csv", tmp_path)
    found = duckdb.read_csv(str(path))
    types = dict(zip(found.columns, map(str, found.dtypes), strict=True))
    assert [list(row) for row in found.fetchall()] == expected(report)
    for column in report.columns:
        if column.kind == "integer" and column.name not in report.inputs:
            assert types[column.name] == "BIGINT", column.name
    assert types["fits"] == "BOOLEAN"


def test_integers_are_digits(report: Report, tmp_path: Path) -> None:
    lines = written(report, "csv", tmp_path).read_text(encoding="utf-8").splitlines()
    assert len(lines) == report.rows + 1
    header = lines[0].replace('"', "").split(",")
    for line in lines[1:]:
        cells = line.split(",")
        for column in report.columns:
            if column.kind == "integer" and column.name not in report.inputs:
                assert cells[header.index(column.name)].lstrip("-").isdigit()


def test_parquet_keeps_types_units_and_meanings(report: Report, tmp_path: Path) -> None:
    path = written(report, "parquet", tmp_path)
    table = pq.read_table(path)
    assert rows_of(table.to_pandas()) == expected(report)
    metadata = table.schema.field("total_bytes").metadata
    assert metadata[b"unit"] == b"B"
    assert metadata[b"description"].startswith(b"Sum of the five")
    assert str(table.schema.field("total_bytes").type) == "int64"


def test_json_is_a_list_of_records(report: Report, tmp_path: Path) -> None:
    text = written(report, "json", tmp_path).read_text(encoding="utf-8")
    rows = np.arange(report.rows)
    cells = {column.name: report.cells(column.name, rows) for column in report.columns}
    assert json.loads(text) == [{name: cells[name][row] for name in cells} for row in rows]
    # One record a line
    assert len(text.splitlines()) == report.rows + 2


def test_markdown_has_a_line_for_each_row(report: Report, tmp_path: Path) -> None:
    lines = written(report, "markdown", tmp_path).read_text(encoding="utf-8").splitlines()
    assert len(lines) == report.rows + 2
    assert lines[0].startswith("| model | class | set.vocab_size |")


def test_pandas_frame_keeps_integers(report: Report) -> None:
    frame = report.to_pandas()
    assert list(frame) == [column.name for column in report.columns]
    assert frame["total_bytes"].dtype == np.int64
    assert str(frame["source_length"].dtype) == "Int64"
    assert frame["source_length"].isna().all()


@pytest.mark.parametrize("output_format", WRITERS)
def test_an_empty_report_has_its_columns(output_format: str, tmp_path: Path) -> None:
    empty = evaluate_axes(axes_of(parse_yaml("model: gpt2\nwhere: past > 0", "grid.yaml")), "grid")
    path = written(empty, output_format, tmp_path)
    if output_format == "json":
        assert json.loads(path.read_text(encoding="utf-8")) == []
    elif output_format == "parquet":
        assert pq.read_table(path).num_rows == 0
    else:
        assert "total_bytes" in path.read_text(encoding="utf-8").splitlines()[0]


def test_batches_make_no_difference(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: written(report, name, tmp_path).read_bytes() for name in ("csv", "json")}
    monkeypatch.setattr("planner.sweep.table.BATCH_ROWS", 3)
    monkeypatch.setattr(writing, "BATCH_ROWS", 3)
    assert {name: written(report, name, tmp_path).read_bytes() for name in whole} == whole


FORMULAS = ["=HYPERLINK(0)", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", 'x","=1']


def test_a_cell_that_could_start_a_formula_is_harmless(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    config = {"model_type": "gpt2", "n_layer": 1}
    for name in FORMULAS:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    axes = axes_of(parse_yaml(json.dumps({"model": FORMULAS}), "grid.yaml"))
    report = evaluate_axes(axes, "grid", models_dir=folder, offline=True)
    frame = pd.read_csv(written(report, "csv", tmp_path))
    assert list(frame["model"]) == [f"'{name}" for name in FORMULAS[:-1]] + [FORMULAS[-1]]
    # Only what a spreadsheet opens is changed
    records = json.loads(written(report, "json", tmp_path).read_text(encoding="utf-8"))
    assert [record["model"] for record in records] == FORMULAS


def folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("killed_by", [KeyboardInterrupt, SystemExit, OSError, ValueError])
def test_a_killed_run_leaves_the_old_report(
    killed_by: type[BaseException], report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(report, "csv", tmp_path)
    old = path.read_bytes()

    def killed(self: Report, *, for_spreadsheets: bool = False) -> Iterator[Any]:
        yield next(original(self, for_spreadsheets=for_spreadsheets))
        raise killed_by("in the middle")

    original = Report.batches
    monkeypatch.setattr(Report, "batches", killed)
    with pytest.raises(PlannerError if killed_by is OSError else killed_by, match="in the middle"):
        write(report, str(path), "csv")
    assert path.read_bytes() == old
    assert folder_names(tmp_path) == ["report.csv"]


def test_the_file_is_complete_before_it_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    path.write_bytes(b"old")
    with replacing(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
        assert len(folder_names(tmp_path)) == 2
    assert path.read_bytes() == b"new"
    assert folder_names(tmp_path) == ["report.csv"]


def test_folders_are_made_and_links_followed(report: Report, tmp_path: Path) -> None:
    target = tmp_path / "far" / "away" / "report.csv"
    write(report, str(target), "csv")
    link = tmp_path / "link.csv"
    link.symlink_to(target)
    before = target.stat().st_ino
    write(report, str(link), "csv")
    assert link.is_symlink()
    assert target.stat().st_ino != before


def test_a_report_is_as_readable_as_any_file(report: Report, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("", encoding="utf-8")
    path = written(report, "csv", tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_device_is_written_to_and_not_replaced(report: Report) -> None:
    write(report, "/dev/null", "csv")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_what_cannot_be_written_is_an_error(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path, tmp_path / "file" / "report.csv"):
        with pytest.raises(PlannerError, match="cannot be written"):
            write(report, str(path), "csv")


@pytest.mark.parametrize(
    ("named", "output", "chosen"),
    [
        (None, None, "csv"),
        (None, "-", "csv"),
        (None, "x.parquet", "parquet"),
        (None, "x.MD", "markdown"),
        (None, "x.txt", "csv"),
        ("json", "x.csv", "json"),
    ],
)
def test_the_format_is_named_or_follows_the_suffix(named: str | None, output: str | None, chosen: str) -> None:
    assert chosen_format(named, output) == chosen


def test_an_unknown_format() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown format 'jsn', expected one of csv.*did you mean 'json'"):
        chosen_format("jsn", None)


def test_every_column_is_documented(report: Report) -> None:
    documented = {str(row[0]): row for row in column_table().rows}
    for column in report.columns:
        name = "set.<key>" if column.name.startswith("set.") else column.name
        assert name in documented
        assert documented[name][3]
    assert {str(row[0]) for row in field_table().rows} >= {"model", "zip", "where", "images"}
    # A header of bytes or FLOPs names its unit.
    for result in RESULTS:
        if result.unit == "B":
            assert result.name.endswith("_bytes")
