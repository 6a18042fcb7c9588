"""Llama 3.2 Vision."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.nodes import Node
from planner.sources import ConfigSource
from planner.workload import Step

LARGE: dict[str, Any] = {
    "cross_attention_layers": list(range(3, 100, 5)),
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_hidden_layers": 100,
}
VISION: dict[str, Any] = {
    "attention_heads": 2,
    "hidden_size": 8,
    "image_size": 8,
    "intermediate_layers_indices": [1],
    "intermediate_size": 12,
    "num_global_layers": 1,
    "num_hidden_layers": 2,
    "patch_size": 4,
    "vision_output_dim": 16,
}
TEXT: dict[str, Any] = {
    "cross_attention_layers": [1],
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}
TINY: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION}
PADDED = 4 * 8
"""Positions that the tower's layers see: 4 tiles of 4 patches and a class token, each padded to 8."""


def tree(**keys: object) -> Node:
    return build_model(ConfigSource(name="m", raw={"model_type": "mllama", **TINY, **keys}, origin="config.json")).tree


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ({}, 10_670_220_835),  # meta-llama/Llama-3.2-11B-Vision-Instruct; the class's defaults for larger images
        (LARGE, 88_593_355_323),  # meta-llama/Llama-3.2-90B-Vision-Instruct
    ],
)
def test_published_totals(counts: Callable[..., Counts], text: dict[str, Any], total: int) -> None:
    assert counts("mllama", text_config=text, vision_config={"image_size": 560}).total == total


def test_the_decoder_by_hand(counts: Callable[..., Counts]) -> None:
    breakdown = counts("mllama", **TINY).breakdown
    assert breakdown["embeddings.token"] == (50 + 8) * 16
    assert breakdown["other.lm_head"] == 50 * 16
    # queries and output, keys and values of 2 heads of 4: two layers see the text, one the images, with two gates
    assert breakdown["attention"] == 2 * (2 * 16 * 16 + 2 * 16 * 8)
    assert breakdown["attention.cross"] == 2 * 16 * 16 + 2 * 16 * 8 + 2
    assert breakdown["mlp"] == 3 * 3 * 16 * 20
    # two a layer and a last one; over queries and keys of the layer that sees images
    assert breakdown["norms"] == 7 * 16 + 2 * 4
    assert breakdown["projector"] == 16 * 16 + 16


def test_the_tower_by_hand(counts: Callable[..., Counts]) -> None:
    breakdown = counts("mllama", **TINY).breakdown
    # no biases; a gate in the second encoder
    assert breakdown["vision.attention"] == 3 * 4 * 8 * 8 + 1
    assert breakdown["vision.mlp"] == 3 * (2 * 8 * 12 + 12 + 8) + 1
    # 5 positions; for 8 aspect ratios and none, 4 tiles of them; a gate
    assert breakdown["vision.embeddings.position"] == 5 * 8 + 9 * 4 * 5 * 8 + 1
    assert breakdown["vision.embeddings.type"] == 2 * (9 * 4 * 8 + 1)
    assert breakdown["vision.embeddings.other"] == 8 + 48 * 8


def test_without_images_the_layers_that_look_at_them_are_left_out() -> None:
    flops = compute(tree(), Step(batch_size=2, sequence_length=10)).components
    assert flops["mlp"].forward == 2 * 10 * 2 * 2 * 3 * 16 * 20
    assert flops["attention.cross"].forward == flops["vision.mlp"].forward == flops["projector"].forward == 0


def test_an_image_is_all_of_its_tiles() -> None:
    flops = compute(tree(), Step(batch_size=2, sequence_length=10, images=3)).components
    assert flops["vision.mlp"].forward == 2 * 6 * 3 * PADDED * 2 * 8 * 12
    assert flops["vision.attention.scores"].forward == 2 * 6 * 3 * PADDED**2 * 2 * 8
    # the mask of an image, one product of a column with a row
    assert flops["vision.other.misc"].forward == 2 * 6 * PADDED**2
    assert flops["vision.other.misc"].backward == 0
    # 10 queries of each sample see 3 images of 4 tiles of 5 positions
    assert flops["attention.cross.scores"].forward == 2 * 2 * 10 * (3 * 20) * 2 * 16
    # queries and output of the text, keys and values of the images
    assert flops["attention.cross"].forward == 2 * 2 * 10 * 2 * 16 * 16 + 2 * 6 * 20 * 2 * 16 * 8
    assert flops["mlp"].forward == 2 * 2 * 10 * 3 * 3 * 16 * 20


def test_while_decoding_only_the_keys_of_images_are_left() -> None:
    flops = compute(tree(), Step(sequence_length=1, past=10, images=3)).components
    assert flops["vision.mlp"].forward == flops["projector"].forward == 0
    assert flops["attention.cross"].forward == 2 * 2 * 16 * 16
    assert flops["attention.cross.scores"].forward == 2 * 60 * 2 * 16


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"text_config": {**TEXT, "cross_attention_layers": [3]}},
            "text_config.cross_attention_layers: names layer 3, but num_hidden_layers is 3",
        ),
        (
            {"vision_config": {**VISION, "vision_output_dim": 24}},
            "vision_config.vision_output_dim: 24, but 2 layers of 8 are put side by side",
        ),
        (
            {"vision_config": {**VISION, "num_attention_heads": 4}},
            "vision_config.num_attention_heads: is 4, but its other name attention_heads is 2",
        ),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("mllama", **{**TINY, **keys})
