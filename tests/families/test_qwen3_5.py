"""Qwen3.5: published totals with and without experts, the decoder alone, and the image tower."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.sources import ConfigSource
from planner.workload import Step

TEXT_27B = {
    "hidden_size": 5120,
    "intermediate_size": 17408,
    "linear_num_value_heads": 48,
    "num_attention_heads": 24,
    "num_hidden_layers": 64,
}
TEXT_397B = {
    "hidden_size": 4096,
    "linear_num_value_heads": 64,
    "moe_intermediate_size": 1024,
    "num_attention_heads": 32,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 60,
    "shared_expert_intermediate_size": 1024,
}


def model_of(model_type: str, **keys: Any) -> Model:
    return build_model(ConfigSource(name="test", raw={"model_type": model_type, **keys}, origin="config.json"))


def with_tower(model_type: str, text: dict[str, int], out: int) -> Model:
    return model_of(model_type, text_config=text, vision_config={"out_hidden_size": out})


@pytest.mark.parametrize(
    ("model_type", "text", "out", "published"),
    [
        # KerasHub 0.32.0, presets qwen3_5_27b and qwen3_5_moe_35b_a3b; the latter is the class's defaults
        ("qwen3_5", TEXT_27B, 5120, 27_356_728_560),
        ("qwen3_5_moe", {}, 2048, 35_107_181_936),
        # safetensors total of Qwen/Qwen3.5-397B-A17B on the hub, less its MTP module: a layer with attention and
        # experts (6,562,001,408), a matrix of both inputs and three norms
        ("qwen3_5_moe", TEXT_397B, 4096, 403_397_928_944 - 6_562_001_408 - 2 * 4096**2 - 3 * 4096),
    ],
)
def test_published_totals(model_type: str, text: dict[str, int], out: int, published: int) -> None:
    assert count(with_tower(model_type, text, out).tree).total == published


def test_the_decoder_alone_is_what_the_tower_leaves() -> None:
    whole, text = count(with_tower("qwen3_5", TEXT_27B, 5120).tree), count(model_of("qwen3_5_text", **TEXT_27B).tree)
    tower = sum(value for bucket, value in whole.breakdown.items() if bucket.startswith("vision."))
    assert whole.total - text.total == tower
    # 27 layers 1152 wide, and a merger of four patches
    assert whole.breakdown["vision.attention"] == 27 * 4 * (1152**2 + 1152)
    merger = 4608 * (4608 + 1) + 5120 * (4608 + 1)
    assert whole.breakdown["vision.mlp"] == 27 * (2 * 1152 * 4304 + 4304 + 1152) + merger


def test_scans_see_text_and_image_tokens_alike() -> None:
    tree = model_of("qwen3_5_text", **TEXT_27B).tree
    assert compute(tree, Step(sequence_length=3)).scans == 3 * 48 * 48 * 128 * 128 * 7


def test_labels_on_the_whole_model() -> None:
    model = with_tower("qwen3_5", TEXT_27B, 5120)
    headless, labelled, tagged = (
        count(model.family.classes[f"Qwen3_5{name}"](model.config)).total
        for name in ("Model", "ForSequenceClassification", "ForTokenClassification")
    )
    assert (labelled - headless, tagged - headless) == (2 * 5120, 2 * 5120 + 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vision_config": {"deepstack_visual_indexes": [1]}}, "deepstack_visual_indexes: expected an empty list"),
        ({"text_config": {"num_experts_per_tok": 257}}, "text_config.num_experts_per_tok: 257 experts a token"),
        ({"text_config": {"linear_num_key_heads": 3}}, "text_config.linear_num_key_heads: must divide"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of("qwen3_5_moe", **keys)
