"""GPT-J, CodeGen, GPT-Neo, StarCoder and MPT."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.gpt import GPTNeoConfig
from planner.nodes import Attention, walk

NEO: dict[str, Any] = {"hidden_size": 48, "num_heads": 6, "num_layers": 4, "vocab_size": 99}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # tensors of the checkpoints; the keys are those that differ from the class's defaults
        ("gptj", {}, 6_050_882_784),  # EleutherAI/gpt-j-6b
        ("codegen", {"n_embd": 1024, "n_layer": 20, "vocab_size": 51200}, 356_712_448),  # Salesforce/codegen-350M-mono
        ("gpt_neo", {}, 1_315_575_808),  # EleutherAI/gpt-neo-1.3B
        (
            "gpt_neo",  # EleutherAI/gpt-neo-125m
            {
                "attention_types": [[["global", "local"], 6]],
                "hidden_size": 768,
                "num_heads": 12,
                "num_layers": 12,
            },
            125_198_592,
        ),
        (
            "gpt_bigcode",  # bigcode/starcoder, its head tied
            {
                "n_embd": 6144,
                "n_head": 48,
                "n_inner": 24576,
                "n_layer": 40,
                "n_positions": 8192,
                "vocab_size": 49152,
            },
            15_517_456_384,
        ),
        (
            "mpt",
            {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432},
            6_649_286_656,
        ),  # mosaicml/mpt-7b
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def test_gptj_has_a_head_with_a_bias(counts: Callable[..., Counts]) -> None:
    assert counts("gptj").breakdown["other.lm_head"] == 50_400 * 4096 + 50_400


def test_one_key_value_head_or_all(counts: Callable[..., Counts]) -> None:
    keys = {"n_embd": 48, "n_head": 6, "n_layer": 1}
    # keys and values of 6 heads of 8 in place of one, with their biases
    more = counts("gpt_bigcode", **keys, multi_query=False).total - counts("gpt_bigcode", **keys).total
    assert more == 2 * 5 * 8 * (48 + 1)


def test_mpt_has_one_shape_only(counts: Callable[..., Counts]) -> None:
    keys = {"d_model": 48, "n_heads": 6, "n_layers": 1, "vocab_size": 99}
    # table, 4 H^2, 8 H^2, three gains
    assert counts("mpt", **keys, expansion_ratio=2, no_bias=False).total == 99 * 48 + 12 * 48**2 + 3 * 48


def test_windows_follow_the_attention_types() -> None:
    config = GPTNeoConfig(**NEO, attention_types=[[["global", "local"], 1], [["local"], 2]], window_size=32)
    leaves = [row.leaf for row in walk(family("gpt_neo").classes["GPTNeoModel"](config))]
    rows = {leaf.window for leaf in leaves if isinstance(leaf, Attention)}
    assert config.windows() == [None, 32, 32, 32]
    assert rows == {None, 32}


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([[["global"], 3]], "describes 3 layers, but num_layers is 4"),
        ([[["global", "round"], 2]], "expected global or local, got 'round'"),
        ([[["global"], "4"]], "expected kinds and how often they follow"),
        ([[["global"], 10**9]], "expected kinds and how often they follow"),
        (["global"], "expected kinds and how often they follow"),
    ],
)
def test_wrong_attention_types(counts: Callable[..., Counts], types: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"attention_types: {message}"):
        counts("gpt_neo", **NEO, attention_types=types)


def test_starcoder_refuses_cross_attention(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="add_cross_attention: cross-attention layers are not supported"):
        counts("gpt_bigcode", add_cross_attention=True)
