"""Bad configs: one clear error that names the file and the key."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.errors import ConfigError, UnknownNameError, UnsupportedError
from planner.families import MODEL_TYPES, MODULES, all_families, family
from planner.families.config import dimension_names, known_keys, read_config
from planner.models import build_model, load_model
from planner.sources import ConfigSource

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
}


def _build(**changes: Any) -> Any:
    raw = {key: value for key, value in {**LLAMA, **changes}.items() if value != "absent"}
    return build_model(ConfigSource(name="test", raw=raw, origin="config.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, r"num_attention_heads: must divide hidden_size \(64 / 5\)"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads"),
        ({"hidden_size": -64}, "hidden_size: expected a positive number up to 2\\*\\*40, got -64"),
        ({"hidden_size": 0}, "hidden_size: expected a positive number"),
        ({"hidden_size": 2**41}, "hidden_size: expected a positive number"),
        ({"hidden_size": "64"}, "hidden_size: expected a whole number, got '64'"),
        ({"hidden_size": 64.0}, "hidden_size: expected a whole number, got 64.0"),
        ({"hidden_size": True}, "hidden_size: expected a whole number, got True"),
        ({"hidden_size": [64]}, r"hidden_size: expected a whole number, got \[64\]"),
        ({"hidden_size": float("nan")}, "hidden_size: expected a whole number, got nan"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: expected at most 100,000, got 1000000"),
        ({"attention_bias": "yes"}, "attention_bias: input should be a valid boolean, got 'yes'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: input should be a valid boolean"),
        ({"model_type": "absent"}, "model_type: is missing, expected the name of an architecture"),
        ({"model_type": 7}, "model_type: is missing"),
        ({"architectures": "LlamaForCausalLM"}, "architectures: expected a list"),
        ({"architectures": ["LlamaForCausalML"]}, "did you mean 'LlamaForCausalLM'"),
    ],
)
def test_a_wrong_key_is_named_with_what_was_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"config.json: {message}|config.json.*{message}"):
        _build(**changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", {"num_experts_per_tok": 9}, "9 experts a token, but there are 8"),
        ("deepseek-ai/DeepSeek-V3", {"first_k_dense_replace": 62}, "62 dense layers, but num_hidden_layers is 61"),
        ("openai/gpt-oss-20b", {"num_hidden_layers": 3}, "layer_types: lists 24 layers, but num_hidden_layers is 3"),
        ("openai/gpt-oss-20b", {"layer_types": ["x"] * 24}, "expected sliding_attention or full_attention, got 'x'"),
        ("google-t5/t5-small", {"feed_forward_proj": "gated-gelu-new"}, "feed_forward_proj: expected an activation"),
        ("google/vit-base-patch16-224", {"patch_size": 500}, "patch_size: 500 pixels, but image_size is 224"),
        ("google/vit-base-patch16-224", {"image_size": [224, 112]}, "image_size: expected a whole number"),
        ("bert-base-uncased", {"add_cross_attention": True}, "cross-attention layers are not supported"),
        ("openai-community/gpt2", {"n_head": 7}, r"n_head: must divide n_embd \(768 / 7\)"),
        ("google/gemma-3-4b-it", {"text_config.num_key_value_heads": 3}, "num_key_value_heads: must divide"),
        ("google/gemma-3-4b-it", {"vision_config.hidden_size": "x"}, "vision_config.hidden_size: expected a whole"),
    ],
)
def test_keys_that_contradict_each_other(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(name, overrides=changes)


def test_a_dimension_under_two_names_must_agree() -> None:
    raw = {"model_type": "gpt2", "n_embd": 768, "hidden_size": 1024}
    with pytest.raises(ConfigError, match="n_embd: is 768, but its other name hidden_size is 1024"):
        build_model(ConfigSource(name="test", raw=raw, origin="config.json"))


def test_an_override_replaces_the_other_spelling() -> None:
    model = load_model("openai-community/gpt2", overrides={"num_hidden_layers": 3})
    assert model.config.n_layer == 3  # type: ignore[attr-defined]


def test_an_unknown_architecture_offers_the_near_miss() -> None:
    with pytest.raises(UnsupportedError, match="neither a builder nor transformers knows .*did you mean .*'llama'"):
        _build(model_type="llamma", architectures="absent")


def test_an_unknown_class_offers_the_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'BertForPreTraining'"):
        load_model("bert-base-uncased", class_name="BertForPretraining")


def test_a_key_that_nobody_reads_is_said() -> None:
    (line,) = [line for line in _build(num_experts=8).assumptions if "not read" in line]
    assert line.startswith("num_experts = 8: not read by this family")


def test_a_key_that_shapes_nothing_is_not_worth_a_line() -> None:
    assert not [line for line in _build(attention_dropout=0.1, bos_token_id=1).assumptions if "not read" in line]


def test_an_unread_key_of_a_nested_config_has_its_path() -> None:
    model = load_model("google/gemma-3-4b-it", overrides={"text_config.vocab_size": 300})
    raw = {**model.raw, "text_config": {**model.raw["text_config"], "num_experts": 4}}
    built = build_model(ConfigSource(name="test", raw=raw, origin="config.json"))
    assert any(line.startswith("text_config.num_experts = 4: not read") for line in built.assumptions)


def test_a_default_that_stands_in_for_a_key_is_said() -> None:
    assert any(line.startswith("attention_bias = False: not in the config") for line in _build().assumptions)


def test_no_class_in_the_config_is_said() -> None:
    model = _build(architectures="absent")
    assert model.class_name == "LlamaForCausalLM"
    assert model.assumptions[0].startswith("class LlamaForCausalLM: the config names none")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("num_hiden_layers", "is read by no builder \\(did you mean 'num_hidden_layers'"),
        ("hidden_dropout_prob", "shapes no tensor, so setting it changes nothing"),
    ],
)
def test_an_override_without_effect_is_an_error(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model("bert-base-uncased", overrides={key: 1})


def test_labels_may_be_counted_by_their_names() -> None:
    labels = {"0": "a", "1": "b", "2": "c"}
    raw = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": labels}
    assert build_model(ConfigSource(name="test", raw=raw, origin="config.json")).config.num_labels == 3


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_is_found_by_its_model_type(model_type: str) -> None:
    found = family(model_type)
    assert found.model_type == model_type
    assert found.default_class in found.classes


def test_the_registry_lists_the_files() -> None:
    folder = Path(family.__wrapped__.__code__.co_filename).parent
    defining = {path.stem for path in folder.glob("*.py") if "\nFAMILIES = " in path.read_text(encoding="utf-8")}
    assert defining == set(MODULES)
    for module, model_types in MODULES.items():
        declared = {found.model_type for found in all_families() if found.model_type in model_types}
        assert declared == set(model_types), module


def test_dimensions_are_found_by_their_validator() -> None:
    names = dimension_names(family("llama").config)
    assert {"hidden_size", "num_key_value_heads", "head_dim", "num_hidden_layers", "vocab_size"} <= names
    assert not {"attention_bias", "tie_word_embeddings"} & names
    assert "num_hidden_layers" not in dimension_names(family("gemma2").config)


def test_every_spelling_is_known() -> None:
    assert {"n_embd", "hidden_size"} <= known_keys(family("gpt2").config)


def test_a_config_of_nothing_but_its_type_is_the_class_default() -> None:
    config, assumptions = read_config(family("bert").config, {"model_type": "bert"})
    assert config.hidden_size == 768  # type: ignore[attr-defined]
    assert len(assumptions) >= 7


NEEDED: dict[str, dict[str, Any]] = {
    # The classes have no default for these.
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_shared_experts": 2, "n_routed_experts": 128, "num_experts_per_tok": 6},
    # By default its image tower has a pooling head, which is refused, and too few patches for the image tokens.
    "gemma3": {"vision_config": {"vision_use_head": False, "image_size": 896}},
    # Heads do not divide the default width, and a null leaves them to do so.
    "glm4_moe": {"head_dim": 128},
    "seed_oss": {"head_dim": 128},
}
"""Keys that a config must state, by model type."""


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_null_is_not_stated(model_type: str) -> None:
    kind = family(model_type).config
    raw: dict[str, Any] = dict.fromkeys(kind.model_fields) | NEEDED.get(model_type, {})
    config, _ = read_config(kind, {**raw, "model_type": model_type})
    assert json.loads(config.model_dump_json())


def test_what_a_family_takes_for_granted_is_said() -> None:
    built = build_model(ConfigSource(name="test", raw={"model_type": "longcat_flash"}, origin="config.json"))
    assert any(line.startswith("experts that do nothing hold no weights") for line in built.assumptions)
