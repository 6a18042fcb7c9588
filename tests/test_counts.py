"""Totals that were taken from the real classes of transformers on the meta device, or published."""

from typing import Any

import numpy as np
import pytest

from planner.counts import count, held_tensors, parameters
from planner.families import family
from planner.families.config import read_config
from planner.models import Model, load_model
from planner.nodes import walk


def _model(name: str, class_name: str | None = None, **overrides: Any) -> Model:
    return load_model(name, class_name=class_name, overrides=overrides, offline=True)


@pytest.mark.parametrize(
    ("class_name", "total"),
    [
        ("BertModel", 109_482_240),
        ("BertForMaskedLM", 109_514_298),
        ("BertForPreTraining", 110_106_428),  # what the checkpoint on the hub holds
        ("BertForSequenceClassification", 109_483_778),
    ],
)
def test_one_config_has_several_totals(class_name: str, total: int) -> None:
    assert count(_model("bert-base-uncased", class_name).tree).total == total


@pytest.mark.parametrize(
    ("name", "total", "active", "active_excl_input_embedding"),
    [
        ("meta-llama/Llama-3.1-8B", 8_030_261_248, 8_030_261_248, 7_504_924_672),
        ("mistralai/Mixtral-8x7B-v0.1", 46_702_792_704, 12_879_925_248, 12_748_853_248),
        ("deepseek-ai/DeepSeek-V3", 671_026_404_352, 37_552_282_624, 36_625_603_584),
        ("openai/gpt-oss-120b", 116_829_156_672, 5_711_982_912, 5_132_849_472),  # the card says 5.13B
        ("openai-community/gpt2", 124_439_808, 124_439_808, 124_439_808),
        ("google/gemma-3-27b-it", 27_432_406_640, 27_432_406_640, 27_432_406_640),
        ("Qwen/Qwen3-235B-A22B", 235_093_634_560, 22_190_763_520, 21_568_433_664),
        ("google/flan-t5-base", 247_577_856, 247_577_856, 222_903_552),
        ("google/vit-base-patch16-224", 86_567_656, 86_567_656, 86_567_656),
    ],
)
def test_totals_of_every_kind(name: str, total: int, active: int, active_excl_input_embedding: int) -> None:
    counts = count(_model(name).tree)
    assert (counts.total, counts.active) == (total, active)
    assert counts.active_excl_input_embedding == active_excl_input_embedding


def test_the_breakdown_of_deepseek_v3() -> None:
    assert count(_model("deepseek-ai/DeepSeek-R1").tree).breakdown == {
        "embeddings.token": 926_679_040,
        "attention": 11_413_422_080,
        "norms": 1_006_592,
        "mlp": 1_189_085_184,
        "experts.routed": 653_908_770_816,
        "router": 106_430_464,
        "experts.shared": 2_554_331_136,
        "other.lm_head": 926_679_040,
    }


def test_a_tied_head_is_counted_once_and_named_when_stored_twice() -> None:
    counts = count(_model("Qwen/Qwen3-0.6B").tree)
    assert counts.total == 596_049_920
    assert counts.total_with_untied_head == 751_632_384  # what the hub shows


def test_untying_adds_the_head() -> None:
    tied, untied = (count(_model("openai-community/gpt2", tie_word_embeddings=tie).tree) for tie in (True, False))
    assert untied.total == tied.total_with_untied_head == tied.total + 50257 * 768


def test_a_bert_layer_is_twelve_squares_and_thirteen_widths() -> None:
    per_layer = {}
    for layers in (3, 4):
        per_layer[layers] = count(_model("bert-base-uncased", num_hidden_layers=layers).tree).total
    assert per_layer[4] - per_layer[3] == 12 * 768**2 + 13 * 768


def test_the_number_of_heads_does_not_change_the_count() -> None:
    counts = {count(_model("bert-base-uncased", num_attention_heads=heads).tree).total for heads in (1, 4, 12, 768)}
    assert len(counts) == 1


def test_a_row_holds_what_its_tensors_hold() -> None:
    for row in walk(_model("openai/gpt-oss-20b").tree):
        assert parameters(row) == row.copies * sum(tensor.numel for tensor in held_tensors(row))


def test_a_column_of_widths_equals_each_width_alone() -> None:
    llama = family("llama")
    config, _ = read_config(llama.config, {"model_type": "llama", "num_key_value_heads": 8})
    widths, layers = np.array([1024.0, 4096.0, 8192.0]), np.array([4.0, 32.0, 80.0])
    build = llama.classes["LlamaForCausalLM"]
    column = count(build(config.replaced({"hidden_size": widths, "num_hidden_layers": layers})))
    for index in range(len(widths)):
        alone = {"hidden_size": int(widths[index]), "num_hidden_layers": int(layers[index])}
        single = count(build(config.replaced(alone)))
        assert np.asarray(column.total)[index] == single.total
        assert np.asarray(column.breakdown["attention"])[index] == single.breakdown["attention"]
