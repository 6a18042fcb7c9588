"""Pools, defaults and verdicts of single questions, and the same on columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from planner.counts import held_tensors
from planner.devices import find_device
from planner.engines import find_engine
from planner.errors import PlannerError
from planner.models import load_model
from planner.nodes import walk
from planner.serving.ask import best_format, fewest_ranks, longest_context, most_requests, smallest_device
from planner.serving.options import ServeOptions, changed
from planner.serving.serve import Serving, serve, serve_on
from planner.serving.verdict import Verdict, verdict

GIB = 2**30
LLAMA = "meta-llama/Llama-3.1-8B"
FLAGS: dict[str, Any] = {
    "gpu_memory_utilization": 0.95,
    "max_model_len": 8192,
    "max_num_seqs": 1024,
    "max_num_batched_tokens": 8192,
}
"""Those of the runs of vLLM 0.19 on H100s of 79.19 GiB among the shipped measurements."""


def _serve(name: str, engine: str = "vllm 0.19", memory: float = 79.19 * GIB, **flags: Any) -> Serving:
    options = ServeOptions(**{**FLAGS, **flags})
    return serve_on(load_model(name, offline=True), find_engine(engine), memory, options, device=find_device("h100"))


@pytest.mark.parametrize(
    ("name", "flags", "pool", "tokens"),
    [
        (LLAMA, {}, 58.11, 476016),
        (LLAMA, {"kv_cache_dtype": "fp8"}, 58.11, 952032),
        (LLAMA, {"dtype": "float32", "kv_cache_dtype": "float32"}, 42.8, 175296),
        (LLAMA, {"tensor_parallel_size": 4}, 67.44, 2209792),
        ("google/gemma-3-27b-it", {}, 19.53, 36560),
        ("mistralai/Mixtral-8x7B-v0.1", {"tensor_parallel_size": 2}, 28.44, 465936),
        ("deepseek-ai/DeepSeek-V2-Lite", {}, 43.61, 1505552),
        ("Qwen/Qwen3-30B-A3B", {}, 15.41, 168288),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", {"tensor_parallel_size": 4}, 16.75, 365968),
        ("openai/gpt-oss-20b", {"quantization": "mxfp4"}, 58.47, 1277184),
    ],
)
def test_pools_that_vllm_logged(name: str, flags: dict[str, Any], pool: float, tokens: int) -> None:
    serving = _serve(name, **flags)
    assert serving.kv_pool_bytes / GIB == pytest.approx(pool, abs=0.1)
    assert serving.kv_tokens == pytest.approx(tokens, rel=0.005)
    # what a token takes is exact: bytes over tokens, as far as two decimals of the log say
    printed = pool * GIB / tokens
    assert serving.worst.pool.slot_bytes == pytest.approx(printed, rel=0.006 / pool + 16 / tokens)


def test_concurrency_counts_windows_with_the_tokens_of_a_step() -> None:
    # gpt-oss-120b on 4 ranks at 16,384 tokens, steps of 2,048: half of the layers keep 127 + 2048 tokens, in blocks
    serving = _serve(
        "openai/gpt-oss-120b",
        quantization="mxfp4",
        tensor_parallel_size=4,
        max_model_len=16384,
        max_num_batched_tokens=2048,
    )
    full = 16384 * 18 * 512 * 2
    assert serving.worst.pool.request_bytes == full / 2 + 18 * 512 * (127 + 2048)
    assert serving.worst.pool.slot_bytes * 16384 / serving.worst.pool.request_bytes == pytest.approx(1.766, abs=0.01)


def test_states_share_the_pool_in_blocks_as_large_as_they_are() -> None:
    # Qwen3-Next-80B on 2 H200s with vLLM 0.10.2: blocks of 544 tokens, 973,760 slots in 44.59 GiB
    serving = _serve("Qwen/Qwen3-Next-80B-A3B-Instruct", "vllm 0.10.2", tensor_parallel_size=2)
    pool = serving.worst.pool
    assert pool.block_size == 544
    assert 44.59 * GIB / pool.slot_bytes == pytest.approx(973760, rel=0.001)


def test_a_pipeline_holds_as_many_tokens_as_its_fullest_stage() -> None:
    serving = _serve(LLAMA, pipeline_parallel_size=2)
    tokens = [stage.tokens for stage in serving.stages]
    # the last stage samples: vLLM logged 66.54 GiB on the first, and 1,075,312 tokens for both
    assert serving.kv_tokens == min(tokens) == tokens[1] < tokens[0]
    assert serving.stages[0].pool_bytes / GIB == pytest.approx(66.54, abs=0.1)
    # it holds what the first stage handed to it as well: 2 * 8192 tokens * 4096 * 2 B = 0.125 GiB
    assert serving.kv_tokens == pytest.approx(1_075_312, rel=0.0002)
    assert _serve(LLAMA, pipeline_parallel_size=4).kv_tokens == pytest.approx(2_257_264, rel=0.0002)
    alone = _serve(LLAMA).worst.peak_bytes
    assert serving.stages[1].peak_bytes - alone == 2 * 8192 * 4096 * 2


def test_defaults_follow_version_and_device() -> None:
    model = load_model(LLAMA, offline=True)

    def limits(engine: str, gpu: str) -> tuple[Any, ...]:
        found = serve(model, find_engine(engine), find_device(gpu)).limits
        return found.max_num_seqs, found.max_num_batched_tokens, found.gpu_memory_utilization

    assert limits("vllm 0.19", "h100") == (1024, 8192, 0.9)
    assert limits("vllm 0.19", "l40s") == (256, 2048, 0.9)
    assert limits("vllm 0.19", "a100 80gb") == (256, 2048, 0.9)
    assert limits("vllm", "h100") == (1024, 8192, 0.92)
    assert limits("vllm 0.6", "a10") == (256, 2048, 0.9)
    # whole prompts up to 32768 tokens in V0
    short = serve(model, find_engine("vllm 0.6"), find_device("a10"), ServeOptions(max_model_len=20000)).limits
    assert short.max_num_batched_tokens == 20000


def test_the_budget_is_a_share_of_what_the_engine_says() -> None:
    model = load_model("Qwen/Qwen2.5-7B", offline=True)
    options = ServeOptions(gpu_memory_utilization=0.88)
    served = serve_on(model, find_engine("sglang 0.4"), 23.69 * GIB, options, device=find_device("rtx-3090"))
    stage = served.stages[0]
    # (total - what is not free before) * share - weights; the log: 22.76 * 0.88 - 14.39 = 5.64 GiB
    assert stage.pool_bytes == (23.69 * GIB - stage.non_torch_bytes) * 0.88 - stage.weights_bytes
    assert stage.pool_bytes / GIB == pytest.approx(5.64, abs=0.12)
    rest = serve_on(model, find_engine("tensorrt-llm"), 80 * GIB, options).stages[0]
    assert rest.pool_bytes == pytest.approx(0.88 * (80 * GIB - rest.weights_bytes - rest.non_torch_bytes))


def test_graphs_lie_outside_of_the_budget() -> None:
    eager, captured = _serve(LLAMA, enforce_eager=True), _serve(LLAMA)
    assert eager.kv_pool_bytes == captured.kv_pool_bytes
    assert eager.worst.graph_bytes == 0
    assert captured.device_bytes - eager.device_bytes == pytest.approx(captured.worst.graph_bytes)
    assert captured.worst.graph_bytes / GIB == pytest.approx(0.91, abs=0.05)


def test_rows_sum_to_the_budget() -> None:
    serving = _serve(LLAMA)
    total = sum(row.size_bytes for row in serving.rows if row.name != "CUDA graphs")
    assert total == pytest.approx(0.95 * 79.19 * GIB)
    assert all(row.source for row in serving.rows)


def test_a_stated_pool_is_taken_as_it_is() -> None:
    assert _serve(LLAMA, kv_cache_memory_bytes=GIB).kv_tokens == GIB // 131072


def _verdict(name: str, engine: str, gpu: str, **flags: Any) -> tuple[Serving, Verdict]:
    model, found, device = load_model(name, offline=True), find_engine(engine), find_device(gpu)
    options = ServeOptions(**flags)
    serving = serve(model, found, device, options)
    return serving, verdict(model, found, device.memory_bytes, options, serving, device)


def test_too_long_a_request_is_refused_with_the_longest_that_fits() -> None:
    # Llama-3.1-8B on an A10 with vLLM 0.7: 37,696 tokens, and a request of 131,072
    serving, found = _verdict(LLAMA, "vllm 0.7.3", "a10", max_model_len=131072, max_num_batched_tokens=2048)
    assert not found.starts
    assert "one request of max_model_len 131,072 needs 16.000 GiB of cache" in found.reasons[0]
    flags = [item.flags for item in found.suggestions]
    assert flags[0] == f"--max-model-len {int(serving.kv_tokens)}"
    assert serving.kv_tokens == pytest.approx(37696, rel=0.02)
    assert "--tensor-parallel-size 2" in flags


def test_weights_that_leave_nothing_are_said_with_what_is_missing() -> None:
    # Llama-3.3-70B-FP8 on one H100 with vLLM 0.11: -1.44 GiB remain
    serving, found = _verdict("meta-llama/Llama-3.1-70B", "vllm 0.11", "h100", quantization="fp8", max_model_len=16000)
    assert serving.kv_pool_bytes / GIB == pytest.approx(-1.44, abs=0.05)
    assert "GiB more than gpu_memory_utilization 0.9 of 79.188 GiB allows" in found.reasons[0]


def test_every_suggestion_starts() -> None:
    for case in (
        (LLAMA, "vllm 0.19", "rtx-4090", {}),
        ("meta-llama/Llama-3.1-70B", "vllm 0.19", "h100", {"max_model_len": 16000}),
        ("Qwen/Qwen3-32B", "vllm 0.11", "h100", {"max_model_len": 32768}),
        ("openai/gpt-oss-120b", "vllm 0.11", "h100", {"quantization": "mxfp4"}),
    ):
        name, engine, gpu, flags = case
        _, found = _verdict(name, engine, gpu, **flags)
        assert not found.starts
        assert found.suggestions
        for item in found.suggestions:
            again = serve(load_model(name, offline=True), find_engine(engine), find_device(gpu), item.options)
            assert again.starts
            assert again.device_bytes <= find_device(gpu).memory_bytes


def test_combinations_are_tried_where_no_single_change_is_enough() -> None:
    _, found = _verdict("meta-llama/Llama-3.1-8B", "vllm 0.19", "t4", max_model_len=8192, tensor_parallel_size=1)
    assert not found.starts
    assert found.suggestions


def test_what_starts_has_no_reasons() -> None:
    _, found = _verdict(LLAMA, "vllm 0.19", "h100", max_model_len=8192)
    assert found.starts
    assert not found.reasons
    assert not found.suggestions
    assert not found.warnings


def test_a_share_that_leaves_graphs_no_room_is_warned_of() -> None:
    _, found = _verdict(LLAMA, "vllm 0.19", "h100", max_model_len=8192, gpu_memory_utilization=1.0)
    assert found.starts
    assert "graphs lie outside of the budget" in found.warnings[0]


def test_heads_must_divide() -> None:
    with pytest.raises(PlannerError, match="32 attention heads cannot be divided over 3 ranks .*1, 2, 4, 8, 16, 32"):
        _serve(LLAMA, tensor_parallel_size=3)


def test_ranks_of_a_column_that_do_not_divide_the_heads_do_not_start() -> None:
    served = _serve(LLAMA, tensor_parallel_size=np.array([1.0, 3.0, 4.0, 5.0]))
    assert list(served.starts) == [True, False, True, False]


@pytest.mark.parametrize("name", ["tensor_parallel_size", "max_model_len", "max_num_seqs", "block_size"])
def test_nought_is_refused(name: str) -> None:
    with pytest.raises(PlannerError, match=f"{name}: must be at least 1"):
        changed(ServeOptions(), **{name: 0})


@pytest.mark.parametrize("share", [0, 1.01, -0.5])
def test_a_share_is_one(share: float) -> None:
    with pytest.raises(PlannerError, match="gpu_memory_utilization: must be above 0 and at most 1"):
        ServeOptions(gpu_memory_utilization=share)


@pytest.mark.parametrize("name", [LLAMA, "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V2-Lite", "google/gemma-3-27b-it"])
@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("tensor_parallel_size", [1, 2, 4, 8]),
        ("max_model_len", [1000, 8192, 100_000]),
        ("max_num_seqs", [1, 16, 300, 1024]),
        ("max_num_batched_tokens", [512, 8192, 65536]),
        ("gpu_memory_utilization", [0.5, 0.9, 0.97]),
        ("cpu_offload_gb", [2, 4]),
    ],
)
def test_columns_equal_numbers(name: str, flag: str, values: list[float]) -> None:
    varied: list[Any] = [np.array(values, dtype=np.float64), *values]
    column, *alone = (_serve(name, "vllm 0.19", 79.19 * GIB, **{flag: value}) for value in varied)
    shape = (len(values),)
    for quantity in ("kv_pool_bytes", "kv_tokens", "concurrency", "starts"):
        found = np.broadcast_to(getattr(column, quantity), shape)
        np.testing.assert_allclose(found.astype(float), [float(getattr(item, quantity)) for item in alone], rtol=1e-12)
    for rows in zip(column.stages[0].rows, *(item.stages[0].rows for item in alone), strict=True):
        found = np.broadcast_to(rows[0].size_bytes, shape)
        np.testing.assert_allclose(found, [row.size_bytes for row in rows[1:]], rtol=1e-12)


def test_the_longest_context_starts_and_one_block_more_does_not() -> None:
    model, engine, device = load_model(LLAMA, offline=True), find_engine("vllm 0.19"), find_device("rtx-4090")
    found = longest_context(model, engine, device.memory_bytes, ServeOptions(), device)
    assert isinstance(found.value, int)
    for length, starts in ((found.value, True), (found.value + 16, False)):
        assert bool(serve(model, engine, device, ServeOptions(max_model_len=length)).starts) is starts


def test_the_most_requests_are_those_that_the_pool_holds() -> None:
    model, engine, device = load_model(LLAMA, offline=True), find_engine("vllm 0.19"), find_device("h100")
    options = ServeOptions(max_model_len=8192)
    found = most_requests(model, engine, device.memory_bytes, options, device)
    assert isinstance(found.value, int)
    assert found.serving is not None
    assert found.serving.concurrency >= found.value
    more = serve(model, engine, device, ServeOptions(max_model_len=8192, max_num_seqs=found.value + 1))
    assert more.concurrency < found.value + 1


def test_fewest_ranks_smallest_device_and_best_format() -> None:
    model, engine, device = (
        load_model("meta-llama/Llama-3.1-70B", offline=True),
        find_engine("vllm 0.19"),
        find_device("h100"),
    )
    options = ServeOptions(max_model_len=8192)
    assert fewest_ranks(model, engine, device.memory_bytes, options, device).value == 2
    two = ServeOptions(max_model_len=8192, tensor_parallel_size=2)
    assert best_format(model, engine, device.memory_bytes, two, device).value == "bf16"
    assert best_format(model, engine, device.memory_bytes, options, device).value == "nvfp4"
    found = smallest_device(model, engine, options, [find_device(name) for name in ("mi300x", "h200", "h100", "t4")])
    assert found.value == "Instinct MI300X"
    assert longest_context(model, engine, 10 * GIB, options, device).value is None


def test_a_length_beyond_the_positions_does_not_start() -> None:
    # Llama-3.1-8B has 131,072 positions; a B200 holds far more tokens
    serving, found = _verdict(LLAMA, "vllm 0.19", "b200", max_model_len=131_088)
    assert serving.concurrency > 1
    assert not found.starts
    assert found.reasons == ("max_model_len 131,088 is beyond the 131,072 positions of the model, which vllm refuses",)
    assert [item.flags for item in found.suggestions] == ["--max-model-len 131072"]
    column = _serve(LLAMA, max_model_len=np.array([131_072.0, 131_088.0]))
    assert list(column.starts) == [True, False]


def test_trt_llm_takes_longer_requests_than_the_positions() -> None:
    assert _serve(LLAMA, "tensorrt-llm", 180 * GIB, max_model_len=140_000).starts


def test_stages_need_a_layer_each() -> None:
    with pytest.raises(PlannerError, match="pipeline_parallel_size: 32 layers cannot be divided over 33 stages"):
        _serve(LLAMA, pipeline_parallel_size=33)


def test_what_does_not_fit_needs_more_than_the_device_has() -> None:
    serving = _serve("meta-llama/Llama-3.1-70B")
    assert serving.kv_pool_bytes < 0
    # 131.4 GiB of weights alone: no pool makes it less
    assert serving.device_bytes > 131 * GIB
    rows = {row.name: row.size_bytes for row in serving.device_rows}
    assert rows["pool: keys, values and states"] == 0
    assert sum(rows.values()) == pytest.approx(serving.device_bytes)


def test_the_device_holds_the_context_beside_the_budget() -> None:
    serving = _serve(LLAMA)
    assert sum(row.size_bytes for row in serving.device_rows) == pytest.approx(serving.device_bytes)
    assert serving.device_rows[-1].name == "CUDA context"


def test_where_a_length_comes_from_is_said() -> None:
    engine, memory = find_engine("vllm 0.19"), 79.19 * GIB
    own = serve_on(load_model(LLAMA, offline=True), engine, memory).limits
    assert own.assumptions[0] == "what the config allows: max_model_len 131,072"
    silent = serve_on(load_model("01-ai/Yi-6B", offline=True), engine, memory).limits  # its config states no positions
    assert silent.max_model_len == 32768
    assert silent.assumptions[0].startswith("neither stated nor in the config, and so assumed: max_model_len 32,768")


def test_the_source_of_what_is_not_torchs_is_that_of_the_layout() -> None:
    layouts: list[dict[str, Any]] = [
        {},
        {"tensor_parallel_size": 2},
        {"tensor_parallel_size": 4},
        {"pipeline_parallel_size": 2},
    ]
    sources = [next(row.source for row in _serve(LLAMA, **flags).rows if row.name == "non-torch") for flags in layouts]
    assert len(set(sources)) == 4
    assert "stages of one rank" in sources[-1]


def test_images_of_any_size_are_warned_of() -> None:
    _, unbounded = _verdict("Qwen/Qwen2.5-VL-7B-Instruct", "vllm 0.19", "h100", max_model_len=8192)
    _, bounded = _verdict("google/gemma-3-4b-it", "vllm 0.19", "h100", max_model_len=8192)
    assert any("preprocessor_config.json" in line for line in unbounded.warnings)
    assert not bounded.warnings


def test_a_stage_without_keys_is_named() -> None:
    # Jamba keeps keys in one of eight layers: of 24 stages of three layers, the first has none
    with pytest.raises(PlannerError, match="pipeline_parallel_size: layers 0 to 2 keep no keys"):
        _serve("ai21labs/AI21-Jamba-1.5-Large", pipeline_parallel_size=24)


def test_sizes_in_files_stand_above_the_config_and_below_a_flag() -> None:
    @dataclass(frozen=True)
    class Size:
        size_bytes: int
        weight_bytes: int
        dtype: str
        path: str

    model = load_model("gpt2", offline=True)
    rows = [(row, tensor) for row in walk(model.tree) for tensor in held_tensors(row)]
    # every tensor in one byte an element, as no format of the catalog stores it
    sizes = {
        f"{path}.{tensor.name}".rstrip("."): Size(int(tensor.numel), int(tensor.numel), "F8_E4M3", row.path)
        for row, tensor in rows
        for path in row.real_paths()
    }
    engine = find_engine("vllm 0.19")
    plain = ServeOptions(max_model_len=1024)
    stored = changed(plain, stored=sizes)
    in_16_bits, in_files, asked = (
        float(serve_on(model, engine, 80 * GIB, options).worst.weights_bytes)
        for options in (plain, stored, changed(stored, quantization="bfloat16"))
    )
    assert asked == in_16_bits
    assert in_files < 0.6 * in_16_bits
