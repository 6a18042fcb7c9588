"""SigLIP: two towers, a pooling head, and Gemma 3's use of the tower."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

VISION: dict[str, Any] = {
    "hidden_size": 8,
    "image_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 4,
}
ATTENTION, MLP, NORM = 4 * (8 * 8 + 8), 2 * 8 * 12 + 12 + 8, 16
# 3 x 4 x 4 pixels to 8 with a bias, 4 patches, a layer with two norms, a last norm
TOWER = 48 * 8 + 8 + 4 * 8 + ATTENTION + MLP + 2 * NORM + NORM
# one query; an attention whose three projections are one tensor; a norm and an MLP
HEAD = 8 + ATTENTION + NORM + MLP


def test_published_total(counts: Callable[..., Counts]) -> None:
    assert counts("siglip").total == 203_155_970  # google/siglip-base-patch16-224; the class's defaults


@pytest.mark.parametrize(("head", "total"), [(True, TOWER + HEAD), (False, TOWER)])
def test_the_tower_by_hand(counts: Callable[..., Counts], head: bool, total: int) -> None:
    assert counts("siglip_vision_model", vision_use_head=head, **VISION).total == total


def test_the_projection_of_the_text(counts: Callable[..., Counts]) -> None:
    plain, projected = counts("siglip_text_model"), counts("siglip_text_model", projection_size=100)
    assert plain.total - projected.total == (768 + 1) * (768 - 100)


def test_the_head_pools_with_one_query() -> None:
    raw = {"model_type": "siglip_vision_model", **VISION}
    flops = compute(build_model(ConfigSource(name="s", raw=raw, origin="config.json")).tree, Step(batch_size=3))
    # 4 patches through a layer; then the query alone, keys and values of 4 patches, and the query's output
    projections = 4 * 4 * 8 * 8 + (1 + 2 * 4 + 1) * 8 * 8
    assert flops.components["attention"].forward == 3 * 2 * projections
    # 4 x 4 pairs in the layer, 1 x 4 in the head
    assert flops.components["attention.scores"].forward == 3 * 2 * (16 + 4) * 2 * 8


def test_gemma_may_have_a_pooling_head(counts: Callable[..., Counts]) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50}
    without, with_head = (
        counts(
            "gemma3", text_config=text, vision_config={**VISION, "vision_use_head": head}, mm_tokens_per_image=4
        ).total
        for head in (False, True)
    )
    assert with_head - without == HEAD
