import numpy as np
import pytest

from planner.formulas.flops import (
    attention_flops,
    fused_attention_backward_flops,
    halved_attention_flops,
    linear_flops,
)
from planner.formulas.pairs import (
    masked_pairs,
    pooled_pairs,
)
from planner.formulas.rules import (
    palm_attention_flops,
    parameter_flops,
)


def test_a_product_is_two_per_multiply_add() -> None:
    # 2 * 3 positions * 5 in * 7 out
    assert linear_flops(3, 5, 7) == 210


def test_attention_is_two_products() -> None:
    # scores: 2 * 16 pairs * 2 heads * 8; values: 2 * 16 * 2 * 4
    assert attention_flops(16, 2, 8, 4) == 512 + 256


def test_a_fused_backward_has_five_products() -> None:
    # scores, dP and dV, dQ and dK: qk width three times, v width twice; 2 * 16 pairs * 2 heads * (3 * 8 + 2 * 4)
    assert fused_attention_backward_flops(16, 2, 8, 4) == 2048


def test_half_of_a_prefill_is_half_of_the_square() -> None:
    # 2 sequences * 10 * 10 / 2 pairs, 3 heads, width 4 + 4
    assert halved_attention_flops(2, 10, 0, 3, 4, 4) == attention_flops(2 * 100, 3, 4, 4) // 2


def test_one_new_token_sees_its_whole_past() -> None:
    # 100 cached and half a pair of its own
    assert halved_attention_flops(1, 1, 100, 1, 1, 1) == 2 * 2 * 100.5


@pytest.mark.parametrize("past", [0, 1, 3, 9])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("queries", [1, 2, 7])
def test_masked_pairs_are_what_a_mask_keeps(queries: int, past: int, window: int | None) -> None:
    positions = np.arange(past + queries)
    query, key = positions[past:, None], positions[None, :]
    kept = (key <= query) & (query - key < (window or 1000))
    assert masked_pairs(queries, past, window) == kept.sum()


def test_masked_pairs_of_a_column_equal_those_of_its_elements() -> None:
    queries, past = np.array([1.0, 4.0, 9.0]), np.array([0.0, 7.0, 2.0])
    expected = [masked_pairs(int(q), int(p), 4) for q, p in zip(queries, past, strict=True)]
    assert list(np.asarray(masked_pairs(queries, past, 4))) == expected


@pytest.mark.parametrize("past", [0, 3, 8])
@pytest.mark.parametrize("pool", [1, 2, 5])
@pytest.mark.parametrize("selected", [None, 1, 3])
@pytest.mark.parametrize("queries", [1, 2, 14])
def test_a_pooled_key_is_seen_once_its_last_token_is_there(
    queries: int, past: int, pool: int, selected: int | None
) -> None:
    seen = (np.arange(past, past + queries) + 1) // pool
    assert pooled_pairs(queries, past, pool, selected) == np.minimum(seen, selected or 1000).sum()


def test_pooled_pairs_of_a_column_equal_those_of_its_elements() -> None:
    queries, past = np.array([1.0, 14.0, 9.0]), np.array([0.0, 7.0, 2.0])
    for selected in (None, 2):
        expected = [pooled_pairs(int(q), int(p), 4, selected) for q, p in zip(queries, past, strict=True)]
        assert list(np.asarray(pooled_pairs(queries, past, 4, selected))) == expected


def test_half_of_fewer_new_keys() -> None:
    # 8 queries, 3 old keys and 2 of the new tokens: 8 * (3 + 2 / 2) pairs, width 4 + 4
    assert halved_attention_flops(1, 8, 3, 1, 4, 4, 2) == attention_flops(8 * 4, 1, 4, 4)


def test_gpt3_by_the_rule_of_thumb() -> None:
    # Brown et al. 2020, table D.1: 174,600M parameters, 300B tokens, 3.14e23
    assert parameter_flops(174.6e9, 300e9, 6) == pytest.approx(3.14e23, rel=2e-3)


def test_palm_540b_with_its_attention_term() -> None:
    # Chowdhery et al. 2022: 540.35B parameters, 118 layers, 48 heads of 256, context 2048, 780B tokens: 2.56e24
    tokens = 780e9
    total = parameter_flops(540.35e9, tokens, 6) + palm_attention_flops(118 * 48 * 256, 2048, tokens, 6)
    assert total == pytest.approx(2.56e24, rel=2e-3)
