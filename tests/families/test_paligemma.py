"""PaliGemma 1 and 2."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.sources import ConfigSource

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50,
}
VISION: dict[str, Any] = {
    "hidden_size": 8,
    "image_size": 16,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 4,
    "vision_use_head": False,
}


def test_published_total(counts: Callable[..., Counts]) -> None:
    # google/paligemma-3b-pt-224, whose tower is SigLIP-so400m
    tower = {
        "hidden_size": 1152,
        "image_size": 224,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    }
    decoder = {
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "model_type": "gemma",
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "vocab_size": 257216,
    }
    assert counts("paligemma", text_config=decoder, vision_config=tower).total == 2_923_466_480


@pytest.mark.parametrize("text", ["gemma", "gemma2"])
def test_the_parts_by_hand(counts: Callable[..., Counts], text: str) -> None:
    whole = counts("paligemma", text_config={**TEXT, "model_type": text}, vision_config=VISION, projection_dim=16)
    tower = counts("siglip_vision_model", **VISION)
    assert whole.total == counts(text, **TEXT).total + tower.total + 8 * 16 + 16
    model = build_model(
        ConfigSource(
            name="p",
            raw={"model_type": "paligemma", "text_config": TEXT, "vision_config": VISION, "projection_dim": 16},
            origin="config.json",
        )
    )
    assert model.config.image_tokens == 16  # type: ignore[attr-defined]


def test_images_become_as_wide_as_text(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match=r"projection_dim: 8, but text_config.hidden_size is 16"):
        counts("paligemma", text_config=TEXT, vision_config=VISION, projection_dim=8)
