"""`planner sweep`: rows to a file, a summary to the terminal, words to stderr."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import planner.cli.sweep as command
from planner.cli.app import app
from planner.errors import PlannerError, ScenarioError, UnknownNameError

GRID = "model: [gpt2, meta-llama/Llama-3.1-8B]\nmode: [inference, training]\ngpu: [T4, H100]\nsequence_length: 512\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, text: str = GRID) -> Result:
    Path("question.yaml").write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["sweep", "question.yaml", *arguments])


def test_the_default_output_and_the_summary(folder: Path) -> None:
    result = run()
    assert result.exit_code == 0
    text = (folder / "reports" / "question.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(io.StringIO(text)))) == 8
    assert "question: 8 rows, 4 workloads" in result.stdout
    assert "the rest is limited by" in result.stdout
    assert "that it fits means that the model's states fit" in result.stdout
    assert "wrote reports/question.csv: 8 rows, 28 columns" in result.stderr
    assert "wrote" not in result.stdout


def test_rows_to_stdout_and_the_summary_to_stderr(folder: Path) -> None:
    result = run("--output", "-")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 8
    assert "4 workloads" in result.stderr
    assert not (folder / "reports").exists()


@pytest.mark.parametrize(("output_format", "suffix"), [("json", "json"), ("markdown", "md"), ("parquet", "parquet")])
def test_formats(folder: Path, output_format: str, suffix: str) -> None:
    run("--format", output_format)
    by_format = folder / "reports" / f"question.{suffix}"
    run("-o", f"named.{suffix}")
    assert by_format.read_bytes() == (folder / f"named.{suffix}").read_bytes()
    if output_format == "json":
        assert len(json.loads(by_format.read_text(encoding="utf-8"))) == 8


def test_limit(folder: Path) -> None:
    run("--limit", "3")
    assert len((folder / "reports" / "question.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert run("--limit", "0").exit_code == 2


def test_notes_go_to_stderr() -> None:
    result = run(text=GRID + "past: [0, 512]\nweights: [bf16, int8]\n")
    assert "note: past is 0 in training" in result.stderr
    assert "stand once" in result.stderr
    assert "note:" not in result.stdout


def test_unread_config_keys_are_warned_about(folder: Path) -> None:
    config = {"model_type": "gpt2", "n_layer": 1, "extra_width": 3}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "extra_width = 3" in run(text="model: ./config.json").stderr


def test_a_folder_of_models(folder: Path) -> None:
    (folder / "mine" / "own").mkdir(parents=True)
    (folder / "mine" / "own" / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    assert run("--models", "mine", "--offline", text="model: own").exit_code == 0


def test_a_large_grid_needs_yes() -> None:
    text = "model: gpt2\nbatch_size: {start: 1, stop: 2000, step: 1}\npast: {start: 1, stop: 501, step: 1}\n"
    found = run(text=text).exception
    assert isinstance(found, ScenarioError)
    assert "question.yaml:2: batch_size: the grid has 1,002,000 rows" in str(found)
    assert "--yes" in str(found)
    result = run("--yes", "--limit", "1", text=text)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "text", "kind", "message"),
    [
        (("--format", "xml"), GRID, UnknownNameError, "unknown format 'xml', expected one of csv"),
        ((), "model: gpt2\ngpus: T4", ScenarioError, "question.yaml:2: gpus: unknown key .did you mean 'gpu'"),
        ((), "model: gtp2", ScenarioError, "question.yaml:1: model: unknown model 'gtp2'.*'gpt2'"),
        (("--output", "/"), GRID, PlannerError, "cannot be written"),
    ],
)
def test_errors(arguments: tuple[str, ...], text: str, kind: type[PlannerError], message: str) -> None:
    found = run(*arguments, "--offline", text=text).exception
    assert isinstance(found, kind)
    with pytest.raises(kind, match=message):
        raise found


def test_long_work_shows_progress_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LONG_WORK", 1)
    monkeypatch.setattr(command, "LONG_MODEL_WORK", 1)
    result = run()
    assert "memory: 4 of 4" in result.stderr
    assert "writing: 8 of 8" in result.stderr
    assert "of 4" not in result.stdout.replace("of 2", "")


def test_a_terminal_sees_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with command._StderrProgress() as progress:
        progress.stage("memory", 500_000, 1_000_000)
        progress.stage("memory", 1_000_000, 1_000_000)
        progress.stage("models", 1, 2)
    assert "memory" in terminal.getvalue()
    assert "models" not in terminal.getvalue()


def test_short_work_shows_none() -> None:
    assert " of " not in run().stderr
