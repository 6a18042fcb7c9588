"""CLIP: two towers, and each of them alone."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError, UnsupportedError
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

LARGE: dict[str, Any] = {
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}
VISION: dict[str, Any] = {
    "hidden_size": 8,
    "image_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 4,
}
# q, k, v and output with biases; two matrices with biases; two norms
LAYER = 4 * (8 * 8 + 8) + (2 * 8 * 12 + 12 + 8) + 2 * 16
# class token, 3 x 4 x 4 pixels to 8 without a bias, 4 patches and the class token, two norms
TOWER = 8 + 48 * 8 + 5 * 8 + LAYER + 2 * 16


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        ({}, 151_277_313),  # openai/clip-vit-base-patch32; the class's defaults
        ({"vision_config": {"patch_size": 16}}, 149_620_737),  # openai/clip-vit-base-patch16
        (LARGE, 427_616_513),  # openai/clip-vit-large-patch14
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("clip", **keys).total == total


def test_the_tower_by_hand(counts: Callable[..., Counts]) -> None:
    assert counts("clip_vision_model", **VISION).total == TOWER
    projected = counts("clip_vision_model", "CLIPVisionModelWithProjection", projection_dim=6, **VISION)
    assert projected.total == TOWER + 8 * 6
    classified = counts("clip", "CLIPForImageClassification", vision_config=VISION, num_labels=5)
    assert classified.total == TOWER + 8 * 5 + 5


def test_buckets_of_the_tower_are_apart_where_there_is_a_text(counts: Callable[..., Counts]) -> None:
    alone, beside = counts("clip_vision_model", **VISION), counts("clip", vision_config=VISION)
    assert beside.breakdown["vision.attention"] == alone.breakdown["attention"] == 4 * (8 * 8 + 8)


def test_a_second_statement_of_a_tower_wins(counts: Callable[..., Counts]) -> None:
    """As in the class: what the second statement leaves out is the default, and not the first one's."""
    twice = counts("clip", vision_config={"hidden_size": 32, "num_hidden_layers": 2}, vision_config_dict=VISION)
    assert twice == counts("clip", vision_config=VISION)


def test_every_text_is_compared_with_every_image() -> None:
    tree = build_model(ConfigSource(name="clip", raw={"model_type": "clip"}, origin="config.json")).tree
    flops = compute(tree, Step(batch_size=3, sequence_length=77, images=2)).components
    # 3 texts, 6 images, 512 wide
    assert flops["other.misc.scores"].forward == 2 * 3 * 6 * 512
    # 6 images of 50 positions, 12 layers
    assert flops["vision.attention.scores"].forward == 6 * 12 * 2 * 50 * 50 * 2 * 768
    assert flops["projector"].forward == 2 * 3 * 512 * 512 + 2 * 6 * 768 * 512


def test_a_mask_makes_no_decoder() -> None:
    tree = build_model(ConfigSource(name="clip", raw={"model_type": "clip_text_model"}, origin="config.json")).tree
    with pytest.raises(UnsupportedError, match="no past"):
        compute(tree, Step(past=3))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vision_config": {"num_attention_heads": 5}}, "vision_config.num_attention_heads: must divide hidden_size"),
        ({"vision_config": {"patch_size": 300}}, "vision_config.patch_size: 300 pixels, but image_size is 224"),
        ({"text_config": {"num_attention_heads": 5}}, "text_config.num_attention_heads: must divide hidden_size"),
        ({"text_config": {"vocab_size": "x"}}, "text_config.vocab_size: expected a whole number"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("clip", **keys)
