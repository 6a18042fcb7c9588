"""`planner fit`: answers that `planner memory` confirms, and errors that name the option."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError

MODEL = "Qwen/Qwen3-0.6B"


def answers(*options: str) -> dict[str, dict[str, Any]]:
    arguments = ["fit", MODEL, *options, "--offline", "--format", "json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {"model", "gpu", "gpu_memory_bytes", "recipe", "answers"}
    return {answer["question"]: answer for answer in found["answers"]}


def device_bytes(*options: str) -> float:
    arguments = ["memory", MODEL, "--training", *options, "--offline", "--format", "json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return float(json.loads(result.stdout)["device_bytes"])


def test_memory_confirms_each_answer() -> None:
    job = ("--recipe", "huggingface", "--recompute", "none")
    found = answers(*job, "--gpu", "RTX 4090", "--sequence-length", "1024")
    batch = int(found["largest micro-batch"]["answer"].split()[0])
    at = device_bytes(*job, "--sequence-length", "1024", "--batch-size", str(batch))
    beyond = device_bytes(*job, "--sequence-length", "1024", "--batch-size", str(batch + 1))
    assert found["largest micro-batch"]["needed_bytes"] == at < beyond
    length = found["longest sequence"]["answer"].split()[0]
    assert found["longest sequence"]["needed_bytes"] == device_bytes(*job, "--sequence-length", length)
    assert found["cheapest recomputation"]["answer"] == "none"
    assert found["fewest GPUs"]["answer"] == "1: tp 1, pp 1, dp 1"


def test_the_text_has_the_same_answers() -> None:
    result = CliRunner().invoke(
        app, ["fit", MODEL, "--gpu", "T4", "--recipe", "trl-qlora", "--offline"], catch_exceptions=False
    )
    assert result.exit_code == 0
    for question in ("largest micro-batch", "longest sequence", "fewest GPUs", "cheapest recomputation"):
        assert question in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--gpu H1000", "H1000"),
        ("--gpu H100 --recipe trl-lor", "^--recipe: unknown recipe 'trl-lor'.*trl-lora"),
        ("--gpu H100 --recipe megatron --tp 3", "^--tp: tp 3 does not divide the 16 heads"),
        ("--gpu H100 --recipe megatron --sequence-parallel", "^--sequence-parallel: divides by tp"),
        ("--gpu H100 --recipe huggingface --rank 8", "^--rank: has a meaning only with an adapter"),
        ("--gpu H100 --recipe megatron --recompute per_op", "^--recompute: recipe 'megatron' has no 'per_op'"),
    ],
)
def test_a_wrong_option_is_named(options: str, message: str) -> None:
    with pytest.raises(PlannerError) as caught:
        CliRunner().invoke(app, ["fit", MODEL, *options.split(), "--offline"], catch_exceptions=False)
    assert re.search(message, str(caught.value)), caught.value
