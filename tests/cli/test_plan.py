"""`planner plan`: one scenario, answered in text or JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from planner.cli.app import app
from planner.errors import PlannerError, ScenarioError, UnknownNameError
from planner.plan import NOT_INCLUDED, plan
from planner.scenario import read_scenario


def run(path: Path, text: str, *arguments: str) -> Result:
    path.write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["plan", str(path), *arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.yaml"


def test_text_of_what_fits(path: Path) -> None:
    text = run(path, "model: meta-llama/Llama-3.1-8B\ngpu: RTX 4090\n").stdout
    assert "meta-llama/Llama-3.1-8B (LlamaForCausalLM), inference, bf16: 8,030,261,248 parameters" in text
    assert "16,060,522,496" in text  # 8,030,261,248 * 2 B
    assert "fits: GeForce RTX 4090 has 23.64" in text
    assert f"assumed: {NOT_INCLUDED}" in text
    assert max(map(len, text.splitlines())) <= 200


def test_text_of_what_does_not_fit(path: Path) -> None:
    scenario = "model: meta-llama/Llama-3.1-8B\nmode: training\nprecision: bf16-master\ngpu: RTX 4090\n"
    text = run(path, scenario).stdout
    # 8,030,261,248 * 16 B = 119.660 GiB on 23.64 GiB each
    assert "does not fit: GeForce RTX 4090" in text
    assert "6 of them hold the states" in text
    assert "master weights" in text


def test_without_a_gpu(path: Path) -> None:
    assert "no gpu is named: whether it fits was not asked" in run(path, "model: gpt2").stdout


def test_json_is_the_plan(path: Path) -> None:
    record = json.loads(run(path, "model: gpt2\ngpu: T4\nset: {n_layer: 2}", "--format", "json").stdout)
    answer = plan(read_scenario(path))
    assert answer.fit is not None
    assert record["scenario"]["set"] == {"n_layer": 2}
    assert record["total_parameters"] == answer.counts.total
    assert record["total_bytes"] == answer.memory.total_bytes
    assert sum(row["size_bytes"] for row in record["memory"]) == record["total_bytes"]
    assert record["forward_flops_per_token"] == answer.flops_per_token.forward
    assert (record["gpu"], record["fits"], record["min_gpus"]) == ("Tesla T4", True, 1)
    assert record["headroom_bytes"] == answer.fit.headroom_bytes
    blank = json.loads(run(path, "model: gpt2", "--format", "json").stdout)
    assert (blank["gpu"], blank["fits"], blank["headroom_bytes"]) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "arguments", "kind", "message"),
    [
        ("model: [gpt2, t5-small]", (), ScenarioError, "one.yaml:1: model: has several values.*planner sweep"),
        ("model: gpt2\ngpu: all", (), ScenarioError, "one.yaml:2: gpu: has several values"),
        ("model: gpt2\nmdoe: training", (), ScenarioError, "one.yaml:2: mdoe: unknown key .did you mean 'mode'"),
        ("model: gpt2", ("--format", "jsno"), UnknownNameError, "unknown format 'jsno'.*did you mean 'json'"),
        ("model: gpt-none", ("--offline",), UnknownNameError, "unknown model 'gpt-none'"),
    ],
)
def test_errors(path: Path, text: str, arguments: tuple[str, ...], kind: type[PlannerError], message: str) -> None:
    found = run(path, text, *arguments).exception
    assert isinstance(found, kind)
    with pytest.raises(kind, match=message):
        raise found
