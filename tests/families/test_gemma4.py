"""Gemma 4."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families.decoder import FULL, SLIDING
from planner.families.gemma4 import Gemma4TextConfig
from planner.models import build_model
from planner.nodes import Attention, walk
from planner.sources import ConfigSource
from planner.workload import Step

TOWER: dict[str, Any] = {
    "head_dim": 72,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
}
GEMMA_26B: dict[str, Any] = {
    "attention_k_eq_v": True,
    "enable_moe_block": True,
    "hidden_size": 2816,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 2112,
    "moe_intermediate_size": 704,
    "num_attention_heads": 16,
    "num_experts": 128,
    "num_global_key_value_heads": 2,
    "num_key_value_heads": 8,
    "top_k_experts": 8,
}
GEMMA_31B: dict[str, Any] = {
    "attention_k_eq_v": True,
    "hidden_size": 5376,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 21504,
    "num_attention_heads": 32,
    "num_global_key_value_heads": 4,
    "num_hidden_layers": 60,
    "num_key_value_heads": 16,
}
TEXT: dict[str, Any] = {
    "global_head_dim": 12,
    "head_dim": 10,
    "hidden_size": 16,
    "hidden_size_per_layer_input": 0,
    "intermediate_size": 20,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "sliding_window": 8,
    "vocab_size": 50,
}
SMALL, LARGE = 2 * 16 * 4 * 10 + 2 * 16 * 2 * 10, 2 * 16 * 4 * 12 + 2 * 16 * 2 * 12
"""Queries and output, keys and values, in a layer of each kind."""


@pytest.mark.parametrize(
    ("decoder", "total", "with_untied_head"),
    [
        # the hub's google/gemma-4-26B-A4B stores the tied head a second time
        (GEMMA_26B, 25_805_933_872, 26_544_131_376),
        (GEMMA_31B, 31_273_086_512, 31_273_086_512 + 262_144 * 5376),  # google/gemma-4-31B-it
    ],
)
def test_published_totals(
    counts: Callable[..., Counts], decoder: dict[str, Any], total: int, with_untied_head: int
) -> None:
    found = counts("gemma4", text_config=decoder, vision_config=TOWER)
    assert (found.total, found.total_with_untied_head) == (total, with_untied_head)


@pytest.mark.parametrize(
    ("flags", "attention"),
    [
        ({}, 2 * SMALL + 2 * LARGE),
        ({"attention_bias": True}, 2 * SMALL + 2 * LARGE + 2 * (40 + 2 * 20 + 16) + 2 * (48 + 2 * 24 + 16)),
        # full layers have keys for values; with one key/value head if that is said too
        ({"attention_k_eq_v": True}, 2 * SMALL + 2 * (LARGE - 16 * 24)),
        ({"attention_k_eq_v": True, "num_global_key_value_heads": 1}, 2 * SMALL + 2 * (LARGE - 16 * 24 - 16 * 12)),
        ({"num_global_key_value_heads": 1}, 2 * SMALL + 2 * LARGE),
        # the last two layers look at the keys and values of the first two
        ({"num_kv_shared_layers": 2}, 2 * SMALL + 2 * LARGE - 2 * 16 * 20 - 2 * 16 * 24),
    ],
)
def test_attention_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], attention: int) -> None:
    assert counts("gemma4_text", **TEXT, **flags).breakdown["attention"] == attention


def test_layers_that_share_may_be_twice_as_wide(counts: Callable[..., Counts]) -> None:
    shared = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}
    assert counts("gemma4_text", **TEXT, **shared).breakdown["mlp"] == (2 + 2 * 2) * 3 * 16 * 20
    assert counts("gemma4_text", **TEXT, use_double_wide_mlp=True).breakdown["mlp"] == 4 * 3 * 16 * 20


def test_inputs_of_each_layer(counts: Callable[..., Counts]) -> None:
    keys = {**TEXT, "hidden_size_per_layer_input": 3, "vocab_size_per_layer_input": 40}
    without, with_inputs = counts("gemma4_text", **TEXT), counts("gemma4_text", **keys)
    # a table and a projection for all four layers; a gate and a projection in each
    per_layer = 40 * 4 * 3 + 16 * 4 * 3 + 4 * 2 * 16 * 3
    assert with_inputs.breakdown["embeddings.per_layer"] == per_layer
    # a norm in each layer, and one over the inputs
    assert with_inputs.total - without.total == per_layer + 4 * 16 + 3


def test_experts_stand_beside_the_dense_mlp(counts: Callable[..., Counts]) -> None:
    experts = {"enable_moe_block": True, "moe_intermediate_size": 6, "num_experts": 5, "top_k_experts": 2}
    found = counts("gemma4_text", **TEXT, **experts)
    assert found.breakdown["mlp"] == 4 * 3 * 16 * 20
    assert found.breakdown["experts.routed"] == 4 * 5 * 3 * 16 * 6
    # a scale of the width and one of each expert
    assert found.breakdown["router"] == 4 * (16 * 5 + 16 + 5)
    assert found.total - found.active == 4 * 3 * 3 * 16 * 6


def test_which_layers_are_full_and_which_share() -> None:
    assert Gemma4TextConfig(num_hidden_layers=7).kinds() == [*[SLIDING] * 5, FULL, FULL]
    assert Gemma4TextConfig(num_hidden_layers=7, num_kv_shared_layers=1).shares() == [False] * 6 + [True]


def test_a_layer_that_shares_keeps_no_keys() -> None:
    raw = {"model_type": "gemma4_text", **TEXT, "num_kv_shared_layers": 2}
    tree = build_model(ConfigSource(name="g", raw=raw, origin="config.json")).tree
    attentions = [row.leaf for row in walk(tree) if isinstance(row.leaf, Attention)]
    assert [(leaf.caches, leaf.window, leaf.qk_head_dim) for leaf in attentions] == [
        (True, 8, 10),
        (True, None, 12),
        (False, 8, 10),
        (False, None, 12),
    ]


def test_towers_by_hand(counts: Callable[..., Counts]) -> None:
    vision = {
        "head_dim": 6,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 1,
        "patch_size": 4,
        "position_embedding_size": 9,
    }
    audio = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "output_proj_dims": 10,
        "subsampling_conv_channels": [8, 3],
    }
    breakdown = counts("gemma4", text_config=TEXT, vision_config=vision, audio_config=audio).breakdown
    assert breakdown["vision.attention"] == 2 * 8 * 12 + 2 * 8 * 6
    assert breakdown["vision.mlp"] == 3 * 8 * 12
    assert breakdown["vision.embeddings.other"] == 3 * 4 * 4 * 8
    assert breakdown["vision.embeddings.position"] == 2 * 9 * 8
    # q, k, v, output and relative keys; a scale of a head
    assert breakdown["audio.attention"] == 5 * 8 * 8 + 4
    assert breakdown["audio.mlp"] == 2 * 2 * 8 * 32
    assert breakdown["projector"] == 8 * 16 + 10 * 16


def test_an_image_is_pooled_to_its_tokens() -> None:
    raw = {"model_type": "gemma4", "text_config": TEXT, "vision_config": TOWER, "vision_soft_tokens_per_image": 70}
    flops = compute(
        build_model(ConfigSource(name="g", raw=raw, origin="config.json")).tree, Step(sequence_length=100, images=2)
    ).components
    patches = 9 * 70
    assert flops["vision.mlp"].forward == 2 * 2 * 27 * patches * 3 * 1152 * 4304
    assert flops["vision.other.misc"].forward == 2 * 2 * 70 * patches * 1152
    assert flops["vision.other.misc"].backward == flops["vision.other.misc"].forward
    assert flops["projector"].forward == 2 * 2 * 70 * 1152 * 16


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"enable_moe_block": True}, "num_experts: is missing and the class has no default"),
        (
            {"enable_moe_block": True, "num_experts": 2, "top_k_experts": 3, "moe_intermediate_size": 6},
            "3 experts a token, but there are 2",
        ),
        ({"num_kv_shared_layers": 3}, "num_kv_shared_layers: 3 layers share, but no layer before them"),
        ({"num_global_key_value_heads": 3, "attention_k_eq_v": True}, "num_global_key_value_heads: must divide"),
        ({"layer_types": [FULL]}, "layer_types: lists 1 layers, but num_hidden_layers is 4"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention: a text encoder is not supported"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("gemma4_text", **{**TEXT, **keys})


def test_an_optional_part_is_checked_and_read_like_any_other(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="vision_config.num_key_value_heads: must divide num_attention_heads"):
        counts("gemma4", text_config=TEXT, vision_config={"num_key_value_heads": 5})
    raw = {"model_type": "gemma4", "text_config": TEXT, "vision_config": {"num_experts": 3}}
    model = build_model(ConfigSource(name="g", raw=raw, origin="config.json"), {"vision_config.num_hidden_layers": 2})
    assert any(line.startswith("vision_config.num_experts = 3: not read") for line in model.assumptions)
