"""What the catalog says about how classes compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest

from planner.catalog import read_facts
from planner.families import MODEL_TYPES
from planner.families.style import STYLES, style_of
from planner.models import Model
from planner.nodes import Module, Style

TinyModel = Callable[..., Model]


@pytest.mark.parametrize("model_type", sorted(read_facts(STYLES)))
def test_every_fact_is_a_word_that_a_style_knows(model_type: str) -> None:
    assert model_type in MODEL_TYPES
    style = style_of(model_type, {})
    for name, kind in get_type_hints(Style).items():
        words = [word for word in get_args(kind) if isinstance(word, str)]
        assert not words or getattr(style, name) in words


def test_a_config_names_its_activation_itself() -> None:
    assert style_of("gpt2", {}).activation == "gelu_new"
    assert style_of("gpt2", {"activation_function": "relu"}).activation == "relu"
    assert style_of("t5", {"feed_forward_proj": "gated-gelu"}).activation == "gelu_new"
    # the second name overrides the first
    assert style_of("gemma", {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}).activation == (
        "gelu_pytorch_tanh"
    )


def test_the_share_of_a_head_that_is_turned_may_stand_in_the_rotary_parameters() -> None:
    assert style_of("gpt_neox", {}).rotary_share == 0.25
    assert style_of("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.5}}).rotary_share == 0.5


def test_a_whole_has_the_style_of_its_decoder() -> None:
    raw = {"text_config": {"model_type": "gemma3_text", "hidden_act": "relu"}}
    style = style_of("gemma3", raw)
    assert (style.norm, style.activation) == ("rms_plus_one", "relu")


def test_a_type_may_compute_as_another() -> None:
    assert style_of("kimi_k2", {}) == style_of("deepseek_v3", {})
    assert style_of("mt5", {}).activation == "gelu_new"
    assert style_of("mt5", {}).norm == style_of("t5", {}).norm


def test_a_built_tree_carries_its_style(tiny_model: TinyModel) -> None:
    tree = tiny_model("gemma2").tree
    assert isinstance(tree, Module)
    assert tree.style is not None
    assert tree.style.scores_capped
