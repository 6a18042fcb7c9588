"""Mistral Small 3 and Ministral 3 with images."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

MINISTRAL_3B: dict[str, Any] = {
    "text_config": {
        "hidden_size": 3072,
        "intermediate_size": 9216,
        "model_type": "ministral3",
        "num_hidden_layers": 26,
        "tie_word_embeddings": True,
    },
    "vision_config": {"image_size": 1540, "model_type": "pixtral", "patch_size": 14},
}
TINY: dict[str, Any] = {
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "model_type": "mistral",
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "vocab_size": 100,
    },
    "vision_config": {
        "hidden_size": 48,
        "image_size": 32,
        "intermediate_size": 80,
        "model_type": "pixtral",
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "patch_size": 8,
    },
}


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # hub total of mistralai/Ministral-3-3B-Instruct-2512
        (MINISTRAL_3B, 3_849_090_048),
        # hub total of mistralai/Mistral-Small-3.1-24B-Instruct-2503, its head a matrix of its own; the class's defaults
        ({"tie_word_embeddings": False}, 24_011_361_280),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("mistral3", **keys).total == total


def test_the_whole_under_the_type_of_its_decoder(counts: Callable[..., Counts]) -> None:
    """Configs of mlc-llm state ``ministral3`` for the whole."""
    whole = counts("ministral3", architectures=["Mistral3ForConditionalGeneration"], **MINISTRAL_3B)
    assert whole == counts("mistral3", **MINISTRAL_3B)
    # its decoder alone, head and table being one matrix
    text = {key: value for key, value in MINISTRAL_3B["text_config"].items() if key != "model_type"}
    alone = counts("ministral3", **text)
    assert whole.breakdown["attention"] == alone.breakdown["attention"]


def test_the_projector_by_hand(counts: Callable[..., Counts]) -> None:
    # norm, four patches into one, two matrices
    projector = 48 + 4 * 48 * 48 + 48 * 64 + 64 * 64
    assert counts("mistral3", **TINY).breakdown["projector"] == projector
    with_bias = counts("mistral3", **TINY, multimodal_projector_bias=True).breakdown["projector"]
    assert with_bias == projector + 2 * 64
    merged = counts("mistral3", **TINY, spatial_merge_size=4).breakdown["projector"]
    assert merged == projector + 12 * 48 * 48


def test_its_own_tie_decides(counts: Callable[..., Counts]) -> None:
    text = {**TINY["text_config"], "tie_word_embeddings": False}
    tied = counts("mistral3", **{**TINY, "text_config": text}).total
    assert tied == counts("mistral3", **TINY).total
    assert counts("mistral3", **TINY, tie_word_embeddings=False).total == tied + 100 * 64


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"spatial_merge_size": 5}, "spatial_merge_size: 5 patches of 8 pixels, but image_size is 32"),
        ({"vision_config": {"patch_size": 2000}}, "vision_config.patch_size: 2000 pixels"),
        ({"text_config": {"num_key_value_heads": 3}}, "text_config.num_key_value_heads: must divide"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("mistral3", **{**TINY, **keys})
