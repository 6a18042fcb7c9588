"""`planner memory --training` as users ask it: figures that agree with each other, and errors that name the option."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError

LLAMA, MIXTRAL = "meta-llama/Llama-3.1-8B", "mistralai/Mixtral-8x7B-v0.1"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--offline"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refusal(*arguments: str) -> str:
    """The one line that the program prints before it exits with 2."""
    with pytest.raises(PlannerError) as caught:
        CliRunner().invoke(app, [*arguments, "--offline"], catch_exceptions=False)
    line = str(caught.value)
    assert "\n" not in line
    return line


def record(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("memory", LLAMA, "--training", *arguments, "--format", "json"))
    return found


def test_three_figures_and_an_interval() -> None:
    found = record("--recipe", "huggingface", "--gpu", "H100", "--recompute", "full")
    # 8,030,261,248 parameters of 2 B, and 4 B of AdamW
    (stage,) = found["stages"]
    states = {row["name"]: row["size_bytes"] for row in stage["resident"]}
    assert (states["weights"], states["optimizer state"]) == (2 * 8_030_261_248, 4 * 8_030_261_248)
    assert stage["steady_bytes"] <= found["peak_bytes"] < found["reserved_bytes"] < found["device_bytes"]
    assert found["peak_low_bytes"] <= found["peak_bytes"] <= found["peak_high_bytes"]
    (gpu,) = found["gpus"]
    assert gpu["fits"] == (found["device_bytes"] <= gpu["memory_bytes"])


def test_every_stage_is_shown() -> None:
    found = record("--recipe", "megatron", "--pp", "4", "--gradient-accumulation", "8")
    assert [stage["stage"] for stage in found["stages"]] == [0, 1, 2, 3]
    assert found["peak_bytes"] == max(stage["peak_bytes"] for stage in found["stages"])


def test_weights_choose_a_precision_where_the_recipe_trains_others() -> None:
    own = record("--recipe", "megatron")
    assert record("--recipe", "megatron", "--weights", "bf16")["peak_bytes"] == own["peak_bytes"]
    assert record("--recipe", "megatron", "--weights", "fp32")["peak_bytes"] != own["peak_bytes"]


def test_what_the_real_model_cannot_do_and_what_is_left_out_is_said() -> None:
    text = " ".join(run("memory", "gpt2", "--training", "--recipe", "huggingface", "--sequence-length", "2048").split())
    assert "2,048 tokens do not fit the table of 1,024 positions" in text
    assert "hidden dropout 0.1, attention dropout 0.1" in text
    options = ("--recipe", "torchtune", "--adapter", "lora", "--target-modules", "all-linear")
    assert any("upper bound" in line for line in record(*options)["assumptions"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--recipe hugingface", "--recipe: unknown recipe 'hugingface', expected one of .*did you mean 'huggingface'"),
        ("--recipe=", "--recipe: unknown recipe ''"),
        ("--recipe megatron --tp 3", "--tp: tp 3 does not divide the 32 heads of model.layers"),
        ("--recipe megatron --tp 0", "--tp: must be at least 1, got 0"),
        ("--recipe megatron --pp 64", "--pp: 64 pipeline chunks .* for 32 layers"),
        ("--recipe megatron --vp 2", "--vp: 2 virtual stages need several pipeline stages, but pp is 1"),
        ("--recipe megatron --vp 2 --pp 4", "--vp: 2 model chunks a stage need at least as many micro-batches"),
        ("--recipe megatron --ep 2 --dp 2", "--ep: ep 2 for a model without routed experts"),
        ("--recipe megatron --cp 2 --sequence-length 2047", "--cp: a sequence of 2047 tokens is not a multiple of"),
        (
            "--recipe megatron --sequence-parallel",
            "--sequence-parallel: divides by tp what tp leaves whole, but tp is 1",
        ),
        ("--recipe huggingface --adapter lroa", "--adapter: unknown method 'lroa'.*did you mean .*'lora'"),
        (
            "--recipe huggingface --rank 8",
            "--rank: has a meaning only with an adapter, and recipe 'huggingface' has none",
        ),
        ("--recipe huggingface --adapter ia3 --rank 8", "--rank: 'ia3' has no rank"),
        ("--recipe huggingface --base-weights nf4", "--base-weights: has a meaning only with an adapter"),
        ("--recipe huggingface --adapter full --base-weights nf4", "--base-weights: .* the method 'full' freezes none"),
        ("--recipe trl-lora --target-modules q_prj", "--target-modules: .*no module of the model is 'q_prj'.*'q_proj'"),
        ("--recipe trl-lora --base-weights nf5", "--base-weights: unknown weight format 'nf5'.*did you mean 'nf4'"),
        ("--recipe litgpt --adapter dora", "--adapter: litgpt has no 'dora', expected full, lora"),
        ("--recipe megatron --recompute fll", "--recompute: unknown recomputation 'fll'.*did you mean 'full'"),
        ("--recipe megatron --recompute full:0", "--recompute: expected a number of blocks after 'full:', at least 1"),
        ("--recipe megatron --recompute per_op", "--recompute: recipe 'megatron' has no 'per_op', expected none or"),
        ("--recipe megatron --recompute selective:mpl", "--recompute: unknown part 'mpl'.*did you mean 'mlp'"),
        ("--recipe megatron --loss eagr", "--loss: unknown loss path 'eagr'.*did you mean 'eager'"),
        ("--recipe megatron --attention flsh", "--attention: unknown attention 'flsh'.*did you mean 'flash'"),
        (
            "--recipe nanotron --attention eager",
            "--attention: recipe 'nanotron' has no 'eager', expected sdpa or flash",
        ),
        ("--recipe megatron --batch-size 0", "--batch-size: must be at least 1, got 0"),
        ("--recipe megatron --sequence-length 0", "--sequence-length: must be at least 1, got 0"),
        ("--recipe megatron --batch-size 9999999999999", "--batch-size: must be at most 1,099,511,627,776"),
        ("--recipe megatron --zero 4", "--zero: must be at most 3, got 4"),
        ("--recipe megatron --gradient-accumulation 0", "--gradient-accumulation: must be at least 1"),
        ("--recipe megatron --precision fp17", "--precision: unknown precision 'fp17'"),
        ("--recipe megatron --optimizer adamww", "--optimizer: unknown optimizer 'adamww'.*did you mean 'adamw'"),
        ("--recipe megatron --weights fp32 --precision bf16", "trains parameters in bf16, not in fp32"),
    ],
)
def test_a_wrong_option_is_named(options: str, message: str) -> None:
    line = refusal("memory", LLAMA, "--training", *options.split(" "))
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--recipe megatron --ep 3 --dp 3", "--ep: ep 3 does not divide 8 experts"),
        ("--recipe megatron --ep 8", "--ep: ep 8 x 1 tensor-parallel ranks of an expert do not divide the 1 ranks"),
        ("--recipe nanotron", "--recipe: nanotron's profile covers neither routed experts nor recurrences"),
        ("--recipe litgpt", "--recipe: litgpt's profile covers neither routed experts nor recurrences"),
    ],
)
def test_a_model_that_does_not_take_an_option(options: str, message: str) -> None:
    assert refusal("memory", MIXTRAL, "--training", *options.split()).startswith(message)


def test_options_of_a_step_belong_to_training() -> None:
    assert refusal("memory", LLAMA, "--tp", "2") == "--tp has a meaning only with --training or --engine"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tp: 3", "job.yaml:4: tp: tp 3 does not divide the 32 heads"),
        ("pp: 64", "job.yaml:4: pp: 64 pipeline chunks"),
        ("vp: 2", "job.yaml:4: vp: 2 virtual stages"),
        ("rank: 8", "job.yaml:4: rank: has a meaning only with an adapter"),
        ("adapter: lora\ntarget_modules: q_prj", "job.yaml:5: target_modules: 'lora' trains nothing"),
        ("recompute: per_op", "job.yaml:4: recompute: recipe 'megatron' has no 'per_op'"),
        ("recompute: fll", "job.yaml:4: recompute: unknown recomputation 'fll'"),
        ("sequence_parallel: true", "job.yaml:4: sequence_parallel: divides by tp what tp leaves whole"),
        ("sequence_parallel: 1", "job.yaml:4: sequence_parallel: expected true or false, got 1"),
        ("batch_size: 0", "job.yaml:4: batch_size: must be at least 1, got 0"),
        ("attention: 3", "job.yaml:4: attention: expected a name, got 3"),
    ],
)
def test_a_wrong_field_of_a_scenario_is_named_with_its_line(
    lines: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(f"model: {LLAMA}\nmode: training\nrecipe: megatron\n{lines}\n", encoding="utf-8")
    assert refusal("plan", "job.yaml").startswith(message)
