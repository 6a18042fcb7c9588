"""The engine on columns says row by row what a plan says alone, and computes each thing once."""

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import planner.sweep.evaluate as engine
from planner.counts import count
from planner.devices import load_devices
from planner.errors import ScenarioError
from planner.located import parse_yaml
from planner.memory import GRADIENTS, MASTERS, OPTIMIZER, SCALES, WEIGHTS
from planner.plan import plan
from planner.scenario import Scenario
from planner.sweep import Report, evaluate_axes
from planner.sweep.axes import axes_of
from planner.sweep.table import RESULTS


def report(scenario: Mapping[str, Any] | str, limit: int | None = None) -> Report:
    text = scenario if isinstance(scenario, str) else json.dumps(scenario)
    return evaluate_axes(axes_of(parse_yaml(text, "grid.yaml")), "grid", limit=limit, offline=True)


def records(found: Report) -> list[dict[str, Any]]:
    import numpy as np

    names = [column.name for column in found.columns]
    cells = [found.cells(name, np.arange(found.rows)) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)]


def error(scenario: Mapping[str, Any] | str) -> ScenarioError:
    with pytest.raises(ScenarioError) as found:
        report(scenario)
    assert found.value.file == "grid.yaml"
    return found.value


def point(record: Mapping[str, Any]) -> Scenario:
    """Scenario of one row: its inputs, as far as they are not blank and its mode reads them."""
    results = {column.name for column in RESULTS}
    fields = {name: value for name, value in record.items() if name not in results}
    # A changed config key is always stated: a blank one was changed to null, and a list is shown as JSON.
    overrides = {
        name.removeprefix("set."): json.loads(value) if str(value).startswith("[") else value
        for name, value in fields.items()
        if name.startswith("set.")
    }
    inputs = {name: value for name, value in fields.items() if value is not None and not name.startswith("set.")}
    if inputs["mode"] == "training":
        del inputs["weights"]
    return Scenario.model_validate({**inputs, "set": overrides})


def assert_row_equals_plan(record: Mapping[str, Any]) -> None:
    answer = plan(point(record), offline=True)
    assert record["class"] == answer.model.class_name
    assert record["total_parameters"] == answer.counts.total
    assert record["active_parameters"] == answer.counts.active
    parts = {
        "weights_bytes": WEIGHTS,
        "scales_bytes": SCALES,
        "gradients_bytes": GRADIENTS,
        "master_weights_bytes": MASTERS,
        "optimizer_bytes": OPTIMIZER,
    }
    for column, name in parts.items():
        assert record[column] == answer.memory.size_of(name)
    assert sum(record[column] for column in parts) == record["total_bytes"] == answer.memory.total_bytes
    largest = max(answer.memory.rows, key=lambda row: row.size_bytes)
    assert answer.memory.size_of(record["largest_row"]) == largest.size_bytes
    # A step of more than 2**53 FLOPs is rounded once where it is a column, so its last digit may differ.
    flops = answer.flops_per_token
    assert math.isclose(record["forward_flops_per_token"], flops.forward, rel_tol=1e-15)
    assert math.isclose(record["training_flops_per_token"], flops.training, rel_tol=1e-15)
    fit, device = answer.fit, answer.device
    assert record["gpu_memory_bytes"] == (None if device is None else device.memory_bytes)
    assert record["headroom_bytes"] == (None if fit is None else fit.headroom_bytes)
    assert record["fits"] == (None if fit is None else fit.fits)
    assert record["min_gpus"] == (None if fit is None else fit.min_gpus)


MODELS = (
    "prajjwal1/bert-tiny",
    "gpt2",
    "google-t5/t5-small",
    "google/gemma-3-4b-it",
    "google/vit-base-patch16-224",
    "mistralai/Mixtral-8x7B-v0.1",
    "deepseek-ai/DeepSeek-V3",
    "Qwen/Qwen1.5-MoE-A2.7B",
    "openai/gpt-oss-20b",
)


def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, min_size=1, max_size=2, unique=True)


GRIDS = st.fixed_dictionaries(
    {
        "model": lists(st.sampled_from(MODELS)),
        "mode": lists(st.sampled_from(["inference", "training"])),
    },
    optional={
        "weights": lists(st.sampled_from(["fp32", "bf16", "fp8", "int8", "int4", "nf4", "nf4-double-quant"])),
        "precision": lists(st.sampled_from(["fp32", "autocast", "bf16", "bf16-master", "megatron"])),
        "optimizer": lists(st.sampled_from(["adamw", "adamw-8bit", "adafactor", "sgd", "muon"])),
        "gpu": lists(st.sampled_from(sorted(load_devices()))),
        "batch_size": lists(st.integers(1, 512)),
        "sequence_length": lists(st.integers(1, 200_000)),
        "past": lists(st.integers(0, 200_000)),
        "source_length": lists(st.one_of(st.none(), st.integers(1, 10_000))),
        "logits": lists(st.sampled_from(["all", "last"])),
        "images": lists(st.integers(0, 4)),
    },
)


@settings(deadline=None, max_examples=60)
@given(GRIDS)
def test_every_row_equals_its_plan(grid: dict[str, Any]) -> None:
    found = records(report(grid))
    assert found
    for record in found[:40]:
        assert_row_equals_plan(record)


DIMENSIONS: dict[str, dict[str, list[Any]]] = {
    "meta-llama/Llama-3.1-8B": {
        "hidden_size": [64, 128, 8192],
        "num_hidden_layers": [1, 126],
        "num_key_value_heads": [8, 32],
        "tie_word_embeddings": [True, False],
        "head_dim": [16, 80],
    },
    "gpt2": {"n_layer": [1, 48], "hidden_size": [768, 1600 * 12], "n_inner": [None, 100]},
    "google-t5/t5-small": {"num_layers": [1, 24], "d_kv": [64, 128], "feed_forward_proj": ["relu", "gated-gelu"]},
    "deepseek-ai/DeepSeek-V3": {
        "first_k_dense_replace": [0, 3],
        "n_routed_experts": [8, 256, 1024],
        "q_lora_rank": [None, 1536],
        "num_hidden_layers": [61, 100],
    },
    "google/gemma-3-4b-it": {"text_config.num_hidden_layers": [2, 34], "mm_tokens_per_image": [64, 256]},
    "openai/gpt-oss-20b": {
        "layer_types": [None],  # lists as many layers as the model has
        "num_hidden_layers": [2, 24],
        "sliding_window": [16, 128, None],
        "num_experts": [8, 32],
    },
    "Qwen/Qwen3-30B-A3B": {"decoder_sparse_step": [1, 2], "num_experts": [16, 128], "mlp_only_layers": [[0], []]},
    "google/vit-base-patch16-224": {"image_size": [224, 384], "patch_size": [16, 32], "num_labels": [2, 1000]},
}


@pytest.mark.parametrize("model", DIMENSIONS)
def test_every_row_of_changed_dimensions_equals_its_plan(model: str) -> None:
    grid = {
        "model": model,
        "set": DIMENSIONS[model],
        "mode": ["inference", "training"],
        "weights": ["int4", "nf4"],
        "optimizer": "adamw-8bit",
        "batch_size": [1, 3],
        "sequence_length": [16, 500],
        "images": 1,
        "gpu": "H100",
    }
    found = records(report(grid))
    assert len(found) > 2 * math.prod(len(values) for values in DIMENSIONS[model].values())
    for record in found[:: max(1, len(found) // 48)]:
        assert_row_equals_plan(record)


def test_dimensions_are_one_tree_with_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    trees: list[object] = []

    def spy(tree: Any) -> Any:
        trees.append(tree)
        return count(tree)

    monkeypatch.setattr(engine, "count", spy)
    layers = {"start": 1, "stop": 200, "step": 1}
    report({"model": "meta-llama/Llama-3.1-8B", "set": {"num_hidden_layers": layers, "hidden_size": [64, 4096]}})
    assert len(trees) == 1
    # Each layer has a kind of its own here, so that every number of layers has another tree.
    report({"model": "Qwen/Qwen2.5-0.5B", "set": {"num_hidden_layers": [1, 2, 3]}})
    assert len(trees) == 4


def test_each_quantity_is_computed_once_for_its_distinct_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, int] = {"states": 0, "work": 0}
    for name in calls:
        original = getattr(engine, name)

        def spy(*arguments: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(engine, name, spy)
    found = report(
        {"model": ["gpt2", "t5-small"], "weights": ["bf16", "int4", "int8"], "gpu": "all", "batch_size": [1, 2, 4, 8]}
    )
    assert found.rows == 2 * 3 * len(load_devices()) * 4
    # Memory: two models in three formats. FLOPs: two models, whose batches are one column.
    assert calls == {"states": 6, "work": 2}


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {
        "model": ["gpt2", "meta-llama/Llama-3.1-8B"],
        "batch_size": {"start": 1, "stop": 7, "step": 1},
        "past": [0, 5],
        "weights": ["bf16", "nf4"],
        "gpu": ["T4", "H100"],
    }
    whole = records(report(grid))
    monkeypatch.setattr(engine, "BLOCK_ROWS", 3)
    assert records(report(grid)) == whole


def test_fields_that_do_not_apply_are_blank_and_duplicates_dropped() -> None:
    found = report(
        {
            "model": ["gpt2", "prajjwal1/bert-tiny"],
            "mode": ["inference", "training"],
            "weights": ["bf16", "fp8"],
            "precision": ["autocast", "bf16"],
            "past": [0, 100],
            "images": [0, 2],
        }
    )
    shown = {
        (row["model"], row["mode"], row["weights"], row["precision"], row["optimizer"], row["past"], row["images"])
        for row in records(found)
    }
    assert len(shown) == found.rows
    assert shown == {
        *(("gpt2", "inference", weights, None, None, past, 0) for weights in ("bf16", "fp8") for past in (0, 100)),
        *(("prajjwal1/bert-tiny", "inference", weights, None, None, 0, 0) for weights in ("bf16", "fp8")),
        *((model, "training", "fp32", "autocast", "adamw", 0, 0) for model in ("gpt2", "prajjwal1/bert-tiny")),
        *((model, "training", "bf16", "bf16", "adamw", 0, 0) for model in ("gpt2", "prajjwal1/bert-tiny")),
    }
    # 2 models x 2 modes x 2 x 2 x 2 x 2 = 64 combinations, of which 10 are left
    assert [note for note in found.notes if "stand once" in note] == [
        "54 rows differed in nothing that applies to them, and stand once"
    ]
    assert any("past is 0 in training" in note for note in found.notes)
    assert any(note.startswith("images does not apply") for note in found.notes)


def test_the_class_that_is_counted_is_shown_and_can_be_asked_for() -> None:
    grid = "model: [gpt2, prajjwal1/bert-tiny]\nwhere: class_name == 'BertModel'"
    assert [row["class"] for row in records(report(grid))] == ["BertModel"]


def test_where_before_and_after_evaluation() -> None:
    grid = {"model": ["gpt2", "meta-llama/Llama-3.1-8B"], "gpu": ["T4", "H100"], "weights": ["bf16", "int8"]}
    everything = records(report(grid))
    asked = report({**grid, "where": ["'lama' in model and fits", "weights == 'bf16' or headroom_bytes < 0"]})
    assert records(asked) == [
        row for row in everything if "lama" in row["model"] and row["fits"] and row["weights"] == "bf16"
    ]
    assert asked.rows == 1


def test_where_keeps_combinations_that_could_not_be_built_away() -> None:
    grid = {"model": "gpt2", "set": {"n_embd": [768, 800], "n_head": [12, 16]}}
    found = error(grid)
    assert (found.line, found.key) == (1, "set.n_head[0]")
    assert found.message == "must divide n_embd (800 / 12)"
    assert found.hint == "with set.n_embd = 800, set.n_head = 12"
    kept = report({**grid, "where": "set.n_embd % set.n_head == 0"})
    assert [(row["set.n_embd"], row["set.n_head"]) for row in records(kept)] == [(768, 12), (768, 16), (800, 16)]


def test_limit_keeps_the_first_rows() -> None:
    grid = {"model": "gpt2", "gpu": "all", "weights": ["fp32", "bf16"]}
    everything = records(report(grid))
    assert records(report(grid, limit=5)) == everything[:5]
    fitting = [row for row in everything if row["min_gpus"] == 1 and row["headroom_bytes"] > 30 * 2**30]
    filtered = report({**grid, "where": f"headroom_bytes > {30 * 2**30}"}, limit=5)
    assert records(filtered) == fitting[:5]
    assert report(grid, limit=10_000).rows == len(everything)


def test_no_row_is_left() -> None:
    for where in ("batch_size > 1", "total_bytes < 0", "class_name == 'x'"):
        found = report({"model": "gpt2", "where": where})
        assert found.rows == 0
        assert found.notes[-1] == "no row is left of 1: where keeps none"
        assert [column.name for column in found.columns][-1] == "min_gpus"


def test_a_question_about_gpus_needs_one() -> None:
    found = error("model: gpt2\nwhere:\n  - batch_size > 0 and fits")
    assert (found.line, found.key) == (3, "where[0]")
    assert found.message == "'fits' needs a gpu, and the scenario names none"
    blank = records(report("model: gpt2"))[0]
    assert all(blank[name] is None for name in engine.DEVICE_COLUMNS)


def test_steps_beyond_the_position_table_are_said() -> None:
    found = report({"model": ["gpt2", "meta-llama/Llama-3.1-8B"], "sequence_length": [512, 1024], "past": [0, 512]})
    assert [note for note in found.notes if "positions" in note] == [
        "1 rows ask for more tokens than the model has positions for (gpt2 has 1,024): "
        "the real model cannot run such a step"
    ]


MISTAKES = {
    "unknown model": ("model: [gpt2,\n gpt3]", 2, "model[1]", "unknown model 'gpt3'", "did you mean"),
    "unknown class": ("model: gpt2\nclass: [GPT2Model, GPT2]", 2, "class[1]", "unknown class 'GPT2'", "GPT2Model"),
    "unknown config key": ("model: gpt2\nset:\n  n_layers: 3", 3, "set.n_layers", "is read by no builder", "n_layer"),
    "inert config key": ("model: gpt2\nset:\n  hidden_act: x", 3, "set.hidden_act", "shapes no tensor", None),
    "wrong value": ("model: gpt2\nset:\n  n_layer: [1,\n    -2]", 4, "set.n_layer[1]", "expected a positive", None),
    "too many layers": ("model: gpt2\nset: {n_layer: [1, 200000]}", 2, "set.n_layer[1]", "at most 100,000", None),
    "wrong type": ("model: gpt2\nset: {n_layer: [1, x]}", 2, "set.n_layer[1]", "expected a whole number", None),
    "same field twice": ("model: gpt2\nset: {n_layer: [1, 2], num_hidden_layers: 3}", 2, None, "n_layer", None),
    "contradiction": ("model: gpt2\nset: {n_head: {start: 12, stop: 13, step: 1}}", 2, "set.n_head", "768 / 13", None),
    "column in where": ("model: gpt2\nwhere: [fit]", 2, "where[0]", "unknown column 'fit'", "'fits'"),
    "unbuilt family": ("model: config.json", 1, "model", "no such file", None),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named(case: str) -> None:
    text, line, key, message, hint = MISTAKES[case]
    found = error(text)
    assert found.line == line
    assert key is None or found.key == key
    assert message in found.message
    assert hint is None or hint in (found.hint or "")


def test_a_mistake_in_a_config_file_names_both_files(tmp_path: Any) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": "many"}), encoding="utf-8")
    found = error(f"model: {config}")
    assert (found.line, found.key) == (1, "model")
    assert str(config) in found.message
    assert "n_layer" in found.message


def test_bytes_beyond_what_is_exact_are_refused() -> None:
    sizes = [2**39, 2**40]
    found = error({"model": "gpt2", "set": {"vocab_size": sizes, "n_embd": 12 * 2**20}})
    assert "beyond 2**53" in found.message


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    axes = axes_of(parse_yaml("model: gpt2\nbatch_size: [1, 2]\nset: {n_layer: [1, 2]}", "grid.yaml"))
    evaluate_axes(axes, "grid", progress=lambda stage, done, total: told.append((stage, done, total)))
    assert told == [("models", 1, 1), ("memory", 2, 2), ("FLOPs", 4, 4)]
