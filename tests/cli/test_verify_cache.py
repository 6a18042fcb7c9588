"""`planner verify --memory --cache`: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from planner.cli.app import app
from planner.errors import PlannerError

TinyConfig = Callable[..., dict[str, Any]]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify", *arguments])


@pytest.fixture
def llama(tiny_config: TinyConfig, tmp_path: Path) -> str:
    path = tmp_path / "llama.json"
    path.write_text(json.dumps(tiny_config("llama")), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (["--cache", "dynamic"], "--cache", "ask for --memory"),
        (["--memory", "--cache", "dynamic", "--checkpointing"], "--checkpointing", "means nothing for --cache"),
        (["--memory", "--cache", "dynamic", "--backward"], "--backward", "means nothing for --cache"),
        (["--memory", "--past", "3"], "--past", "means nothing for --memory"),
    ],
)
def test_options_that_mean_nothing_are_refused(llama: str, arguments: list[str], key: str, message: str) -> None:
    error = run(llama, *arguments).exception
    assert isinstance(error, PlannerError)
    assert error.key == key
    assert message in str(error)


@pytest.mark.slow
def test_a_table_for_each_kind_of_layer_and_status_0(llama: str) -> None:
    result = run(
        llama, "--memory", "--cache", "static", "--past", "12", "--sequence-length", "3", "--attention", "sdpa"
    )
    assert result.exit_code == 0, result.output
    # 3 layers, keys and values of 2 heads of 10 in bf16, room for 15 tokens
    size = f"{3 * 2 * 2 * 10 * 2 * 15:,}"
    rows = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("sdpa")]
    assert ["sdpa", "-", "prefill", "full", "3", size, size, "0"] in rows
    assert ["sdpa", "-", "decode", "total", "-", size, size, "0"] in rows
    assert {row[2] for row in rows if "peak" in row} == {"prefill", "decode"}
    assert "static cache, fake tensors on meta, 1 x (12 + 3) tokens" in result.stdout


@pytest.mark.slow
def test_json_has_every_number(llama: str) -> None:
    arguments = ["--memory", "--cache", "dynamic", "--sequence-length", "12", "--device", "cpu", "--format", "json"]
    records = json.loads(run(llama, *arguments).stdout)
    assert [record["attention"] for record in records] == ["eager", "sdpa"]
    for record in records:
        assert (record["cache"], record["tensors"], record["exact"]) == ("dynamic", "real", True)
        prefill, decode = record["phases"]
        assert (prefill["name"], prefill["tokens"], decode["name"], decode["tokens"]) == ("prefill", 12, "decode", 1)
        assert prefill["total"] == {"expected": 2880, "actual": 2880, "difference": 0}  # 3 * 2 * 2 * 10 * 2 * 12
        assert prefill["kinds"] == [
            {"name": "full", "layers": 3, "different": 0, "expected": 2880, "actual": 2880, "difference": 0}
        ]
        assert prefill["peak"]["actual"] >= prefill["held"]["actual"]
        assert record["reserved_bytes"] is None


@pytest.mark.slow
def test_a_wrong_prediction_ends_with_1_and_says_where(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.verify.inference.expected_kinds", lambda *_, **__: {("self", 0): {"full": 960}})
    result = run(llama, "--memory", "--cache", "dynamic", "--sequence-length", "12", "--attention", "sdpa")
    assert result.exit_code == 1
    # 2 layers of 960 B that are not foreseen
    assert "sdpa, prefill: 2 of 2 layers (not foreseen) do not hold what is predicted" in result.stdout
