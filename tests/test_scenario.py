"""Scenario files: what is read, and that every mistake is named with its line, its key and the near miss."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import ScenarioError
from planner.located import LARGEST_FILE_BYTES, parse_yaml
from planner.scenario import Scenario, check_document, read_scenario, scenario_of


def scenario(text: str) -> Scenario:
    return scenario_of(check_document(parse_yaml(text, "one.yaml")))


def error(text: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as found:
        scenario(text)
    return found.value


def test_defaults() -> None:
    one = scenario("model: gpt2")
    assert one == Scenario(model="gpt2")
    assert (one.mode, one.weights, one.precision, one.optimizer, one.gpu) == (
        "inference",
        "bf16",
        "autocast",
        "adamw",
        None,
    )
    assert (one.batch_size, one.sequence_length, one.past, one.source_length, one.logits, one.images) == (
        1,
        2048,
        0,
        None,
        "all",
        0,
    )


def test_every_key() -> None:
    one = scenario(
        """
        # comments and anchors are YAML's
        model: google-t5/t5-small
        class: T5Model
        set: {d_ff: &wide 4096, text_config: {num_layers: 2, depth: {inner: *wide}}, tie_word_embeddings: true}
        mode: training
        precision: bf16
        optimizer: sgd
        gpu: h100
        batch_size: 8
        sequence_length: 2e3      # a number in YAML 1.2, and a whole one
        source_length: 0x10
        logits: last
        images: 1_0
        """
    )
    assert one.class_name == "T5Model"
    assert one.overrides == {
        "d_ff": 4096,
        "text_config.num_layers": 2,
        "text_config.depth.inner": 4096,
        "tie_word_embeddings": True,
    }
    assert one.gpu == "H100 SXM5 80GB"
    assert (one.sequence_length, one.source_length, one.images) == (2000, 16, 10)
    assert one.step.batch_size == 8


def test_large_numbers_are_numbers() -> None:
    assert scenario("model: gpt2\nset: {vocab_size: 15e12}").overrides == {"vocab_size": 15e12}


def test_a_list_of_one_is_that_one() -> None:
    one = scenario("model: [gpt2]\nset: {layer_types: [[a, b]], n_layer: [3]}")
    assert one.model == "gpt2"
    assert one.overrides == {"layer_types": ["a", "b"], "n_layer": 3}


MISTAKES = {
    "unknown key": ("model: gpt2\nbatchsize: 4", 2, "batchsize", "unknown key", "did you mean 'batch_size'"),
    "no model": ("gpu: T4", None, "model", "is missing", None),
    "not a mapping": ("- model: gpt2", 1, None, "expected keys", None),
    "type of a number": ("model: gpt2\nbatch_size: many", 2, "batch_size", "expected a whole number, got 'many'", None),
    "fraction": ("model: gpt2\nbatch_size: 1.5", 2, "batch_size", "expected a whole number, got 1.5", None),
    "truth for a number": ("model: gpt2\nbatch_size: true", 2, "batch_size", "whole number, got true", None),
    "too small": ("model: gpt2\n\nbatch_size: 0", 3, "batch_size", "must be at least 1, got 0", None),
    "too large": ("model: gpt2\npast: 1e15", 2, "past", "must be at most 1,099,511,627,776", None),
    "number for a name": ("model: gpt2\ngpu: 4090", 2, "gpu", "expected a name, got 4090", "write '4090' in quotes"),
    "truth for a name": ("model: true", 1, "model", "expected a name, got true", None),
    "empty name": ("model: ''", 1, "model", "empty text", None),
    "nothing": ("model: gpt2\nmode:", 2, "mode", "expected inference or training, got nothing", None),
    "unknown GPU": ("model: gpt2\ngpu: H10O", 2, "gpu", "unknown accelerator 'H10O'", "did you mean"),
    "ambiguous GPU": ("model: gpt2\ngpu: p100", 2, "gpu", "is ambiguous", "Tesla P100 PCIe 16GB"),
    "unknown weights": ("model: gpt2\nweights: bf15", 2, "weights", "unknown weight format 'bf15'", "'bf16'"),
    "unknown precision": ("model: gpt2\nprecision: megatrom", 2, "precision", "unknown precision", "'megatron'"),
    "unknown optimizer": ("model: gpt2\noptimizer: adamv", 2, "optimizer", "unknown optimizer", "'adamw'"),
    "unknown mode": ("model: gpt2\nmode: trainning", 2, "mode", "got 'trainning'", "did you mean 'training'?"),
    "word of YAML 1.1": ("model: gpt2\nlogits: on", 2, "logits", "expected all or last, got 'on'", None),
    "mapping for a number": ("model: gpt2\nbatch_size: {of: 3}", 2, "batch_size", "got a mapping", None),
    "config keys": ("model: gpt2\nset: 12", 2, "set", "expected keys of the model's config, got 12", None),
    "past in training": ("model: gpt2\nmode: training\npast: 1", 3, "past", "must be 0 in training", None),
    "list": ("model: gpt2\nbatch_size: [1, 2]", 2, "batch_size", "a plan answers one question", "planner sweep"),
    "list of a key": ("model: gpt2\nset:\n  n_layer: [1, 2]", 3, "set.n_layer", "several values", "planner sweep"),
    "range": ("model: gpt2\npast: {start: 1, stop: 2}", 2, "past", "several values", "planner sweep one.yaml"),
    "all GPUs": ("model: gpt2\ngpu: all", 2, "gpu", "several values", None),
    "where": ("model: gpt2\nwhere: fits", 2, "where", "belongs to a sweep", None),
    "zip": ("model: gpt2\nzip: [[model, gpu]]", 2, "zip", "belongs to a sweep", None),
    "empty list": ("model: gpt2\nbatch_size: []", 2, "batch_size", "is an empty list", None),
    "key twice": ("model: gpt2\npast: 1\npast: 2", 3, "past", "is given twice, first in line 2", None),
    "inner key twice": ("model: gpt2\nset:\n  a: 1\n  a: 2", 4, "set.a", "is given twice", None),
    "number as key": ("model: gpt2\nset:\n  12: 1", 3, "set", "expected a word as key, got '12'", None),
    "merge key": ("model: gpt2\n<<: {past: 1}", 2, None, "the merge key <<", "repeat the keys"),
    "tag": ("model: !!python/name:os.system x", 1, "model", "the tag", None),
    "not YAML": ("model: [gpt2", 1, None, "is not YAML", None),
    "two documents": ("model: gpt2\n---\nmodel: t5", 2, None, "is not YAML", None),
    "empty": ("# nothing", None, None, "is empty", None),
    "infinite": ("model: gpt2\npast: .inf", 2, "past", "expected a finite number", None),
    "digits": (f"model: gpt2\npast: {'9' * 5000}", None, None, "is not YAML", None),
    "control character": ("model: gpt2\x00", None, None, "is not YAML", None),
    "endless alias": ("model: &a [*a]", 1, None, "is nested deeper than 32 levels", None),
    "deep": ("model: " + "[" * 40 + "]" * 40, 1, None, "is nested deeper than 32 levels", None),
    "very deep": ("model: " + "[" * 5000, None, None, "nested deeper|not YAML", None),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named(case: str) -> None:
    text, line, key, message, hint = MISTAKES[case]
    found = error(text)
    assert found.file == "one.yaml"
    assert found.line == line
    if key is not None:
        assert found.key == key
    assert any(part in found.message for part in message.split("|"))
    if hint is not None:
        assert found.hint is not None
        assert hint in found.hint
    assert "\n" not in str(found)


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than 250,000 values" in error("\n".join(lines)).message


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_any_text_is_a_scenario_or_an_error(text: str) -> None:
    with contextlib.suppress(ScenarioError):
        scenario(text)


def test_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("model: gpt2\ngpu: T4\n", encoding="utf-8")
    assert read_scenario(path).gpu == "Tesla T4"


def test_a_missing_file_has_a_near_miss(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("model: gpt2", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"cannot be read: No such file.*did you mean 'scenario.yaml'"):
        read_scenario(tmp_path / "scenaro.yaml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_scenario(tmp_path / "no folder" / "scenario.yaml")


def test_a_file_that_is_no_text_or_too_large(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_bytes(b"model: \xff\xfe")
    with pytest.raises(ScenarioError, match="not text in UTF-8"):
        read_scenario(path)
    path.write_bytes(b"#" * (LARGEST_FILE_BYTES + 1))
    with pytest.raises(ScenarioError, match="1,048,577 bytes, expected at most 1,048,576"):
        read_scenario(path)
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_scenario(tmp_path)
