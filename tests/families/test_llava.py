"""LLaVA: any tower and any decoder, chosen by the model types of the nested configs."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families.clip import CLIPVisionConfig
from planner.families.llava import LlavaConfig
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

VISION: dict[str, Any] = {
    "hidden_size": 8,
    "image_size": 8,
    "intermediate_size": 12,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 4,
}
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
}
TINY: dict[str, Any] = {"text_config": TEXT, "vision_config": VISION}
PROJECTOR = 8 * 16 + 16 + 16 * 16 + 16


def test_published_total(counts: Callable[..., Counts]) -> None:
    # llava-hf/llava-1.5-7b-hf: a decoder of which only the vocabulary is stated, and the default tower
    assert counts("llava", text_config={"model_type": "llama", "vocab_size": 32064}).total == 7_063_427_072


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
@pytest.mark.parametrize("vision", ["clip_vision_model", "siglip_vision_model"])
def test_parts_are_counted_as_they_are_alone(counts: Callable[..., Counts], text: str, vision: str) -> None:
    decoder = {**TEXT, "head_dim": 6, "num_key_value_heads": 2, "model_type": text, "tie_word_embeddings": False}
    whole = counts("llava", text_config=decoder, vision_config={**VISION, "model_type": vision})
    alone = counts(**decoder).total + counts(**{**VISION, "model_type": vision}).total
    assert whole.total == alone + PROJECTOR
    assert whole.breakdown["projector"] == PROJECTOR


@pytest.mark.parametrize(
    ("model_type", "flags", "projector"),
    [
        ("llava", {}, PROJECTOR),
        ("llava", {"multimodal_projector_bias": False}, PROJECTOR - 2 * 16),
        ("llava", {"vision_feature_layer": [-2, 1]}, PROJECTOR + 8 * 16),
        # a norm over two layers side by side
        ("vipllava", {"vision_feature_layer": [-2, 1]}, PROJECTOR + 8 * 16 + 2 * 16),
    ],
)
def test_the_projector_by_hand(
    counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], projector: int
) -> None:
    assert counts(model_type, **TINY, **flags).breakdown["projector"] == projector


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True)])
def test_the_head_is_tied_by_either_config(counts: Callable[..., Counts], outer: bool, inner: bool) -> None:
    untied = counts("llava", **TINY)
    text = {**TEXT, "tie_word_embeddings": inner}
    tied = counts("llava", text_config=text, vision_config=VISION, tie_word_embeddings=outer)
    assert untied.total - tied.total == 50 * 16


@pytest.mark.parametrize(("strategy", "tokens"), [("default", 4), ("full", 5)])
def test_an_image_is_as_many_tokens_as_patches(strategy: Any, tokens: int) -> None:
    tower = CLIPVisionConfig(**{key: value for key, value in VISION.items() if key != "model_type"})
    assert LlavaConfig(vision_config=tower, vision_feature_select_strategy=strategy).image_tokens == tokens


def test_the_tower_runs_once_an_image_and_not_while_decoding() -> None:
    tree = build_model(ConfigSource(name="llava", raw={"model_type": "llava", **TINY}, origin="config.json")).tree

    def tower(**step: int) -> float:
        return compute(tree, Step(**step)).components["vision.mlp"].forward  # type: ignore[arg-type, return-value]

    # 3 layers, 5 positions
    assert tower(batch_size=2, sequence_length=20, images=3) == 2 * 3 * 2 * 3 * 5 * 2 * 8 * 12
    assert tower(sequence_length=20) == 0
    assert tower(sequence_length=1, past=20, images=3) == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_config": {**TEXT, "model_type": "lama"}}, "no builder for model_type 'lama' .*did you mean 'llama'"),
        ({"text_config": {**TEXT, "model_type": "vit"}}, "text_config: input should be .*DecoderConfig"),
        ({"text_config": 3}, "text_config: expected a mapping of keys, got 3"),
        ({"text_config": {**TEXT, "hidden_size": "x"}}, "text_config.hidden_size: expected a whole number, got 'x'"),
        ({"text_config": {**TEXT, "num_attention_heads": 5}}, "text_config.num_attention_heads: must divide"),
        ({"vision_feature_layer": []}, "vision_feature_layer: expected a layer or a list of layers"),
        ({"vision_feature_select_strategy": "half"}, "vision_feature_select_strategy: input should be"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("llava", **{**TINY, **keys})


def test_a_key_that_the_chosen_family_does_not_read_is_said() -> None:
    raw = {"model_type": "llava", "text_config": {**TEXT, "num_experts": 4}, "vision_config": VISION}
    model = build_model(ConfigSource(name="llava", raw=raw, origin="config.json"))
    assert any(line.startswith("text_config.num_experts = 4: not read") for line in model.assumptions)
    changed = build_model(
        ConfigSource(name="llava", raw={"model_type": "llava", **TINY}, origin="config.json"),
        {"text_config.num_hidden_layers": 3},
    )
    assert changed.config.text_config.num_hidden_layers == 3  # type: ignore[attr-defined]
