"""OLMoE and FlexOlmo."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
# table and head; queries and output, keys and values of 2 heads of 16, norms over all of them; experts and router;
# norms of the layer and the end
TOTAL = 2 * 100 * 64 + 2 * 64**2 + 2 * 64 * 32 + 64 + 32 + 8 * 3 * 64 * 24 + 64 * 8 + 3 * 64


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # hub totals of allenai/OLMoE-1B-7B-0924 and allenai/FlexOlmo-7x7B-1T
        ("olmoe", {"intermediate_size": 1024}, 6_919_161_856),
        ("flex_olmo", {}, 33_270_665_216),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


@pytest.mark.parametrize("model_type", ["olmoe", "flex_olmo"])
@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        ({}, 0),
        ({"attention_bias": True}, 64 + 2 * 32 + 64),
        ({"num_key_value_heads": None}, 2 * 64 * 32 + 32),
        ({"tie_word_embeddings": True}, -100 * 64),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], extra: int) -> None:
    assert counts(model_type, **{**TINY, **flags}).total == TOTAL + extra


def test_a_token_meets_two_experts_of_eight(counts: Callable[..., Counts]) -> None:
    found = counts("olmoe", **TINY)
    assert found.total - found.active == 6 * 3 * 64 * 24


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok: 9 experts a token, but there are 8"),
        ({"num_attention_heads": 5}, r"num_attention_heads: must divide hidden_size \(64 / 5\)"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("olmoe", **{**TINY, **flags})
