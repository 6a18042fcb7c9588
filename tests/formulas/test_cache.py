"""What a cache keeps, against papers, and against sizes that engines state for their own formats."""

from __future__ import annotations

import numpy as np
import pytest

from planner.formulas.cache import (
    carried_tokens,
    convolution_state,
    padded_layers,
    paged_tokens,
    rank_heads,
    row_bytes,
    state_block_tokens,
    state_bytes,
    waiting_tokens,
    window_tokens,
)


@pytest.mark.parametrize(
    ("width", "code_bits", "code_elements", "scales", "scale_bits", "size"),
    [
        # 128 * 2 B
        (128, 16, 1, 0, 0, 256),
        # 128 codes and one fp32 scale, as the indexer of DeepSeek-V3.2 caches them
        (128, 8, 1, 1, 32, 132),
        # q8_0 of llama.cpp: blocks of 34 B for 32 numbers, so 4 of them
        (128, 256, 32, 4, 16, 136),
        # half a byte each: the last byte is half full
        (5, 4, 1, 0, 0, 3),
    ],
)
def test_bytes_of_a_row(
    width: int, code_bits: int, code_elements: int, scales: int, scale_bits: int, size: int
) -> None:
    assert row_bytes(width, code_bits, code_elements, scales, scale_bits) == size


def test_a_rank_holds_a_head_at_least() -> None:
    assert [rank_heads(8, tp) for tp in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]
    # a latent is one row: no rank can do without
    assert [rank_heads(1, tp) for tp in (1, 8)] == [1, 1]


def test_what_stays_of_a_sequence() -> None:
    assert [window_tokens(tokens, 1024) for tokens in (1, 1023, 1024, 1025)] == [1, 1023, 1024, 1024]
    assert [paged_tokens(tokens, 16) for tokens in (0, 1, 16, 17)] == [0, 16, 16, 32]
    # pools of 4: the tokens after the last whole one wait, and none are carried before there is one
    assert [waiting_tokens(tokens, 4) for tokens in (0, 3, 4, 9)] == [0, 3, 0, 1]
    assert [carried_tokens(tokens, 4) for tokens in (0, 3, 4, 9)] == [0, 0, 4, 4]


def test_states_have_one_size() -> None:
    # Mamba-2.8B: 5,120 channels, a kernel of 4 and a state of 16
    assert convolution_state(5120, 4 - 1) == 15_360
    assert state_bytes(5120 * 16, 32) == 327_680
    assert state_bytes(5120 * 16, 32, tp=8) == 40_960


@pytest.mark.parametrize(
    ("kinds", "layers"),
    [
        ([32], 32),
        # gemma-3-27b: 10 full layers and 6 groups of 10 with a window, of which the last lacks 8
        ([10, 52], 70),
        # gemma-3-4b: 5 and 6 groups of 5
        ([5, 29], 35),
        # gemma-3-12b: 8 and 5 groups of 8
        ([8, 40], 48),
        # gpt-oss-20b, and the example in vLLM's source with a draft layer: 13 and 13, not 12 and 24
        ([12, 12], 24),
        ([12, 13], 26),
        # Qwen3-Next: 12 with attention, 3 groups of 12 with a state
        ([12, 36], 48),
    ],
)
def test_layers_of_a_pool_in_groups_of_one_size(kinds: list[int], layers: int) -> None:
    assert padded_layers(kinds) == layers


def test_a_block_holds_a_state() -> None:
    # a state of 100 B beside keys of 3 B: 34 slots, in whole multiples of 16
    assert state_block_tokens(100, 3, 16) == 48


def test_a_column_equals_its_elements() -> None:
    tokens = np.array([0.0, 3.0, 8.0, 1000.0])
    tp = np.array([1.0, 2.0, 8.0, 16.0])
    for formula, other in ((window_tokens, 8), (paged_tokens, 16), (waiting_tokens, 3), (carried_tokens, 3)):
        assert list(np.asarray(formula(tokens, other))) == [formula(int(each), other) for each in tokens]
    assert list(np.asarray(rank_heads(8, tp))) == [rank_heads(8, int(each)) for each in tp]
    assert list(np.asarray(state_bytes(1000, 32, tp))) == [state_bytes(1000, 32, int(each)) for each in tp]
    assert list(np.asarray(row_bytes(tokens, 4, 1, 1, 16))) == [row_bytes(int(each), 4, 1, 1, 16) for each in tokens]
    kinds = np.array([10.0, 12.0]), np.array([52.0, 13.0])
    assert list(np.asarray(padded_layers(kinds))) == [70, 26]
