"""Granite MoE and Phi-3.5-MoE."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

GRANITE_1B: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "tie_word_embeddings": True,
    "vocab_size": 49155,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # hub total of ibm-granite/granite-3.0-1b-a400m-base less the tied head's second copy
        ("granitemoe", GRANITE_1B, 1_384_963_072 - 49155 * 1024),
        # hub total of microsoft/Phi-3.5-MoE-instruct
        ("phimoe", {"attention_bias": True, "lm_head_bias": True}, 41_873_153_344),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "vocab_size": 100,
}
LAYER = 2 * 64**2 + 2 * 64 * 32 + 8 * 3 * 64 * 24 + 64 * 8 + 2 * 64
TOTAL = 2 * 100 * 64 + 2 * LAYER + 64


@pytest.mark.parametrize(
    ("model_type", "flags", "extra"),
    [
        ("granitemoe", {}, 0),
        ("granitemoe", {"attention_bias": True}, 2 * (64 + 2 * 32 + 64)),
        ("granitemoe", {"tie_word_embeddings": True}, -100 * 64),
        ("granitemoeshared", {}, 0),
        ("granitemoeshared", {"shared_intermediate_size": 40}, 2 * 3 * 64 * 40),
        # a bias of each norm, two a layer and one at the end
        ("phimoe", {}, 5 * 64),
        ("phimoe", {"lm_head_bias": True}, 5 * 64 + 100),
        ("phimoe", {"attention_bias": True}, 5 * 64 + 2 * (64 + 2 * 32 + 64)),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], extra: int) -> None:
    assert counts(model_type, **{**TINY, **flags}).total == TOTAL + extra


def test_a_shared_mlp_is_met_by_every_token(counts: Callable[..., Counts]) -> None:
    found = counts("granitemoeshared", **TINY, shared_intermediate_size=40)
    assert found.breakdown["experts.shared"] == 2 * 3 * 64 * 40
    assert found.total - found.active == 2 * 6 * 3 * 64 * 24


@pytest.mark.parametrize("model_type", ["granitemoe", "granitemoeshared", "phimoe"])
def test_contradictions(counts: Callable[..., Counts], model_type: str) -> None:
    with pytest.raises(ConfigError, match="num_experts_per_tok: 9 experts a token, but there are 8"):
        counts(model_type, **{**TINY, "num_experts_per_tok": 9})
