"""Cohere's Command and Aya."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.families.cohere import Cohere2Config

AYA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        ("cohere", AYA, 8_028_033_024),  # hub total of CohereLabs/aya-23-8B
        ("cohere", {}, 34_980_831_232),  # CohereLabs/c4ai-command-r-v01; the class's defaults
        (
            "cohere",  # CohereLabs/c4ai-command-r-plus, which norms queries and keys
            {
                "hidden_size": 12288,
                "intermediate_size": 33792,
                "num_attention_heads": 96,
                "num_hidden_layers": 64,
                "num_key_value_heads": 8,
                "use_qk_norm": True,
            },
            103_810_674_688,
        ),
        ("cohere2", AYA, 8_028_033_024),  # CohereLabs/c4ai-command-r7b-12-2024
        (
            "cohere2",  # CohereLabs/c4ai-command-a-03-2025
            {
                "hidden_size": 12288,
                "intermediate_size": 36864,
                "num_attention_heads": 96,
                "num_hidden_layers": 64,
                "num_key_value_heads": 8,
            },
            111_057_580_032,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        # one norm in the layer and the last one
        ({}, 2 * 64),
        # a gain for every channel of 4 heads of queries and 2 of keys
        ({"use_qk_norm": True}, 2 * 64 + 6 * 16),
        ({"attention_bias": True}, 2 * 64 + 2 * 64 + 2 * 32),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], extra: int) -> None:
    core = 100 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    assert counts("cohere", **TINY, **flags).total == core + extra


def test_cohere2_has_no_query_and_key_norms(counts: Callable[..., Counts]) -> None:
    assert counts("cohere2", **TINY, use_qk_norm=True).total == counts("cohere2", **TINY).total


def test_cohere2_heads_fill_the_width(counts: Callable[..., Counts]) -> None:
    assert counts("cohere2", **TINY, head_dim=32).total == counts("cohere2", **TINY).total


def test_every_fourth_layer_is_full() -> None:
    assert Cohere2Config(num_hidden_layers=5).windows() == [4096, 4096, 4096, None, 4096]
