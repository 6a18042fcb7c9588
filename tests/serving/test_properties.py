"""What must hold for every model that an engine serves, whatever its layers keep."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.engines import find_engine
from planner.errors import PlannerError, UnsupportedError
from planner.models import Model, load_model
from planner.serving.options import ServeOptions, changed
from planner.serving.serve import Serving, query_heads, serve_on
from tests.tiny_configs import TINY, tiny_config

GIB = 2**30

KEEP_NOTHING = {
    *("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"),
    *("clip", "clip_text_model", "clip_vision_model", "siglip", "siglip_text_model", "siglip_vision_model"),
    *("dinov2", "dinov2_with_registers", "vit"),
    *("falcon_mamba", "mamba", "mamba2", "rwkv", "xlnet"),
}
"""Encoders, towers, and models whose layers keep no keys: an engine's pool of blocks is not for them."""

SERVED = sorted(set(TINY) - KEEP_NOTHING)

LARGE = (
    "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-30B-A3B",
    "google/gemma-3-27b-it",
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-20b",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "ai21labs/AI21-Jamba-1.5-Large",
)
"""Models of the catalog, one for each kind of layer."""

ENGINES = ("vllm 0.5", "vllm 0.7", "vllm 0.11", "vllm 0.19", "vllm", "sglang", "tensorrt-llm")

FLAGS = ServeOptions(max_model_len=100, max_num_seqs=8, max_num_batched_tokens=64, gpu_memory_utilization=0.9)

VALUES: dict[str, list[float]] = {
    "tensor_parallel_size": [1, 2, 3, 6],
    "max_model_len": [1, 50, 100],
    "max_num_seqs": [1, 8, 100],
    "max_num_batched_tokens": [1, 64, 5000],
    "gpu_memory_utilization": [0.1, 0.5, 1.0],
    "block_size": [1, 16, 128],
    "cpu_offload_gb": [0, 0.0001, 1],
}
"""Of each flag that may be a column."""

QUANTITIES = ("kv_pool_bytes", "kv_tokens", "concurrency", "starts", "device_bytes")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny model by its type."""
    folder = tmp_path_factory.mktemp("tiny")

    @cache
    def build(model_type: str) -> Model:
        path = folder / f"{model_type}.json"
        path.write_text(json.dumps(tiny_config(model_type)), encoding="utf-8")
        return load_model(str(path), offline=True)

    return build


@cache
def large(name: str) -> Model:
    return load_model(name, offline=True)


def ask(model: Model, memory: Any = GIB, engine: str = "vllm 0.19", **flags: Any) -> Serving:
    return serve_on(model, find_engine(engine), memory, changed(FLAGS, **flags))


def numbers(serving: Serving, shape: tuple[int, ...] = ()) -> dict[str, Any]:
    return {name: np.broadcast_to(getattr(serving, name), shape).astype(float) for name in QUANTITIES}


@pytest.mark.parametrize("model_type", sorted(KEEP_NOTHING))
def test_what_keeps_no_keys_is_refused_in_words(tiny: Any, model_type: str) -> None:
    with pytest.raises(UnsupportedError, match="model: keeps no keys"):
        ask(tiny(model_type))


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_answers_for_every_model(tiny: Any, engine: str) -> None:
    for model_type in SERVED:
        serving = ask(tiny(model_type), engine=engine)
        found = numbers(serving)
        assert all(np.isfinite(value) for value in found.values()), model_type
        for row in serving.rows:
            assert np.isfinite(float(row.size_bytes)), (model_type, row.name)
            assert row.size_bytes >= 0, (model_type, row.name)
            assert row.basis in ("exact", "modelled", "assumed")


@pytest.mark.parametrize("flag", VALUES)
@pytest.mark.parametrize("model_type", SERVED)
def test_a_column_equals_each_of_its_elements_alone(tiny: Any, model_type: str, flag: str) -> None:
    model, values = tiny(model_type), VALUES[flag]
    flags: dict[str, Any] = {flag: np.array(values, dtype=np.float64)}
    column = numbers(ask(model, **flags), (len(values),))
    heads = query_heads(model.tree)
    for at, value in enumerate(values):
        one: dict[str, Any] = {flag: value}
        if flag == "tensor_parallel_size" and heads % value:
            # alone they are refused, in a column they do not start
            with pytest.raises(PlannerError, match="heads cannot be divided"):
                ask(model, **one)
            assert column["starts"][at] == 0
            continue
        alone = numbers(ask(model, **one))
        for name in QUANTITIES:
            assert column[name][at] == pytest.approx(float(alone[name]), rel=1e-12), name


@pytest.mark.parametrize("model_type", SERVED)
def test_more_of_a_flag_leaves_less_and_more_memory_leaves_more(tiny: Any, model_type: str) -> None:
    model = tiny(model_type)
    for flag, values in (("max_num_seqs", [1, 2, 8, 64, 512]), ("max_num_batched_tokens", [1, 16, 64, 1000, 9000])):
        flags: dict[str, Any] = {flag: np.array(values, dtype=np.float64)}
        column = ask(model, **flags)
        pools = np.broadcast_to(column.kv_pool_bytes, (len(values),))
        assert np.all(np.diff(pools) <= 0), flag
    lengths = np.array([1.0, 16.0, 17.0, 64.0, 200.0])
    longer = ask(model, max_model_len=lengths)
    assert np.all(np.diff(np.broadcast_to(longer.concurrency, lengths.shape)) <= 0)
    assert np.all(np.diff(np.broadcast_to(longer.kv_tokens, lengths.shape)) <= 0)
    shares = ask(model, gpu_memory_utilization=np.array([0.1, 0.3, 0.9, 1.0]))
    assert np.all(np.diff(np.asarray(shares.kv_pool_bytes)) > 0)
    sizes = ask(model, np.array([0.1, 0.2, 0.4, 0.5, 1.0, 4.0]) * GIB)
    assert np.all(np.diff(np.asarray(sizes.starts).astype(int)) >= 0)
    assert np.all(np.diff(np.asarray(sizes.kv_tokens)) >= 0)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("engine", ["vllm 0.11", "vllm 0.19"])
def test_rows_and_pool_are_the_budget(name: str, engine: str) -> None:
    serving = ask(large(name), 79.19 * GIB, engine, max_model_len=4096)
    # all but the graphs, which lie outside of it
    total = sum(float(row.size_bytes) for row in serving.rows if row.name != "CUDA graphs")
    assert total == pytest.approx(0.9 * 79.19 * GIB, rel=1e-12)


@pytest.mark.parametrize("name", LARGE)
def test_ranks_together_hold_at_least_the_whole(name: str) -> None:
    model = large(name)

    def weights(**flags: Any) -> list[float]:
        stages = ask(model, 640 * GIB, max_model_len=4096, **flags).stages
        return [sum(float(row.size_bytes) for row in stage.rows if row.name == "weights: weights") for stage in stages]

    whole = weights()[0]
    for tp in (2, 4, 8):
        assert tp * weights(tensor_parallel_size=tp)[0] >= whole * (1 - 1e-12)
    for pp in (2, 3, 4):
        stages = weights(pipeline_parallel_size=pp)
        assert len(stages) == pp
        assert sum(stages) >= whole * (1 - 1e-12)


@pytest.mark.parametrize("name", LARGE)
def test_a_pipeline_is_as_long_as_its_fullest_stage(name: str) -> None:
    serving = ask(large(name), 160 * GIB, max_model_len=4096, pipeline_parallel_size=2, tensor_parallel_size=4)
    assert serving.kv_tokens == min(stage.tokens for stage in serving.stages)
    assert serving.concurrency == min(stage.concurrency for stage in serving.stages)
    assert serving.kv_pool_bytes == min(stage.pool_bytes for stage in serving.stages)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(LARGE),
    engine=st.sampled_from(ENGINES),
    memory=st.floats(8, 300),
    share=st.floats(0.05, 1),
    length=st.integers(1, 200_000),
    seqs=st.integers(1, 4096),
    tokens=st.integers(1, 100_000),
    tp=st.sampled_from([1, 2, 4, 8]),
    cache_dtype=st.sampled_from(["auto", "fp8"]),
    quantization=st.sampled_from([None, "fp8", "awq", "nvfp4", "bfloat16"]),
)
def test_what_starts_also_starts_with_more_memory(**flags: Any) -> None:
    name, engine, memory = flags.pop("name"), flags.pop("engine"), flags.pop("memory") * GIB
    options = {
        "gpu_memory_utilization": flags["share"],
        "max_model_len": flags["length"],
        "max_num_seqs": flags["seqs"],
        "max_num_batched_tokens": flags["tokens"],
        "tensor_parallel_size": flags["tp"],
        "kv_cache_dtype": flags["cache_dtype"],
        "quantization": flags["quantization"],
    }
    less, more = (ask(large(name), size, engine, **options) for size in (memory, memory * 1.3))
    assert more.starts or not less.starts
    assert more.kv_pool_bytes > less.kv_pool_bytes
    assert more.kv_tokens >= less.kv_tokens
    if less.starts:
        # what starts holds a request of full length, as far as the pool's own tokens say it
        assert less.concurrency >= 1
        assert less.kv_pool_bytes >= less.worst.pool.request_bytes


@pytest.mark.parametrize("name", LARGE)
def test_a_cache_in_eight_bits_never_holds_less(name: str) -> None:
    half, whole = (ask(large(name), 640 * GIB, max_model_len=4096, kv_cache_dtype=kind) for kind in ("fp8", "auto"))
    assert half.kv_tokens >= whole.kv_tokens
    assert half.kv_pool_bytes == whole.kv_pool_bytes
