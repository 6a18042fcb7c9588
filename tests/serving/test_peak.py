"""Peaks of profile runs against start-up logs of vLLM that are in the shipped measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.devices import find_device
from planner.engines import find_engine
from planner.errors import UnknownNameError, UnsupportedError
from planner.models import load_model
from planner.parallelism import Parallelism
from planner.serving.options import ServeOptions
from planner.serving.peak import has_large_workspace, is_old, shape_of
from planner.serving.serve import serve

GIB = 2**30
FLAGS: dict[str, Any] = {"max_model_len": 8192, "max_num_seqs": 1024, "max_num_batched_tokens": 8192}


def _peak(name: str, engine: str, gpu: str, stage: int = 0, **flags: Any) -> float:
    options = ServeOptions(**{**FLAGS, **flags})
    served = serve(load_model(name, offline=True), find_engine(engine), find_device(gpu), options)
    return float(served.stages[stage].peak_bytes) / GIB


@pytest.mark.parametrize(
    ("name", "engine", "gpu", "flags", "measured"),
    [
        # the sampler: natively until 0.16, in a Triton kernel since
        ("Qwen/Qwen3-14B", "vllm 0.16", "h100", {}, 5.64),
        ("Qwen/Qwen3-14B", "vllm 0.17", "h100", {}, 2.23),
        ("meta-llama/Llama-3.1-8B", "vllm 0.11", "h100", {}, 4.76),
        ("meta-llama/Llama-3.1-70B", "vllm 0.11", "h100", {"tensor_parallel_size": 2, "quantization": "fp8"}, 4.84),
        ("meta-llama/Llama-3.1-8B", "vllm 0.19", "h100", {"dtype": "float32"}, 2.21),
        ("Qwen/Qwen2.5-0.5B", "vllm 0.6.6", "t4", {"max_num_seqs": 256, "max_num_batched_tokens": 32768}, 1.44),
        # layers: a small vocabulary, a long prompt in one piece, a profile run that samples nothing
        ("codellama/CodeLlama-7b-hf", "vllm 0.19", "h100", {}, 0.77),
        (
            "meta-llama/Llama-3.1-8B",
            "vllm 0.6.4",
            "rtx-3090",
            {"max_num_seqs": 256, "max_num_batched_tokens": 29000, "max_model_len": 29000},
            2.99,
        ),
        (
            "meta-llama/Llama-3.1-8B",
            "vllm 0.7.3",
            "a10",
            {"max_num_seqs": 256, "max_num_batched_tokens": 2048, "max_model_len": 131072},
            0.22,
        ),
        # experts: a workspace that stays since 0.12, and none for MXFP4
        ("mistralai/Mixtral-8x7B-v0.1", "vllm 0.19", "h100", {"tensor_parallel_size": 2}, 1.21),
        ("Qwen/Qwen3-30B-A3B", "vllm 0.19", "h100", {}, 2.68),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "vllm 0.10.2", "h200", {"tensor_parallel_size": 2}, 5.58),
        ("openai/gpt-oss-20b", "vllm 0.19", "h100", {"quantization": "mxfp4"}, 2.87),
        ("openai/gpt-oss-20b", "vllm 0.11", "h100", {"quantization": "mxfp4"}, 7.38),
        # images beside the text
        ("google/gemma-3-27b-it", "vllm 0.19", "h100", {}, 3.99),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "vllm 0.19", "h100", {"tensor_parallel_size": 4}, 3.19),
    ],
)
def test_peaks_that_vllm_logged(name: str, engine: str, gpu: str, flags: dict[str, Any], measured: float) -> None:
    assert _peak(name, engine, gpu, **flags) == pytest.approx(measured, abs=0.013)


def test_only_the_last_stage_samples_and_the_others_pass_states_on() -> None:
    # vLLM 0.19: 1.10 GiB on the first of two stages, 1.05 on one in the middle of four
    name = "meta-llama/Llama-3.1-8B"
    assert _peak(name, "vllm 0.19", "h100", 0, pipeline_parallel_size=2) == pytest.approx(1.10, abs=0.013)
    assert _peak(name, "vllm 0.19", "h100", 1, pipeline_parallel_size=4) == pytest.approx(1.05, abs=0.013)
    alone = _peak(name, "vllm 0.19", "h100")
    # what arrives stays beside what is sampled: 2 * 8192 * 4096 * 2 B = 0.125 GiB
    assert _peak(name, "vllm 0.19", "h100", 3, pipeline_parallel_size=4) == alone + 0.125


def test_the_peak_does_not_depend_on_the_longest_request_or_on_ranks_where_the_sampler_leads() -> None:
    name = "meta-llama/Llama-3.1-8B"
    peaks = {_peak(name, "vllm 0.19", "h100", max_model_len=length) for length in (2048, 8192, 32768)}
    ranks = {_peak(name, "vllm 0.19", "h100", tensor_parallel_size=tp) for tp in (1, 2, 4)}
    assert peaks == ranks == {_peak(name, "vllm 0.19", "h100")}


def test_the_peak_grows_with_sequences_and_tokens() -> None:
    column = np.array([1.0, 64.0, 512.0, 4096.0])
    model, engine, device = load_model("Qwen/Qwen3-8B", offline=True), find_engine("vllm 0.19"), find_device("h100")
    for flag in ("max_num_seqs", "max_num_batched_tokens"):
        options = ServeOptions(**{**FLAGS, flag: column})
        peaks = np.asarray(serve(model, engine, device, options).stages[0].peak_bytes)
        assert (np.diff(peaks) >= 0).all()
        assert peaks[-1] > peaks[0]


def test_the_shape_of_a_model() -> None:
    shape = shape_of(load_model("deepseek-ai/DeepSeek-V3", offline=True).tree, Parallelism(tp=8))
    assert (shape.hidden, shape.vocabulary) == (7168, 129280)
    assert (shape.up, shape.inner) == (2 * 18432 // 8, 18432 // 8)
    assert (shape.first_width, shape.expert_inner, shape.top_k) == (2 * 2048 // 8, 2048 // 8, 8)
    assert (shape.heads, shape.nope, shape.value, shape.latent, shape.rope) == (16, 128, 128, 512, 64)
    image = shape_of(load_model("google/gemma-3-27b-it", offline=True).tree, Parallelism())
    assert (image.image_tokens, image.image_pixels) == (256, 3 * 896 * 896)
    plain = shape_of(load_model("openai-community/gpt2", offline=True).tree, Parallelism())
    assert (plain.up, plain.inner, plain.vocabulary) == (3072, 3072, 50304)


def test_architectures() -> None:
    assert is_old(find_device("a100 80gb"))
    assert is_old(find_device("l40s"))
    assert not is_old(find_device("h100"))
    assert not is_old(None)
    assert has_large_workspace(find_device("b200"))
    assert not has_large_workspace(find_device("rtx-5090"))


def test_a_model_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="keeps no keys of the tokens that it sees"):
        serve(load_model("google-bert/bert-base-uncased", offline=True), find_engine("vllm"), find_device("h100"))


def test_a_config_that_does_not_say_how_it_is_stored_asks_for_it() -> None:
    model = load_model("deepseek-ai/DeepSeek-V4-Flash", offline=True)
    if model.raw.get("expert_dtype") != "fp4":
        model = load_model("deepseek-ai/DeepSeek-V4-Flash", offline=True, overrides={"expert_dtype": "fp4"})
    with pytest.raises(UnknownNameError, match="quantization: is needed: the config stores experts in fp4"):
        serve(model, find_engine("vllm"), find_device("b300"))
    assert serve(model, find_engine("vllm"), find_device("b300"), ServeOptions(quantization="mxfp4")).kv_tokens > 0
