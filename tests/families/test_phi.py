"""Phi-1 to Phi-4."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        ("phi", {}, 1_418_270_720),  # hub total of microsoft/phi-1_5; the class's defaults
        (
            "phi",  # microsoft/phi-2
            {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 32},
            2_779_683_840,
        ),
        ("phi3", {}, 3_821_079_552),  # microsoft/Phi-3-mini-4k-instruct; the class's defaults
        (
            "phi3",  # microsoft/Phi-4-mini-instruct, its head tied
            {
                "num_attention_heads": 24,
                "num_key_value_heads": 8,
                "tie_word_embeddings": True,
                "vocab_size": 200_064,
            },
            3_836_021_760,
        ),
        (
            "phi3",  # microsoft/phi-4
            {
                "hidden_size": 5120,
                "intermediate_size": 17920,
                "num_attention_heads": 40,
                "num_hidden_layers": 40,
                "num_key_value_heads": 10,
                "vocab_size": 100_352,
            },
            14_659_507_200,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def test_a_phi_by_hand(counts: Callable[..., Counts]) -> None:
    # table; 4 (H^2 + H); 2 H F + F + H; two norms; head with a bias
    layer = 4 * (64**2 + 64) + 2 * 64 * 96 + 96 + 64
    assert counts("phi", **TINY).total == 2 * 100 * 64 + 100 + layer + 2 * 2 * 64


def test_phi_norms_of_queries_and_keys(counts: Callable[..., Counts]) -> None:
    # gain and bias, heads of 16, one norm for all queries and one for all keys
    assert counts("phi", **TINY, qk_layernorm=True).total - counts("phi", **TINY).total == 2 * 2 * 16


def test_phi3_is_llama_in_fewer_matrices(counts: Callable[..., Counts]) -> None:
    keys = {**TINY, "num_key_value_heads": 2}
    assert counts("phi3", **keys).breakdown == counts("llama", **keys).breakdown


def test_what_phi4_mini_switches_off_changes_nothing(counts: Callable[..., Counts]) -> None:
    off = {"attention_bias": False, "full_attn_mod": 1, "lm_head_bias": False, "mlp_bias": False}
    assert counts("phi3", **TINY, **off).total == counts("phi3", **TINY).total
