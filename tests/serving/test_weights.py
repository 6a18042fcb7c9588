"""Weights of ranks against start-up logs of engines that are in the shipped measurements."""

import numpy as np
import pytest

from planner.counts import held_tensors
from planner.devices import find_device
from planner.engines import find_engine
from planner.formats import find_format, load_formats
from planner.models import load_model
from planner.nodes import walk
from planner.parallelism import WHOLE, Parallelism, Stage
from planner.quantisation import chosen_dtypes, outline_of, spans, stored_weights
from planner.serving.engine_memory import stages_of
from planner.serving.formats import format_of
from planner.serving.options import ServeOptions
from planner.serving.rope import rope_table_bytes
from planner.serving.serve import serve
from planner.serving.weights import Padding, RankWeights, rank_weights, without_offloaded

GIB = 2**30
LLAMA = "meta-llama/Llama-3.1-8B"


def _held(
    name: str,
    quantization: str = "bf16",
    engine: str = "vllm 0.19",
    parallelism: Parallelism | None = None,
    stage: Stage = WHOLE,
    padding: Padding | None = None,
) -> RankWeights:
    model = load_model(name, offline=True)
    rope = rope_table_bytes(model.tree, model.raw, 8192, 2, model.name)
    return rank_weights(
        model.tree,
        format_of(quantization),
        "bf16",
        find_engine(engine),
        parallelism or Parallelism(),
        stage,
        rope_bytes=rope,
        padding=padding,
    )


def test_an_unquantised_model_is_its_parameters_and_its_table_of_positions() -> None:
    # 8,030,261,248 * 2 B + 131072 * 128 * 2 B: vLLM prints 14.9888 GiB
    assert _held(LLAMA).total_bytes == 8_030_261_248 * 2 + 131072 * 128 * 2
    assert _held(LLAMA).total_bytes / GIB == pytest.approx(14.9888, abs=0.0001)


def test_every_engine_counts_in_its_own_way() -> None:
    # TensorRT-LLM computes angles in its kernels: 8.46 GiB for Llama-3.1-8B in FP8
    assert _held(LLAMA, "fp8", "tensorrt-llm").total_bytes / GIB == pytest.approx(8.46, abs=0.005)


@pytest.mark.parametrize(
    ("name", "quantization", "tp", "measured"),
    [
        ("Qwen/Qwen3-30B-A3B", "bf16", 1, 56.88),
        ("mistralai/Mixtral-8x7B-v0.1", "bf16", 2, 43.51),
        ("meta-llama/Llama-3.1-70B", "fp8", 2, 33.88),
        ("meta-llama/Llama-3.1-70B", "int8 w8a8", 2, 33.88),
        ("google/gemma-3-27b-it", "bf16", 1, 51.45),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "bf16", 4, 53.12),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "bf16", 1, 44.76),
        ("deepseek-ai/DeepSeek-V2-Lite", "bf16", 1, 29.43),
    ],
)
def test_what_vllm_prints_for_weights(name: str, quantization: str, tp: int, measured: float) -> None:
    held = _held(name, quantization, parallelism=Parallelism(tp=tp))
    assert held.total_bytes / GIB == pytest.approx(measured, rel=0.002)


@pytest.mark.parametrize(
    ("name", "engine", "gpu", "tp", "measured"),
    [
        ("openai/gpt-oss-20b", "vllm 0.11", "h100", 1, 13.47),
        ("openai/gpt-oss-20b", "vllm 0.19", "h100", 1, 13.64),
        ("openai/gpt-oss-20b", "vllm 0.19", "h100", 2, 7.01),
        ("openai/gpt-oss-20b", "vllm 0.19", "a100 80gb", 1, 13.72),
        ("openai/gpt-oss-120b", "vllm 0.10.1", "h100", 1, 65.97),
    ],
)
def test_kernels_of_mxfp4_pad_experts(name: str, engine: str, gpu: str, tp: int, measured: float) -> None:
    options = ServeOptions(quantization="mxfp4", tensor_parallel_size=tp)
    serving = serve(load_model(name, offline=True), find_engine(engine), find_device(gpu), options)
    assert serving.stages[0].weights_bytes / GIB == pytest.approx(measured, rel=0.003)


def test_padding_by_hand() -> None:
    from planner.counts import Matrices

    marlin = Padding(inner=128, hidden=256)
    # 2880 -> 2944 and 3072
    assert marlin.padded(Matrices(32, 5760, 2880), is_down=False, halves=2) == Matrices(32, 2 * 2944, 3072)
    assert marlin.padded(Matrices(32, 2880, 2880), is_down=True, halves=2) == Matrices(32, 3072, 2944)
    grouped = Padding(inner=64, inputs=256)
    # 1440 -> 1472, and as inputs 1536
    assert grouped.padded(Matrices(32, 2880, 1440), is_down=True, halves=2) == Matrices(32, 2880, 1536)


def test_older_vllm_keeps_three_copies_of_latent_projections() -> None:
    # DeepSeek-Coder-V2-Lite on 8 ranks with vLLM 0.7: 2 heads * 512 * (256 + 2048 + 2048) * 2 B * 27 layers
    rows = {
        row.name: row.size_bytes
        for row in _held("deepseek-ai/DeepSeek-V2-Lite", engine="vllm 0.7.3", parallelism=Parallelism(tp=8)).rows
    }
    assert rows["absorbed projections"] == 2 * 512 * (256 + 2048 + 2048) * 2 * 27


def test_repacking_needs_room_for_the_largest_matrix() -> None:
    rows = {row.name: row.size_bytes for row in _held(LLAMA, "w4a16").rows}
    assert rows["repacking"] == 2 * 14336 * 4096 // 2  # gate and up in four bits


def test_stages_hold_the_model_and_a_table_of_positions_each() -> None:
    model = load_model(LLAMA, offline=True)
    stages = stages_of(model.tree, 4)
    assert [len(stage.layers or ()) for stage in stages] == [8, 8, 8, 8]
    held = [_held(LLAMA, parallelism=Parallelism(pp=4), stage=stage).total_bytes for stage in stages]
    assert sum(held) == 8_030_261_248 * 2 + 4 * 131072 * 128 * 2
    # vLLM prints 3.28 GiB for a stage in the middle
    assert held[1] / GIB == pytest.approx(3.28, abs=0.005)


def test_layers_that_do_not_divide_go_to_the_middle() -> None:
    # vLLM, get_pp_indices: 94 layers over 4 stages
    stages = stages_of(load_model("Qwen/Qwen3-235B-A22B", offline=True).tree, 4)
    assert [len(stage.layers or ()) for stage in stages] == [23, 24, 24, 23]


def test_rules_about_layers_follow_the_stage() -> None:
    # FP8 in the inner layers only: the first and last stage hold one layer in bf16 each
    whole = _held("meta-llama/Llama-3.1-405B", "fp8-mlp")
    model = load_model("meta-llama/Llama-3.1-405B", offline=True)
    parts = [
        _held("meta-llama/Llama-3.1-405B", "fp8-mlp", parallelism=Parallelism(pp=2), stage=stage)
        for stage in stages_of(model.tree, 2)
    ]
    stored = [sum(row.size_bytes for row in held.rows if row.name in ("weights", "scales")) for held in (whole, *parts)]
    assert stored[0] == stored[1] + stored[2]


def test_offloaded_weights_leave_the_device() -> None:
    held = _held(LLAMA)
    assert without_offloaded(held, GIB).total_bytes == held.total_bytes - GIB
    assert without_offloaded(held, 0) is held


def test_columns_equal_numbers() -> None:
    degrees = [1, 2, 4, 8]
    column = _held(
        "openai/gpt-oss-20b",
        "mxfp4",
        parallelism=Parallelism(tp=np.array(degrees, dtype=np.float64)),
        padding=Padding(inner=128, hidden=256),
    )
    alone = [
        _held("openai/gpt-oss-20b", "mxfp4", parallelism=Parallelism(tp=tp), padding=Padding(inner=128, hidden=256))
        for tp in degrees
    ]
    np.testing.assert_array_equal(column.total_bytes, [held.total_bytes for held in alone])


class _Size:
    def __init__(self, weight_bytes: int, scale_bytes: int) -> None:
        self.weight_bytes = weight_bytes
        self.size_bytes = weight_bytes + scale_bytes


def test_sizes_in_files_stand_above_the_format() -> None:
    model, engine = load_model(LLAMA, offline=True), find_engine("vllm 0.19")
    sizes = {
        f"model.layers.{layer}.mlp.{name}_proj.weight": _Size(4096 * 14336, 4096)
        for layer in range(32)
        for name in ("gate", "up", "down")
    }
    parallelism = Parallelism(tp=2)
    plain = rank_weights(model.tree, format_of("bf16"), "bf16", engine, parallelism, WHOLE)
    mixed = rank_weights(model.tree, format_of("bf16"), "bf16", engine, parallelism, WHOLE, stored=sizes)
    # one byte and not two for each of 32 * 3 matrices, halved; and half of 4096 B beside each
    assert plain.total_bytes - mixed.total_bytes == 32 * 3 * (4096 * 14336 - 4096) // 2
    (stage, _) = stages_of(model.tree, 2)
    half = rank_weights(model.tree, format_of("bf16"), "bf16", engine, Parallelism(pp=2), stage, stored=sizes)
    whole = rank_weights(model.tree, format_of("bf16"), "bf16", engine, Parallelism(pp=2), stage)
    assert whole.total_bytes - half.total_bytes == 16 * 3 * (4096 * 14336 - 4096)


def test_a_tensor_that_files_lack_is_as_its_format_says() -> None:
    model, engine = load_model(LLAMA, offline=True), find_engine("vllm 0.19")
    some = {"model.layers.0.mlp.up_proj.weight": _Size(1, 0), "model.norm.weight": _Size(4096 * 4, 0)}
    held = rank_weights(model.tree, format_of("bf16"), "bf16", engine, Parallelism(), WHOLE, stored=some)
    assert held.total_bytes == 8_030_261_248 * 2 + 4096 * 2


def test_joined_projections_are_quantised_again() -> None:
    # DeepSeek-R1 in FP8 on 8 ranks with vLLM 0.7.3 took 83.88 GiB
    held = _held("deepseek-ai/DeepSeek-R1", "fp8 block-128", "vllm 0.7.3", Parallelism(tp=8))
    assert held.total_bytes / GIB == pytest.approx(83.88, rel=0.006)


FORMATS = [name for name in load_formats() if not name.startswith(("gguf", "fp32"))]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("model", [LLAMA, "Qwen/Qwen3-30B-A3B"])
def test_one_rank_holds_what_the_format_stores(model: str, name: str) -> None:
    tree = load_model(model, offline=True).tree
    held = {row.name: row.size_bytes for row in _held(model, name).rows}
    stored = stored_weights(tree, find_format(name))
    assert held["weights"] + held.get("scales", 0) == stored.codes + stored.scales


@pytest.mark.parametrize("name", ["fp8-mlp", "gguf-q4_k_m", "gguf-q3_k_l", "gguf-iq3_m"])
def test_copies_by_dtype_sum_to_the_copies(name: str) -> None:
    tree = load_model("Qwen/Qwen3-30B-A3B", offline=True).tree
    outline = outline_of(tree)
    for row, span in zip(walk(tree), spans(tree), strict=True):
        for tensor in held_tensors(row):
            chosen = list(chosen_dtypes(row, tensor, span, outline, find_format(name)))
            assert sum(copies for _, copies in chosen) == row.copies
            if span is not None:
                some = list(chosen_dtypes(row, tensor, span, outline, find_format(name), range(10)))
                assert sum(copies for _, copies in some) == 10
