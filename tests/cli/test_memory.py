import json
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError

PARAMETERS = 8_030_261_248


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["memory", "meta-llama/Llama-3.1-8B", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _record(*arguments: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_run(*arguments, "--format", "json"))
    return record


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], 2),
        (["--weights", "fp32"], 4),
        (["--training"], 16),
        (["--training", "--weights", "bf16", "--optimizer", "adamw"], 8),
        (["--training", "--precision", "megatron"], 18),
        (["--training", "--precision", "megatron", "--weights", "bf16"], 18),
        (["--training", "--weights", "fp32", "--optimizer", "sgd"], 8),
    ],
)
def test_bytes_a_parameter(arguments: list[str], expected: int) -> None:
    assert _record(*arguments)["total_bytes"] == expected * PARAMETERS


def test_rows_sum_and_say_where_they_come_from() -> None:
    record = _record("--weights", "int4")
    assert sum(row["size_bytes"] for row in record["rows"]) == record["total_bytes"]
    assert all(row["source"] for row in record["rows"])


def test_gpus_hold_it_or_not_with_their_headroom() -> None:
    by_name = {gpu["gpu"]: gpu for gpu in _record("--training")["gpus"]}
    assert len(by_name) >= 60
    h100 = by_name["H100 SXM5 80GB"]
    assert not h100["fits"]
    assert h100["headroom_bytes"] == h100["memory_bytes"] - 16 * PARAMETERS
    assert h100["min_gpus"] == 2


def test_text_has_units_in_its_headers_and_lists_gpus() -> None:
    text = _run()
    for word in ("bytes", "GiB", "bytes/parameter", "16,060,522,496", "14.958", "headroom GiB", "GPUs needed"):
        assert word in text


def test_a_named_gpu_is_shown_though_it_does_not_hold_it() -> None:
    text = _run("--gpu", "T4")
    assert "Tesla T4" in text
    assert " no " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adamw"], "--optimizer has a meaning only with --training"),
        (["--weights", "bf17"], "unknown weight format 'bf17'.*did you mean 'bf16'"),
        (["--training", "--weights", "fp32", "--precision", "megatron"], "trains parameters in bf16, not in fp32"),
        (["--training", "--weights", "nf4"], "'nf4' is a quantised format"),
        (["--gpu", "H1000"], "H1000"),
    ],
)
def test_bad_input_is_one_error(arguments: list[str], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        CliRunner().invoke(app, ["memory", "meta-llama/Llama-3.1-8B", *arguments], catch_exceptions=False)
