"""`planner cache`: the cache of one request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError

PEERS_ARE_WRONG = (
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-120b",
    "google/gemma-3-27b-it",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cache", *arguments, "--offline"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def records(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(*arguments, "--format", "json"))
    return found


def test_models_whose_layers_differ() -> None:
    found = {item["model"].rpartition("/")[2]: item for item in records(*PEERS_ARE_WRONG)}
    context = 131072
    # 61 layers of 512 + 64 numbers in 2 B
    assert found["DeepSeek-V3"]["request_bytes"] == 61 * 576 * 2 * context
    # 2 * 8 heads * 64 * 2 B: 18 of 36 layers keep all tokens, the others 127 behind the newest
    assert found["gpt-oss-120b"]["bytes_per_token"] == 18 * 2048
    # 10 of 62 layers keep all of them, of 16 heads of 128
    assert found["gemma-3-27b-it"]["bytes_per_token"] == 10 * 8192
    # 12 of 48 layers keep keys, of 2 heads of 256
    assert found["Qwen3-Next-80B-A3B-Instruct"]["bytes_per_token"] == 12 * 2048
    # 12 of 48 layers look at everything, the others at pieces of 8,192 tokens; 8 heads of 128
    scout = found["Llama-4-Scout-17B-16E-Instruct"]
    assert scout["bytes_per_token"] == 12 * 4096
    assert scout["request_bytes"] == 12 * 4096 * context + 36 * 4096 * 8192
    for item in found.values():
        assert sum(row["size_bytes"] for row in item["rows"]) == item["request_bytes"]
        assert item["uniform_bytes_per_token"] * context > item["request_bytes"]


def test_the_table_has_units_and_says_how_far_off_the_uniform_formula_is() -> None:
    text = run("deepseek-ai/DeepSeek-V3")
    assert "request GiB" in text
    assert "24.89x" in text  # 213.5 / 8.578


@pytest.mark.parametrize("name", ["gpt2", "t5-small", "state-spaces/mamba-130m-hf", "bert-base-uncased"])
def test_configs_with_names_of_their_own(name: str) -> None:
    (found,) = records(name, "--context", "100")
    assert found["request_bytes"] >= 0
    if name == "gpt2":
        # 2 * 12 layers * 768 * 2 B, as the uniform formula says too
        assert found["bytes_per_token"] == found["uniform_bytes_per_token"] == 36864


def test_formats_and_ranks() -> None:
    whole, eight, split = (
        records("meta-llama/Llama-3.1-8B", *options)[0]["request_bytes"]
        for options in ((), ("--kv-cache-dtype", "fp8_e4m3"), ("--tp", "4"))
    )
    assert whole == 2 * eight == 4 * split == 131072 * 131072


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpt2", "--context", "0"), "--context: must be at least 1, got 0"),
        (("gpt2", "--tp", "0"), "--tp: must be at least 1, got 0"),
        (("gpt2", "--tp", "5"), "--tp: 12 attention heads cannot be divided over 5 ranks"),
        (("gpt2", "--kv-cache-dtype", "fp9"), "--kv-cache-dtype: unknown cache format 'fp9'.*did you mean 'fp8'"),
        (("gpt2", "--kv-cache-dtype", "fp8-ds-mla"), "--kv-cache-dtype: .* stores latent"),
        (("gpt2", "--format", "jsno"), "unknown format 'jsno'"),
        (("nobody/knows",), "unknown model 'nobody/knows'"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    error = CliRunner().invoke(app, ["cache", *arguments, "--offline"]).exception
    assert isinstance(error, PlannerError), error
    with pytest.raises(PlannerError, match=message):
        raise error
