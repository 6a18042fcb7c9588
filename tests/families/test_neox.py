"""GPT-NeoX, BLOOM and Persimmon."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

NEOX: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # S. Black et al., "GPT-NeoX-20B", 2022, arXiv:2204.06745: 20,554,567,680; the class's defaults are this model
        ({}, 20_554_567_680),
        # S. Biderman et al., "Pythia", 2023, arXiv:2304.01373, table 1: 11,327,027,200 without the two tables of
        # 50,688 rows, which its training padded for two devices
        (
            {
                "hidden_size": 5120,
                "intermediate_size": 20480,
                "num_attention_heads": 40,
                "num_hidden_layers": 36,
                "vocab_size": 50688,
            },
            11_327_027_200 + 2 * 50_688 * 5120,
        ),
    ],
)
def test_published_totals_of_gpt_neox(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("gpt_neox", **keys).total == total


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # hub totals of bigscience/bloom-560m, bloom-7b1 and bloom
        ({"hidden_size": 1024, "n_head": 16, "n_layer": 24}, 559_214_592),
        ({"hidden_size": 4096, "n_head": 32, "n_layer": 30}, 7_069_016_064),
        ({"hidden_size": 14336, "n_head": 112, "n_layer": 70}, 176_247_271_424),
    ],
)
def test_published_totals_of_bloom(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("bloom", **keys).total == total


def test_attention_biases_can_be_dropped(counts: Callable[..., Counts]) -> None:
    # 3 * 64 and 64 a layer, 2 layers
    assert counts("gpt_neox", **NEOX).total - counts("gpt_neox", **NEOX, attention_bias=False).total == 2 * 256


def test_parallel_sublayers_have_two_norms_as_well(counts: Callable[..., Counts]) -> None:
    assert counts("gpt_neox", **NEOX).total == counts("gpt_neox", **NEOX, use_parallel_residual=False).total


def test_bloom_takes_both_spellings(counts: Callable[..., Counts]) -> None:
    one = counts("bloom", n_embed=64, n_layer=2, n_head=4)
    assert one.total == counts("bloom", hidden_size=64, num_hidden_layers=2, num_attention_heads=4).total
    with pytest.raises(ConfigError, match="num_hidden_layers: is 3, but its other name n_layer is 2"):
        counts("bloom", hidden_size=64, n_layer=2, num_hidden_layers=3, n_head=4)


def test_persimmon_norms_of_queries_and_keys(counts: Callable[..., Counts]) -> None:
    # queries and keys, gain and bias, heads of 16, 2 layers
    keys = {**NEOX, "tie_word_embeddings": False}
    assert counts("persimmon", **keys).total - counts("persimmon", **keys, qk_layernorm=False).total == 2 * 2 * 2 * 16


def test_a_layer_by_hand(counts: Callable[..., Counts]) -> None:
    # 12 H^2 + 13 H with a fourfold MLP, two norms and every bias
    assert counts("gpt_neox", "GPTNeoXModel", **NEOX).total == 100 * 64 + 2 * (12 * 64**2 + 13 * 64) + 2 * 64


@pytest.mark.parametrize("model_type", ["gpt_neox", "bloom", "persimmon"])
def test_heads_must_divide_the_width(counts: Callable[..., Counts], model_type: str) -> None:
    with pytest.raises(ConfigError, match=r"num_attention_heads: must divide hidden_size \(64 / 5\)"):
        counts(model_type, hidden_size=64, num_attention_heads=5)
