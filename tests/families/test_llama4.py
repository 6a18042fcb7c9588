"""Llama 4: experts, chunks of the sequence, and tiles of an image."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families.decoder import FULL
from planner.families.llama4 import CHUNKED, Llama4TextConfig
from planner.models import build_model
from planner.nodes import Node
from planner.sources import ConfigSource
from planner.workload import Step

TOWER: dict[str, Any] = {"hidden_size": 1408, "image_size": 336, "vision_output_dim": 4096}
MAVERICK: dict[str, Any] = {"interleave_moe_layer_step": 2, "num_local_experts": 128}
TEXT: dict[str, Any] = {
    "attention_chunk_size": 8,
    "head_dim": 4,
    "hidden_size": 16,
    "intermediate_size": 12,
    "intermediate_size_mlp": 20,
    "interleave_moe_layer_step": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 3,
    "vocab_size": 50,
}
VISION: dict[str, Any] = {
    "hidden_size": 8,
    "image_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 4,
    "projector_input_dim": 10,
    "projector_output_dim": 10,
    "vision_output_dim": 10,
}
TINY: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION}


def text(**keys: object) -> Node:
    raw = {"model_type": "llama4_text", **TEXT, **keys}
    return build_model(ConfigSource(name="l", raw=raw, origin="config.json")).tree


@pytest.mark.parametrize(
    ("decoder", "total", "active_without_table"),
    [
        # meta-llama/Llama-4-Scout-17B-16E-Instruct and -Maverick-17B-128E-Instruct; both cards say 17B active
        ({}, 108_641_793_536, 17_010_341_376),
        (MAVERICK, 401_583_781_376, 17_022_137_856),
    ],
)
def test_published_totals(
    counts: Callable[..., Counts], decoder: dict[str, Any], total: int, active_without_table: int
) -> None:
    found = counts("llama4", text_config=decoder, vision_config=TOWER)
    assert (found.total, found.active_excl_input_embedding) == (total, active_without_table)


def test_the_parts_by_hand(counts: Callable[..., Counts]) -> None:
    breakdown = counts("llama4", **TINY).breakdown
    # layers 1 and 3 of 4 have experts
    assert breakdown["experts.routed"] == 2 * 3 * 3 * 16 * 12
    assert breakdown["experts.shared"] == 2 * 3 * 16 * 12
    assert breakdown["router"] == 2 * 3 * 16
    assert breakdown["mlp"] == 2 * 3 * 16 * 20
    assert breakdown["projector"] == 10 * 16
    # a layer, and two matrices without biases over four patches side by side
    assert breakdown["vision.mlp"] == 2 * 8 * 32 + 32 + 8 + 32 * 10 + 10 * 10
    assert breakdown["vision.embeddings.other"] == 3 * 4 * 4 * 8 + 8
    assert breakdown["vision.embeddings.position"] == 17 * 8


@pytest.mark.parametrize(
    ("flags", "routed"),
    [
        ({}, [1, 3]),
        ({"interleave_moe_layer_step": 1}, [0, 1, 2, 3]),
        ({"interleave_moe_layer_step": 3}, [2]),
        ({"moe_layers": [0, 2]}, [0, 2]),
        ({"moe_layers": []}, []),
    ],
)
def test_which_layers_have_experts(flags: dict[str, Any], routed: list[int]) -> None:
    config = Llama4TextConfig(**{**TEXT, **flags})
    assert [layer for layer in range(4) if config.has_experts(layer)] == routed


@pytest.mark.parametrize(
    ("flags", "kinds"),
    [
        ({}, [CHUNKED, CHUNKED, CHUNKED, FULL]),
        ({"no_rope_layer_interval": 2}, [CHUNKED, FULL, CHUNKED, FULL]),
        ({"no_rope_layers": [0, 1, 0, 1]}, [FULL, CHUNKED, FULL, CHUNKED]),
        # as in the class, an empty list is no list
        ({"no_rope_layers": []}, [CHUNKED, CHUNKED, CHUNKED, FULL]),
        ({"attention_chunk_size": None}, [FULL] * 4),
        ({"layer_types": [FULL, FULL, FULL, CHUNKED]}, [FULL, FULL, FULL, CHUNKED]),
    ],
)
def test_which_layers_attend_within_chunks(flags: dict[str, Any], kinds: list[str]) -> None:
    assert Llama4TextConfig(**{**TEXT, **flags}).kinds() == kinds


def test_a_mask_keeps_what_lies_in_the_own_chunk() -> None:
    scores = 2 * 4 * (4 + 4)
    result = compute(text(), Step(sequence_length=20)).conventions
    # chunks of 8, 8 and 4 in three layers, and every token in one
    chunks = 2 * (8 * 9 // 2) + 4 * 5 // 2
    executed, kept = 4 * 20 * 20, 3 * chunks + 20 * 21 // 2
    assert result["matmul"].forward - result["masked"].forward == (executed - kept) * scores


def test_a_cache_of_chunks_is_as_long_as_a_chunk() -> None:
    scores = 2 * 4 * (4 + 4)
    result = compute(text(), Step(sequence_length=1, past=20))
    # at most 7 before the new token in three layers, all 20 in one
    assert result.components["attention.scores"].forward == (3 * 8 + 21) * scores
    # position 20 is the fifth of its chunk
    saved = result.conventions["matmul"].forward - result.conventions["masked"].forward
    assert saved == 3 * (8 - 5) * scores


def test_a_token_visits_the_experts_that_it_is_routed_to() -> None:
    flops = compute(text(), Step(sequence_length=7)).components
    assert flops["experts.routed"].forward == 2 * 7 * 2 * 3 * 16 * 12
    flops = compute(text(num_experts_per_tok=2), Step(sequence_length=7)).components
    assert flops["experts.routed"].forward == 2 * 2 * 7 * 2 * 3 * 16 * 12


def test_an_image_is_a_quarter_of_its_patches() -> None:
    raw = {"model_type": "llama4", **TINY}
    model = build_model(ConfigSource(name="l", raw=raw, origin="config.json"))
    assert model.config.image_tokens == 4  # type: ignore[attr-defined]
    flops = compute(model.tree, Step(sequence_length=20, images=2)).components
    assert flops["projector"].forward == 2 * 2 * 4 * 10 * 16
    # 17 positions through the layer, 4 through the last two matrices
    assert flops["vision.mlp"].forward == 2 * 2 * (17 * 2 * 8 * 32 + 4 * (32 * 10 + 10 * 10))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_config": {**TEXT, "num_experts_per_tok": 4}}, "4 experts a token, but there are 3"),
        ({"text_config": {**TEXT, "layer_types": [FULL]}}, "text_config.layer_types: lists 1 layers"),
        ({"text_config": {**TEXT, "layer_types": ["x"] * 4}}, "expected chunked_attention or full_attention, got 'x'"),
        ({"vision_config": {**VISION, "pixel_shuffle_ratio": 0.7}}, "expected one over a whole number, got 0.7"),
        ({"vision_config": {**VISION, "image_size": 20}}, r"vision_config.pixel_shuffle_ratio: must divide image_size"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("llama4", **{**TINY, **keys})
