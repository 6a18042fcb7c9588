"""Figures of start-up logs whose version and layout are stated, and that are not among the shipped measurements."""

from __future__ import annotations

from typing import Any

import pytest

from planner.devices import find_device
from planner.engines import find_engine
from planner.models import load_model
from planner.serving.options import ServeOptions
from planner.serving.serve import Serving, serve

GIB = 2**30


def started(name: str, engine: str, gpu: str, **flags: Any) -> Serving:
    return serve(load_model(name, offline=True), find_engine(engine), find_device(gpu), ServeOptions(**flags))


def test_gpt_oss_120b_on_one_h100_with_its_first_kernels() -> None:
    # vLLM 0.10.1 on an H100: weights of 65.97 GiB as Marlin pads them, -2.14 GiB remain, and it does not start
    serving = started("openai/gpt-oss-120b", "vllm 0.10.1", "h100", quantization="mxfp4")
    assert serving.worst.weights_bytes / GIB == pytest.approx(65.97, rel=0.001)
    assert serving.kv_pool_bytes / GIB == pytest.approx(-2.14, abs=0.1)
    assert not serving.starts


def test_deepseek_r1_with_the_first_kernels_of_latent_attention() -> None:
    # vLLM 0.7.3 on 8 H200s: 83.88 GiB, of which the tensors are 79.55; products of projections are kept beside them
    flags: dict[str, Any] = {"quantization": "fp8-block128", "tensor_parallel_size": 8}
    old = started("deepseek-ai/DeepSeek-R1", "vllm 0.7.3", "h200", **flags)
    assert old.worst.weights_bytes / GIB == pytest.approx(83.88, rel=0.01)
    # rows of 640 numbers for latents of 576: + 11.1 % for each token
    new = started("deepseek-ai/DeepSeek-R1", "vllm 0.8", "h200", **flags)
    assert old.worst.pool.slot_bytes / new.worst.pool.slot_bytes == pytest.approx(640 / 576)
