"""LongCat-Flash: pairs of sublayers, and experts that do nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

TINY: dict[str, Any] = {
    "expert_ffn_hidden_size": 24,
    "ffn_hidden_size": 96,
    "hidden_size": 64,
    "kv_lora_rank": 16,
    "moe_topk": 3,
    "n_routed_experts": 8,
    "num_attention_heads": 4,
    "num_layers": 1,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
    "vocab_size": 100,
    "zero_expert_num": 4,
}
ATTENTION = 64 * 20 + 20 + 20 * 4 * 16 + 64 * (16 + 6) + 16 + 16 * 4 * (10 + 12) + 4 * 12 * 64
EXPERT = 3 * 64 * 24
TOTAL = 2 * 100 * 64 + 64 + 2 * (ATTENTION + 3 * 64 * 96 + 2 * 64) + 8 * EXPERT + 64 * 12


def test_the_released_model(counts: Callable[..., Counts]) -> None:
    # meituan-longcat/LongCat-Flash-Chat is the class's default; its report says 560B, and 27B a token on average
    found = counts("longcat_flash")
    assert found.total == 560_664_958_976
    assert found.active_excl_input_embedding == 27_149_490_176


@pytest.mark.parametrize(
    ("flags", "extra", "visited"),
    [
        # three of twelve, of which eight do something
        ({}, 0, 2),
        ({"zero_expert_num": 0}, -64 * 4, 3),
        ({"router_bias": True}, 12, 2),
        ({"attention_bias": True}, 2 * (20 + 22 + 64), 2),
        ({"num_hidden_layers": 2}, 0, 2),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], extra: int, visited: int) -> None:
    found = counts("longcat_flash", **{**TINY, **flags})
    assert found.total == TOTAL + extra
    assert found.total - found.active == (8 - visited) * EXPERT


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"moe_topk": 13}, "moe_topk: 13 experts a token, but there are 12"),
        ({"num_hidden_layers": 3}, r"num_hidden_layers: expected twice num_layers \(1\), got 3"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("longcat_flash", **{**TINY, **flags})
