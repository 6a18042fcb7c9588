"""Falcon: four architectures in one class."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

TINY: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 100}
# V H for the tied table, 4 H^2 + 4 H^2 for the MLP, H^2 for the output projection and H^2 for queries, 2 H for the
# last norm
CORE = 100 * 64 + 10 * 64**2 + 2 * 64


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # hub total of tiiuae/falcon-7b less the tied head's second copy, 65,024 * 4,544; the class's defaults
        ({}, 7_217_189_760 - 65_024 * 4544),
        # hub totals of tiiuae/falcon-40b and falcon-180B less the same
        (
            {
                "hidden_size": 8192,
                "new_decoder_architecture": True,
                "num_attention_heads": 128,
                "num_hidden_layers": 60,
                "num_kv_heads": 8,
            },
            41_835_970_560 - 65_024 * 8192,
        ),
        (
            {
                "hidden_size": 14848,
                "new_decoder_architecture": True,
                "num_attention_heads": 232,
                "num_hidden_layers": 80,
                "num_kv_heads": 8,
            },
            179_522_565_120 - 65_024 * 14848,
        ),
        # hub total of tiiuae/falcon-11B, whose head is a matrix of its own
        (
            {
                "ffn_hidden_size": 16384,
                "hidden_size": 4096,
                "new_decoder_architecture": True,
                "num_attention_heads": 32,
                "num_hidden_layers": 60,
                "num_kv_heads": 8,
                "num_ln_in_parallel_attn": 1,
                "tie_word_embeddings": False,
            },
            11_102_822_400,
        ),
        # hub total of tiiuae/falcon-rw-1b
        (
            {
                "alibi": True,
                "bias": True,
                "hidden_size": 2048,
                "multi_query": False,
                "num_attention_heads": 32,
                "num_hidden_layers": 24,
                "parallel_attn": False,
                "vocab_size": 50304,
            },
            1_311_625_216,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("falcon", **keys).total == total


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        # keys and values of one head of 16; one norm
        ({}, 2 * 64 * 16 + 2 * 64),
        # of every head
        ({"multi_query": False}, 2 * 64 * 64 + 2 * 64),
        # of two groups; two norms
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2 * 64 * 32 + 4 * 64),
        # the new architecture does not read `multi_query`
        ({"new_decoder_architecture": True, "num_kv_heads": 2, "multi_query": False}, 2 * 64 * 32 + 4 * 64),
        # and without groups every head has keys and values of its own
        ({"new_decoder_architecture": True}, 2 * 64 * 64 + 4 * 64),
        ({"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1}, 2 * 64 * 32 + 2 * 64),
        # two norms where sublayers follow each other
        ({"parallel_attn": False}, 2 * 64 * 16 + 4 * 64),
        # biases of queries, keys and values, of the output and of both MLP matrices
        ({"bias": True}, 2 * 64 * 16 + 2 * 64 + (64 + 32) + 64 + 256 + 64),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], extra: int) -> None:
    assert counts("falcon", **TINY, **flags).total == CORE + extra


def test_the_names_of_the_first_release(counts: Callable[..., Counts]) -> None:
    first = {"n_embed": 64, "n_head": 4, "n_head_kv": 2, "n_layer": 1, "vocab_size": 100}
    today = {**TINY, "num_kv_heads": 2}
    new = {"new_decoder_architecture": True}
    assert counts("falcon", **first, **new).total == counts("falcon", **today, **new).total


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"new_decoder_architecture": True, "num_kv_heads": 3}, "num_kv_heads: must divide num_attention_heads"),
        ({"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn: input should be 1 or 2"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("falcon", **TINY, **keys)
