"""Qwen-1, InternLM, Orion and Phi-3-small, whose classes ship beside the weights."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 100,
}
# V H; queries and output, keys and values; gate, up and down; three norms
LLAMA = 100 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 3 * 64


@pytest.mark.parametrize(
    ("model_type", "total"),
    [
        ("qwen", 7_721_324_544),  # hub total of Qwen/Qwen-7B
        ("internlm2", 7_737_708_544),  # internlm/internlm2-7b
        # microsoft/Phi-3-small-8k-instruct stores 64 rotary frequencies a layer besides
        ("phi3small", 7_392_274_432 - 32 * 64),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, total: int) -> None:
    assert counts(model_type).total == total


@pytest.mark.parametrize(
    ("model_type", "flags", "extra"),
    [
        ("internlm", {"bias": False}, 0),
        ("internlm", {}, 2 * 64 + 2 * 32),
        ("internlm2", {}, 0),
        ("internlm2", {"bias": True}, 2 * 64 + 2 * 32),
        # three norms with a bias
        ("orion", {}, 3 * 64),
        # besides, biases of all projections, of gate and up, and of down
        ("phi3small", {}, 3 * 64 + 2 * 64 + 2 * 32 + 2 * 96 + 64),
        ("phi3small", {"attention_bias": False}, 3 * 64 + 2 * 64 + 2 * 32 + 2 * 96 + 64),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], extra: int) -> None:
    assert counts(model_type, **TINY, **flags).total == LLAMA + extra


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        # queries, keys and values have a bias that no key mentions
        ({}, 3 * 60),
        ({"no_bias": False}, 3 * 60 + 64 + 2 * 48 + 64),
    ],
)
def test_a_qwen_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], extra: int) -> None:
    keys = {**TINY, "kv_channels": 15, "num_key_value_heads": 4}
    # 4 heads of 15 channels; half of `intermediate_size` is the width
    core = 100 * 64 + 4 * 64 * 60 + 3 * 64 * 48 + 3 * 64
    assert counts("qwen", **keys, **flags).total == core + extra


def test_the_two_halves_of_a_qwen(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="intermediate_size: must be even, got 97"):
        counts("qwen", **{**TINY, "intermediate_size": 97})


def test_phi3small_takes_both_spellings(counts: Callable[..., Counts]) -> None:
    other = {key: value for key, value in TINY.items() if key != "intermediate_size"}
    assert counts("phi3small", **other, ff_intermediate_size=96).total == counts("phi3small", **TINY).total
