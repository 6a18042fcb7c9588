"""Sizes that follow from torch's allocator and from start-up logs of vLLM, worked out by hand."""

import numpy as np
import pytest

from planner.formulas.profile_run import (
    captured_sizes,
    compute_buffer_bytes,
    expert_workspace_bytes,
    image_profile_bytes,
    layer_peak_bytes,
    sampled_hidden_bytes,
    sampler_bytes,
)
from planner.formulas.serving import (
    absorbed_bytes,
    allocated_bytes,
    pool_budget_bytes,
    rope_cache_bytes,
    segment_bytes,
    whole_blocks,
)

MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("size", "allocated"),
    [
        (9 * MIB + 1, 9 * MIB + 1),  # below 10 MiB a tensor shares a segment of 20 MiB
        (10 * MIB, 10 * MIB),
        (11 * MIB, 12 * MIB),  # 1 MiB is left: not split off
        (11 * MIB - 1, 11 * MIB - 1),  # more than 1 MiB is left
        (12 * MIB - 512, 12 * MIB),
    ],
)
def test_a_small_rest_of_a_segment_stays_with_the_tensor(size: int, allocated: int) -> None:
    assert allocated_bytes(size) == allocated


def test_a_large_tensor_takes_whole_segments_from_the_device() -> None:
    assert segment_bytes(10 * MIB + 1) == 12 * MIB
    assert segment_bytes(MIB) == MIB


def test_qwen2_7b_takes_two_mib_more_for_each_layer() -> None:
    # o_proj: 3584 * 3584 * 2 B = 24.5 MiB; gate and up: 3584 * 37888 * 2 B = 259 MiB, which leave 1 MiB of 260;
    # down: 129.5 MiB, of 130; 1.5 MiB of 26 are too much to stay with o_proj. Measured: 28 layers, 56 MiB in all.
    rest = sum(allocated_bytes(size) - size for size in (3584 * 3584 * 2, 3584 * 2 * 18944 * 2, 18944 * 3584 * 2))
    assert rest == 1 * MIB + MIB // 2


def test_a_table_of_positions() -> None:
    # Llama-4-Scout: 10,485,760 positions * 128 * 2 B = 2.5 GiB
    assert rope_cache_bytes(10_485_760, 128, 2) == 2.5 * GIB


def test_absorbed_projections_of_deepseek_v3() -> None:
    # 61 layers * 128 heads * 512 * (128 + 128) * 2 B = 1.90625 GiB
    assert 61 * absorbed_bytes(128, 512, 256, 2) == 1.90625 * GIB


def test_the_peak_of_qwen3_14b_before_and_after_the_triton_sampler() -> None:
    # logs of one model, device and flags: 5.64 GiB with vLLM 0.16 and 2.23 with 0.17
    hidden = sampled_hidden_bytes(8192, 1024, 5120, 2)
    native = sampler_bytes(1024, 151936, 36 + 2, 0, 4) + hidden + 45 * MIB
    triton = sampler_bytes(1024, 151936, 12 + 2, 132, 4) + hidden + 45 * MIB
    assert native / GIB == pytest.approx(5.64, abs=0.005)
    assert triton / GIB == pytest.approx(2.23, abs=0.01)


def test_a_kernel_has_no_more_rows_than_sequences() -> None:
    assert sampler_bytes(8, 100, 0, 132, 4) == 8 * 100 * 4


@pytest.mark.parametrize(("tokens", "measured"), [(20000, 2.07), (29000, 2.99)])
def test_a_long_prompt_in_one_piece_is_bound_by_the_mlp(tokens: int, measured: float) -> None:
    # Llama-3.1-8B with vLLM 0.6.4 on an RTX 3090, 8 MiB of which are cuBLAS's
    peak = layer_peak_bytes(tokens, 2 * 14336, 14336, 4096, 2) + 8 * MIB
    assert peak / GIB == pytest.approx(measured, abs=0.01)


def test_workspaces_of_experts() -> None:
    # Mixtral on 2 ranks: 8192 * 2 * (7168 + 14336) * 2 B
    assert expert_workspace_bytes(8192, 2, 14336, 7168, 4096, 4096, 2) == 8192 * 2 * (7168 + 14336) * 2
    # FP8 kernels keep only the inner width before the last matrix
    assert expert_workspace_bytes(8192, 8, 768, 384, 4096, 0, 2) == 8192 * 8 * (384 + 4096) * 2


def test_images_of_gemma_3_fill_a_step() -> None:
    # 32 images of 256 tokens: 8192 * 5376 * 2 B = 84 MiB; 32 * 3 * 896 * 896 * 2 B = 147 MiB
    assert image_profile_bytes(8192, 5376, 3 * 896 * 896 / 256, 2, 2) == (84 + 147) * MIB


def test_captured_sizes() -> None:
    # 1, 2, 4, 8 to 256 by 8 (32 of them), 272 to 512 by 16 (16 of them)
    assert captured_sizes(512, 256) == 3 + 32 + 16


def test_the_compute_buffer_keeps_scores_without_flash_attention() -> None:
    # 512 * 16000 * 32 heads * 4 B = 1000 MiB of scores, 512 * 16000 * 4 B = 31.25 of the mask, 32 of hidden states
    assert compute_buffer_bytes(512, 16000, 32, 4096, 14336, 0) / MIB == 1000 + 31.25 + 32
    assert compute_buffer_bytes(512, 16000, 0, 4096, 14336, 0) / MIB == 2 * 28 + 31.25 + 32


def test_a_budget_may_be_overdrawn_and_a_pool_not() -> None:
    # 0.9 * 79.18 - 67.72 - 4.84 - 0.14 = -1.438: Llama-3.3-70B-FP8 on one H100
    left = pool_budget_bytes(79.18, 0.9, 67.72, 4.84, 0.14)
    assert left == pytest.approx(-1.438)
    assert whole_blocks(left, 0.001) == 0


def test_columns_equal_numbers() -> None:
    sizes = [1, 9 * MIB, 10 * MIB, 11 * MIB, 11 * MIB + 1, 21 * MIB]
    column = np.array(sizes, dtype=np.float64)
    for formula in (allocated_bytes, segment_bytes):
        np.testing.assert_array_equal(formula(column), [formula(size) for size in sizes])
    counts = [1, 64, 132, 1024]
    seqs = np.array(counts, dtype=np.float64)
    np.testing.assert_array_equal(
        sampler_bytes(seqs, 1000, 14, 132, 4), [sampler_bytes(number, 1000, 14, 132, 4) for number in counts]
    )
    np.testing.assert_array_equal(captured_sizes(seqs, 256), [captured_sizes(number, 256) for number in counts])
    np.testing.assert_array_equal(whole_blocks(np.array([-5.0, 0.0, 100.0]), 30), [0, 0, 3])
