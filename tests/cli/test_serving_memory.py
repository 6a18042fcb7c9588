"""`planner memory --engine` and `planner fit --engine`: what users type, and what they read."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError

LLAMA = "meta-llama/Llama-3.1-8B"


def run(command: str) -> str:
    result = CliRunner().invoke(app, [*shlex.split(command), "--offline"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def record(command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(f"{command} --format json"))
    return found


def refusal(command: str) -> PlannerError:
    """The one line that `main` prints, with exit status 2."""
    error = CliRunner().invoke(app, [*shlex.split(command), "--offline"]).exception
    assert isinstance(error, PlannerError), error
    assert "\n" not in str(error)
    return error


SERVED = f"memory {LLAMA} --engine 'vllm 0.19' --gpu 'H100 80GB'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--engine vlm --gpu h100", r"--engine: unknown engine 'vlm', expected one of .*did you mean 'vllm'"),
        ("--engine 'vllm 0.y' --gpu h100", r"--engine: '0.y' is no version of vllm, expected one such as 0.19"),
        ("--engine 'vllm newest' --gpu h100", r"--engine: 'newest' is no version of vllm"),
        ("--engine vllm", r"--gpu: is needed"),
        ("--engine vllm --gpu h1000", r"unknown accelerator 'h1000'"),
        ("--engine vllm --gpu h100 --kv-cache-dtype fp9", r"--kv-cache-dtype: unknown cache format 'fp9'.*'fp8'"),
        ("--engine vllm --gpu h100 --kv-cache-dtype fp8_ds_mla", r"--kv-cache-dtype: .* stores latent .* no keys"),
        ("--engine vllm --gpu h100 --quantization awqq", r"--quantization: unknown quantization.*did you mean 'awq'"),
        ("--engine vllm --gpu h100 --quantization q4_k_m", r"--quantization: .*did you mean 'gguf-q4_k_m'"),
        ("--engine llama.cpp --gpu h100 --quantization q4_km", r"--quantization: .*did you mean .*q4_k_m"),
        ("--engine llama.cpp --gpu h100 --quantization awq", r"--quantization: 'awq' is no type of a GGUF file"),
        ("--engine vllm --gpu h100 --tp 3", r"--tp: 32 attention heads .* over 3 ranks \(it can be 1, 2, 4, 8"),
        ("--engine vllm --gpu h100 --pp 33", r"--pp: 32 layers cannot be divided over 33 stages"),
        ("--engine vllm --gpu h100 --ep 2", r"--ep: has no meaning with an engine.*enable_expert_parallel"),
        ("--engine vllm --gpu h100 --tp 0", r"--tp: must be at least 1, got 0"),
        ("--engine vllm --gpu h100 --gpu-memory-utilization 0", r"--gpu-memory-utilization: must be above 0, got 0"),
        ("--engine vllm --gpu h100 --gpu-memory-utilization 1.5", r"--gpu-memory-utilization: must be at most 1.0"),
        ("--engine vllm --gpu h100 --gpu-memory-utilization nan", r"--gpu-memory-utilization: expected a number"),
        ("--engine vllm --gpu h100 --max-model-len 0", r"--max-model-len: must be at least 1, got 0"),
        ("--engine vllm --gpu h100 --training", r"--engine: serves a trained model, and --training is given too"),
        ("--engine vllm --gpu h100 --recipe huggingface", r"--recipe: has no meaning with --engine"),
        ("--engine vllm --gpu h100 --dp 2", r"--dp: has no meaning with --engine"),
        ("--engine vllm --gpu h100 --batch-size 2", r"--batch-size: has no meaning with vllm"),
        ("--engine vllm --gpu h100 --n-gpu-layers 2", r"--n-gpu-layers: has no meaning with vllm"),
        ("--engine llama.cpp --gpu h100 --max-num-seqs 2", r"--max-num-seqs: has no meaning with llama.cpp"),
        ("--engine transformers --gpu h100 --kv-cache-dtype fp8", r"--kv-cache-dtype: .*with transformers"),
        ("--max-num-seqs 2", r"--max-num-seqs has a meaning only with --training or --engine"),
    ],
)
def test_mistakes_are_one_line_that_names_the_option(options: str, message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        raise refusal(f"memory {LLAMA} {options}")


def test_a_model_without_keys_is_refused() -> None:
    with pytest.raises(PlannerError, match="model: keeps no keys of the tokens that it sees"):
        raise refusal("memory bert-base-uncased --engine vllm --gpu h100")


def test_rows_sum_to_the_total_and_every_figure_has_its_unit() -> None:
    for options in ("", "--max-model-len 100000 --gpu-memory-utilization 0.2", "--pp 2", "--tp 4 --enforce-eager"):
        found = record(f"{SERVED} {options}")
        # pp: the stage that is shown has fewest tokens, and need not hold most
        assert sum(row["size_bytes"] for row in found["rows"]) <= found["device_bytes"] * (1 + 1e-12)
        if "--pp" not in options:
            assert sum(row["size_bytes"] for row in found["rows"]) == pytest.approx(found["device_bytes"])
        assert all(row["size_bytes"] >= 0 and row["basis"] for row in found["rows"])
    text = run(SERVED)
    assert "memory" in text
    assert "bytes" in text
    assert "KV cache pool, GiB" in text
    assert "requests of 131,072 tokens" in text
    assert text.rstrip().endswith("starts")


def test_what_was_filled_in_is_said() -> None:
    text = run(SERVED)
    for line in (
        "what the config allows: max_model_len 131,072",
        "the engine's default: max_num_seqs 1,024",
        "the engine's default: max_num_batched_tokens 8,192",
        "the engine's default: block_size 16",
        "the engine's default: gpu_memory_utilization 0.9",
        "of 39 measured pools of vllm 0.17-0.20",
    ):
        assert line in text
    stated = run(f"{SERVED} --max-model-len 4096 --max-num-seqs 8")
    assert "max_model_len 131,072" not in stated
    assert "default: max_num_seqs" not in stated


def test_a_length_beyond_the_positions_is_refused_as_the_engine_does() -> None:
    found = record(f"{SERVED} --max-model-len 200000")
    assert not found["starts"]
    assert found["reasons"] == [
        "max_model_len 200,000 is beyond the 131,072 positions of the model, which vllm refuses"
    ]
    assert [item["flags"] for item in found["suggestions"]] == ["--max-model-len 131072"]


@pytest.mark.parametrize(
    "command",
    [
        f"memory {LLAMA} --engine 'vllm 0.19' --gpu l4",
        "memory meta-llama/Llama-3.1-70B --engine 'vllm 0.19' --gpu h100 --max-model-len 16000",
        "memory Qwen/Qwen3-32B --engine 'vllm 0.11' --gpu h100",
        f"memory {LLAMA} --engine 'vllm 0.19' --gpu t4 --max-model-len 8192",
        "memory google/gemma-3-27b-it --engine sglang --gpu l40s",
        f"memory {LLAMA} --engine tensorrt-llm --gpu l4",
    ],
)
def test_flags_that_are_suggested_make_it_start_when_they_are_typed(command: str) -> None:
    found = record(command)
    assert not found["starts"]
    assert found["reasons"]
    assert found["suggestions"]
    own = {"--tensor-parallel-size": "--tp", "--mem-fraction-static": "--gpu-memory-utilization"}
    own["--kv_cache_free_gpu_memory_fraction"] = "--gpu-memory-utilization"
    for item in found["suggestions"]:
        flags = " ".join(own.get(word, word) for word in item["flags"].split())
        plain = command
        for flag in flags.split()[::2]:  # the same flag is not typed twice
            words = plain.split()
            if flag in words:
                at = words.index(flag)
                plain = " ".join(words[:at] + words[at + 2 :])
        again = record(f"{plain} {flags}")
        assert again["starts"], flags
        assert again["device_bytes"] <= again["gpu_memory_bytes"], flags


def test_llama_cpp_says_what_lies_where() -> None:
    command = f"memory {LLAMA} --engine llama.cpp --gpu rtx-4090 --quantization q4_k_m --max-model-len 8192"
    text = run(command)
    assert "on the host" in text
    assert "fits: GeForce RTX 4090 has" in text
    whole, part = (record(f"{command} {layers}") for layers in ("", "--n-gpu-layers 16"))
    assert part["device_bytes"] < whole["device_bytes"]
    assert sum(row["size_bytes"] for row in part["host"]) > sum(row["size_bytes"] for row in whole["host"])


def test_transformers_says_what_generate_holds() -> None:
    found = record(f"memory {LLAMA} --engine transformers --gpu h100 --batch-size 4 --sequence-length 1000")
    rows = {row["name"]: row["size_bytes"] for row in found["rows"]}
    # 2 * 32 layers * 8 heads * 128 * 2 B, for 1000 + 128 tokens of 4 samples
    assert rows["cache: full"] == 131072 * 1128 * 4
    assert sum(rows.values()) == found["device_bytes"]


def test_images_of_any_size_are_warned_of() -> None:
    text = run("memory Qwen/Qwen2.5-VL-7B-Instruct --engine 'vllm 0.19' --gpu h100")
    assert "warning: the profile run encodes the largest image" in text
    assert "largest image" not in run(SERVED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--engine vlm --gpu l4", r"--engine: unknown engine 'vlm'"),
        ("--engine vllm --gpu l4 --tp 3", r"--tp: 32 attention heads cannot be divided over 3 ranks"),
        ("--engine llama.cpp --gpu l4", r"--engine: llama.cpp has no pool .*planner memory"),
        ("--engine transformers --gpu l4", r"--engine: transformers has no pool"),
        ("--engine vllm --gpu l4 --recipe huggingface", r"--recipe: has no meaning with --engine"),
        ("--engine vllm --gpu l4 --n-gpu-layers 3", r"--n-gpu-layers: has no meaning with vllm"),
        ("--engine vllm --gpu l4 --kv-cache-dtype fp9", r"--kv-cache-dtype: unknown cache format"),
    ],
)
def test_mistakes_of_fit(options: str, message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        raise refusal(f"fit {LLAMA} {options}")


def test_fit_answers_are_those_of_memory() -> None:
    asked = record(f"fit {LLAMA} --engine 'vllm 0.19' --gpu l4 --max-num-seqs 64")
    answers = {item["question"]: item for item in asked["answers"]}
    longest = answers["longest context"]["answer"]
    command = f"memory {LLAMA} --engine 'vllm 0.19' --gpu l4 --max-num-seqs 64"
    assert record(f"{command} --max-model-len {longest}")["starts"]
    assert not record(f"{command} --max-model-len {longest + 16}")["starts"]
    ranks = answers["fewest GPUs of this kind (tp)"]["answer"]
    assert record(f"{command} --tp {ranks}")["starts"]
    assert not record(f"{command} --tp {ranks // 2}")["starts"]
    smallest = answers["smallest GPU"]["answer"]
    assert record(f"memory {LLAMA} --engine 'vllm 0.19' --gpu '{smallest}' --max-num-seqs 64")["starts"]


def test_a_plan_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    for text, message in (
        (
            "model: gpt2\nmode: training\nengine: vllm\ngpu: l4\n",
            r"one.yaml:3: engine: is an inference engine, but mode",
        ),
        ("model: gpt2\nengine: vllm\n", r"one.yaml:2: engine: needs a gpu"),
        ("model: gpt2\ngpu: l4\nengine: vllm\ntp: 5\n", r"one.yaml:4: tp: 12 attention heads cannot be divided"),
        ("model: gpt2\ngpu: l4\nengine: vllm\nquantization: fp5\n", r"one.yaml:4: quantization: unknown quant.*'fp8'"),
        ("model: gpt2\ngpu: l4\nengine: vllm\ngpu_memory_utilization: 0\n", r"one.yaml:4: gpu_memory_ut.*above 0"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(PlannerError, match=message):
            raise refusal(f"plan {path}")
    path.write_text("model: gpt2\ngpu: l4\nengine: vllm\nn_gpu_layers: 3\n", encoding="utf-8")
    assert "assumed: n_gpu_layers = 3: not read by vllm" in run(f"plan {path}")
