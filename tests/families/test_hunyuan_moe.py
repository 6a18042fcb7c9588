"""Hunyuan-A13B."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

A13B: dict[str, Any] = {
    "head_dim": 128,
    "intermediate_size": 3072,
    "moe_topk": [8] * 32,
    "num_experts": 64,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
    "vocab_size": 128167,
}

TINY: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_attention_heads": 6,
    "num_experts": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
EXPERT = 3 * 64 * 24


def test_the_released_model(counts: Callable[..., Counts]) -> None:
    # hub total of tencent/Hunyuan-A13B-Instruct
    found = counts("hunyuan_v1_moe", **A13B)
    assert found.total == 80_393_183_232
    # 64 - 8 experts of three matrices in 32 layers are not met
    assert found.active == found.total - 32 * 56 * 3 * 4096 * 3072


@pytest.mark.parametrize(
    ("flags", "extra", "visited"),
    [
        ({}, 0, 2),
        ({"moe_topk": 3}, 0, 6),
        ({"moe_topk": [1, 3]}, 0, 4),
        # a list may be longer than there are layers
        ({"moe_topk": [1, 3, 5]}, 0, 4),
        ({"num_experts_per_tok": 3}, 0, 6),
        ({"attention_bias": True}, 2 * (96 + 2 * 32 + 64), 2),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], extra: int, visited: int) -> None:
    # projections and two norms of a head; experts, router and the shared MLP; two norms
    layer = 64 * 96 + 2 * 64 * 32 + 96 * 64 + 2 * 16 + 9 * EXPERT + 64 * 8 + 2 * 64
    found = counts("hunyuan_v1_moe", **{**TINY, **flags})
    assert found.total == 2 * 100 * 64 + 2 * layer + 64 + extra
    assert found.total - found.active == (2 * 8 - visited) * EXPERT


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"moe_topk": [1]}, "moe_topk: lists 1 layers, but num_hidden_layers is 2"),
        ({"moe_topk": [1, 9]}, "moe_topk: 9 experts a token, but there are 8"),
        ({"moe_topk": 9}, "moe_topk: 9 experts a token, but there are 8"),
        ({"moe_topk": "two"}, "moe_topk.*got 'two'"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("hunyuan_v1_moe", **{**TINY, **flags})
