"""Architectures without a builder are counted on the real class of transformers, or refused with what would help."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError, UnknownNameError, UnsupportedError
from planner.families import MODEL_TYPES
from planner.models import BUILDER, TRANSFORMERS, Model, build_model
from planner.plan import work
from planner.sources import ConfigSource
from planner.workload import Step

pytestmark = pytest.mark.slow

HYBRID: dict[str, Any] = {
    "model_type": "granitemoehybrid",
    "hidden_size": 64,
    "intermediate_size": 32,
    "shared_intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "layer_types": ["attention", "attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}


def _model(raw: dict[str, Any], class_name: str | None = None, **overrides: Any) -> Model:
    return build_model(ConfigSource(name="test", raw=raw, origin="config.json"), overrides, class_name)


def test_the_example_has_no_builder() -> None:
    assert HYBRID["model_type"] not in MODEL_TYPES


def test_counts_and_components_come_from_the_real_class() -> None:
    model = _model(HYBRID)
    assert (model.method, model.class_name) == (TRANSFORMERS, "GraniteMoeHybridForCausalLM")
    counts = count(model.tree)
    # a layer: q, o 64*64; k, v 64*32; 4 experts of 3 matrices 64*32; router 4*64; shared MLP 3 * 64*48; 2 norms
    experts, attention = 4 * 3 * 64 * 32, 2 * 64 * 64 + 2 * 64 * 32
    layer = attention + experts + 4 * 64 + 3 * 64 * 48 + 2 * 64
    assert counts.total == 2 * layer + 2 * 100 * 64 + 64
    assert counts.total - counts.active == 2 * experts // 2
    assert counts.breakdown["attention"] == 2 * attention
    assert counts.breakdown["experts.routed"] == 2 * experts
    assert counts.active - counts.active_excl_input_embedding == 100 * 64


def test_it_says_that_there_is_no_builder_and_which_defaults_stand_in() -> None:
    lines = _model(HYBRID).assumptions
    assert "no builder: counted on the real class of transformers, built without memory" in lines
    assert any(line.startswith("mamba_n_heads = 128: not in the config") for line in lines)


def test_flops_are_traced() -> None:
    model = _model(HYBRID)
    flops = work(model, model.tree, Step(batch_size=2, sequence_length=8)).conventions
    assert set(flops) == {"matmul", "6N"}
    # 16 tokens: attention, 2 of 4 experts, router, shared MLP and head; scores over 8 keys, 4 heads of 16
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 2 * 3 * 64 * 32 + 4 * 64 + 3 * 64 * 48 + 2 * 8 * 64
    assert flops["matmul"].forward == 2 * 16 * (2 * layer + 100 * 64)


def test_a_past_is_refused_where_products_are_traced() -> None:
    model = _model(HYBRID)
    with pytest.raises(UnsupportedError, match="traced without a past"):
        work(model, model.tree, Step(past=3))


def test_a_builder_and_the_real_class_agree() -> None:
    raw = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "vocab_size": 50,
    }
    built = _model({**raw, "num_hidden_layers": 2}, "LlamaForCausalLM")
    from planner.real.fallback import real_tree

    real = real_tree({**raw, "num_hidden_layers": 2}, "LlamaForCausalLM", "config.json")
    assert built.method == BUILDER
    assert count(real.tree) == count(built.tree)
    # without the attention products, which have no weights
    step = Step(sequence_length=4)
    scores = compute(built.tree, step).components["attention.scores"].forward
    products = compute(real.tree, step).conventions["matmul"].forward
    assert products == compute(built.tree, step).conventions["matmul"].forward - scores


def test_a_class_without_a_builder_of_a_known_type_is_real_too() -> None:
    model = _model({"model_type": "gpt2", "n_layer": 1, "vocab_size": 50}, "GPT2ForSequenceClassification")
    assert model.method == BUILDER
    whole = _model({"model_type": "clip", "architectures": ["CLIPForImageClassification"]})
    assert count(whole.tree).total > 0


def test_changes_of_the_config_reach_the_class_or_are_refused() -> None:
    less = count(_model(HYBRID, vocab_size=90).tree).total
    assert count(_model(HYBRID).tree).total - less == 2 * 10 * 64
    with pytest.raises(ConfigError, match="vocab_sise: is read by no class .*did you mean 'vocab_size'"):
        _model(HYBRID, vocab_sise=90)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"model_type": "granitemoehybird"},
            "neither a builder nor transformers knows .*did you mean 'granitemoehybrid'",
        ),
        ({"model_type": "qqqqq"}, "a newer transformers may have it"),
        ({"model_type": "clap_text_model"}, "has no usual class .*name one with --class"),
    ],
)
def test_what_nobody_knows_is_refused_with_what_would_help(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        _model(raw)


def test_a_typing_error_in_a_class_is_no_real_class() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'BertForMaskedLM'"):
        _model({"model_type": "bert"}, "BertForMaskLM")


@pytest.mark.parametrize("command", ["params", "flops", "memory"])
def test_commands_work_on_it(command: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(HYBRID), encoding="utf-8")
    result = CliRunner().invoke(app, [command, str(path), "--format", "json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)


def test_a_sweep_works_on_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(HYBRID), encoding="utf-8")
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(
        f"model: {tmp_path / 'config.json'}\nset: {{vocab_size: [90, 100]}}\nsequence_length: [8, 16]\ngpu: T4\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(
        app, ["sweep", str(scenario), "--output", "-", "--format", "json"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert len({row["total_parameters"] for row in rows}) == 2
    assert len({row["forward_flops_per_token"] for row in rows}) == 4
