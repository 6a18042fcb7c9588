"""Idefics3 and SmolVLM."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
}
VISION: dict[str, Any] = {
    "hidden_size": 8,
    "image_size": 16,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 4,
}
TINY: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION}


def test_published_total(counts: Callable[..., Counts]) -> None:
    # HuggingFaceTB/SmolVLM-256M-Instruct: SmolLM2-135M with 129 more tokens, and SigLIP-base for 512 pixels
    decoder = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "vocab_size": 49280,
    }
    tower = {"hidden_size": 768, "image_size": 512, "num_attention_heads": 12, "patch_size": 16}
    found = counts("idefics3", text_config=decoder, vision_config=tower, scale_factor=4)
    assert found.total == 256_484_928


@pytest.mark.parametrize("model_type", ["idefics3", "smolvlm"])
def test_the_parts_by_hand(counts: Callable[..., Counts], model_type: str) -> None:
    whole = counts(model_type, **TINY)
    tower = counts("siglip_vision_model", vision_use_head=False, **VISION)
    # four patches side by side, without a bias
    assert whole.total == counts(**TEXT).total + tower.total + 4 * 8 * 16
    assert whole.breakdown["projector"] == 4 * 8 * 16
    assert counts(model_type, tie_word_embeddings=True, **TINY).total == whole.total - 50 * 16


def test_an_image_is_a_quarter_of_its_patches() -> None:
    raw = {"model_type": "smolvlm", **TINY}
    model = build_model(ConfigSource(name="s", raw=raw, origin="config.json"))
    assert model.config.image_tokens == 4  # type: ignore[attr-defined]
    flops = compute(model.tree, Step(sequence_length=20, images=2)).components
    assert flops["vision.mlp"].forward == 2 * 2 * 16 * 2 * 8 * 12
    assert flops["projector"].forward == 2 * 2 * 4 * 32 * 16
