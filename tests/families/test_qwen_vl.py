"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3-VL-MoE."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.config import read_config
from planner.families.qwen_vl import IMAGE_SIDE, QwenVLConfig
from planner.models import build_model
from planner.nodes import Node
from planner.sources import ConfigSource
from planner.workload import Step

QWEN2_2B: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vision_config": {"hidden_size": 1536, "in_chans": 3, "spatial_patch_size": 14},
    "vocab_size": 151936,
}
QWEN2_7B: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
}
QWEN3_8B: dict[str, Any] = {
    "text_config": {
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
    },
    "vision_config": {"out_hidden_size": 4096},
}
QWEN3_30B: dict[str, Any] = {
    "text_config": {
        "head_dim": 128,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
    },
    "vision_config": {"out_hidden_size": 2048},
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}
TOWER: dict[str, Any] = {"depth": 2, "image_size": 16, "num_heads": 2, "patch_size": 4}
QWEN2_TOWER: dict[str, Any] = {**TOWER, "embed_dim": 8, "hidden_size": 16, "mlp_ratio": 3}
QWEN25_TOWER: dict[str, Any] = {
    **TOWER,
    "fullatt_block_indexes": [1],
    "hidden_size": 8,
    "intermediate_size": 12,
    "out_hidden_size": 16,
    "window_size": 8,
}
QWEN3_TOWER: dict[str, Any] = {
    **TOWER,
    "deepstack_visual_indexes": [0, 1, 1],
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_position_embeddings": 9,
    "out_hidden_size": 16,
}


def tree(model_type: str, **keys: object) -> Node:
    return build_model(ConfigSource(name="q", raw={"model_type": model_type, **keys}, origin="config.json")).tree


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        ("qwen2_vl", QWEN2_2B, 2_208_985_600),  # Qwen/Qwen2-VL-2B-Instruct
        ("qwen2_vl", {**QWEN2_7B, "vision_config": {}}, 8_291_375_616),  # Qwen/Qwen2-VL-7B-Instruct
        (
            "qwen2_5_vl",  # Qwen/Qwen2.5-VL-7B-Instruct
            {**QWEN2_7B, "vision_config": {"hidden_size": 1280}},
            8_292_166_656,
        ),
        ("qwen3_vl", QWEN3_8B, 8_767_123_696),  # Qwen/Qwen3-VL-8B-Instruct
        ("qwen3_vl_moe", QWEN3_30B, 31_070_754_032),  # Qwen/Qwen3-VL-30B-A3B-Instruct
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def test_the_decoder_may_be_flat_or_nested(counts: Callable[..., Counts]) -> None:
    flat = counts("qwen2_vl", vision_config=QWEN2_TOWER, **TEXT)
    assert flat == counts("qwen2_vl", vision_config=QWEN2_TOWER, text_config=TEXT)
    # q, k and v have a bias, the output has none
    assert flat.breakdown["attention"] == 2 * 16 * 16 + 2 * 16 * 8 + 16 + 2 * 8


def test_an_override_reaches_flat_keys() -> None:
    source = ConfigSource(name="q", raw={"model_type": "qwen2_vl", **TEXT}, origin="config.json")
    model = build_model(source, {"num_hidden_layers": 3, "vision_config.depth": 4})
    assert model.config.text_config.num_hidden_layers == 3  # type: ignore[attr-defined]
    assert model.config.vision_config.depth == 4  # type: ignore[attr-defined]


ATTENTION = 4 * (8 * 8 + 8)
MERGED = 4 * 8
"""Four neighbours side by side."""
MERGER = MERGED * MERGED + MERGED + MERGED * 16 + 16


@pytest.mark.parametrize(
    ("model_type", "tower", "expected"),
    [
        (
            "qwen2_vl",
            QWEN2_TOWER,
            {
                "embeddings.other": 3 * 2 * 4 * 4 * 8,
                "mlp": 2 * (2 * 8 * 24 + 24 + 8) + MERGER,
                "norms": 2 * 2 * 16 + 16,
            },
        ),
        (
            "qwen2_5_vl",
            QWEN25_TOWER,
            {
                "embeddings.other": 3 * 2 * 4 * 4 * 8,
                "mlp": 2 * (3 * 8 * 12 + 2 * 12 + 8) + MERGER,
                "norms": 2 * 2 * 8 + 8,
            },
        ),
        (
            "qwen3_vl",
            QWEN3_TOWER,
            {
                "embeddings.other": 3 * 2 * 4 * 4 * 8 + 8,
                "embeddings.position": 9 * 8,
                # three layers hand features to the decoder, through mergers of their own
                "mlp": 2 * (2 * 8 * 12 + 12 + 8) + 4 * MERGER,
                "norms": 2 * 2 * 16 + 16 + 3 * 2 * MERGED,
            },
        ),
    ],
)
def test_the_tower_by_hand(
    counts: Callable[..., Counts], model_type: str, tower: dict[str, Any], expected: dict[str, int]
) -> None:
    breakdown = counts(model_type, text_config=TEXT, vision_config=tower).breakdown
    found = {name.removeprefix("vision."): held for name, held in breakdown.items() if name.startswith("vision.")}
    assert found == {"attention": 2 * ATTENTION, **expected}


@pytest.mark.parametrize(
    ("model_type", "patches", "tokens"),
    [("qwen2_vl", 64**2, 1024), ("qwen2_5_vl", 64**2, 1024), ("qwen3_vl", 56**2, 784), ("qwen3_vl_moe", 56**2, 784)],
)
def test_the_image_that_stands_for_all(model_type: str, patches: int, tokens: int) -> None:
    config, assumptions = read_config(family(model_type).config, {"model_type": model_type, "vision_config": {}})
    assert isinstance(config, QwenVLConfig)
    if model_type == "qwen2_5_vl":
        # its class defaults are no released tower's
        config = config.model_copy(update={"vision_config": config.vision_config.replaced({"hidden_size": 1280})})
    assert config.vision_config.num_patches == patches
    assert config.image_tokens == tokens
    assert any(line.startswith(f"vision_config.image_size = {IMAGE_SIDE}: not in the config") for line in assumptions)


@pytest.mark.parametrize(
    ("image_size", "patches"),
    # whole tokens of 8 pixels; whole windows of 16
    [(16, 4**2), (23, 4**2), (24, 6**2), (8, 2**2)],
)
def test_an_image_holds_whole_tokens(image_size: int, patches: int) -> None:
    flops = compute(tree("qwen2_vl", text_config=TEXT, vision_config={**QWEN2_TOWER, "image_size": image_size}), STEP)
    assert flops.components["vision.mlp"].forward >= 2 * 2 * patches * 2 * 8 * 24
    assert flops.components["vision.attention.scores"].forward == 2 * 2 * 2 * patches**2 * 8


STEP = Step(sequence_length=20, images=1)


def test_layers_of_windows_see_less() -> None:
    flops = compute(tree("qwen2_5_vl", text_config=TEXT, vision_config=QWEN25_TOWER), STEP)
    # one layer sees 16 patches, the other 4 windows of 4
    assert flops.components["vision.attention.scores"].forward == 2 * (16 * 16 + 4 * 4 * 4) * 2 * 8
    wide = {**QWEN25_TOWER, "window_size": 16}
    flops = compute(tree("qwen2_5_vl", text_config=TEXT, vision_config=wide), STEP)
    assert flops.components["vision.attention.scores"].forward == 2 * 2 * 16 * 16 * 2 * 8


def test_only_the_top_level_ties_the_head_of_qwen3(counts: Callable[..., Counts]) -> None:
    keys: dict[str, Any] = {"text_config": {**TEXT, "tie_word_embeddings": True}, "vision_config": QWEN3_TOWER}
    untied, tied = counts("qwen3_vl", **keys), counts("qwen3_vl", tie_word_embeddings=True, **keys)
    assert untied.total - tied.total == 50 * 16
    # in Qwen2-VL either does
    keys["vision_config"] = QWEN2_TOWER
    assert counts("qwen2_vl", **keys) == counts("qwen2_vl", tie_word_embeddings=True, **keys)


@pytest.mark.parametrize(
    ("model_type", "tower", "message"),
    [
        ("qwen2_vl", {**QWEN2_TOWER, "num_heads": 3}, "vision_config.num_heads: must divide hidden_size"),
        ("qwen2_vl", {**QWEN2_TOWER, "image_size": 7}, "vision_config.image_size: 7 pixels, but 8 is the least"),
        ("qwen2_5_vl", {**QWEN25_TOWER, "window_size": 7}, "vision_config.window_size: 7 pixels, but a token has 8"),
        (
            "qwen3_vl",
            {**QWEN3_TOWER, "deepstack_visual_indexes": [2]},
            "vision_config.deepstack_visual_indexes: names layer 2, but depth is 2",
        ),
    ],
)
def test_contradictions(counts: Callable[..., Counts], model_type: str, tower: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(model_type, text_config=TEXT, vision_config=tower)
