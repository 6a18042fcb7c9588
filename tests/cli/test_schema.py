"""`planner schema`: an editor accepts what the planner accepts, and refuses what it refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import planner
from planner.cli.app import app
from planner.errors import ScenarioError
from planner.located import parse_yaml
from planner.scenario import COMBINING, FIELDS
from planner.sweep.axes import axes_of

SCENARIOS = sorted((Path(planner.__file__).parent.parent / "scenarios").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


def test_every_key_is_described(validator: Any) -> None:
    properties = validator.schema["properties"]
    assert set(properties) == {*FIELDS, *COMBINING}
    assert all(entry["description"] for entry in properties.values())
    assert properties["sequence_length"]["description"].endswith("[token]")
    assert properties["batch_size"]["default"] == 1


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name)
def test_shipped_scenarios_are_valid(validator: Any, path: Path) -> None:
    validator.validate(parse_yaml(path.read_text(encoding="utf-8"), path.name).plain())


GOOD = [
    "model: gpt2",
    "model: [gpt2, ./config.json]\nclass: [GPT2Model, null]\nzip: [[model, class]]",
    "model: gpt2\nbatch_size: [1, 2e3]\npast: {start: 0, stop: 8, step: 2}\nsource_length: null",
    "model: gpt2\nset: {n_layer: {start: 1, stop: 8, factor: 2}, x: [[a], [b]], text_config: {a: [1, 2]}, t: true}",
    "model: gpt2\ngpu: [all, rtx-4090]\nwhere: fits",
    "model: gpt2\ngpu: null\nwhere: [past > 1, past < 2]\nlogits: [all, last]",
]

BAD = [
    "gpu: T4",
    "model: gpt2\nbatchsize: 1",
    "model: 3",
    "model: []",
    "model: gpt2\nbatch_size: 0",
    "model: gpt2\nbatch_size: 1.5",
    "model: gpt2\nbatch_size: true",
    "model: gpt2\nbatch_size: [1, x]",
    "model: gpt2\nmode: trainning",
    "model: gpt2\nlogits: on",
    "model: gpt2\npast: {start: 0, stop: 8}",
    "model: gpt2\npast: {start: 0, stop: 8, step: 0}",
    "model: gpt2\npast: {start: 1, stop: 8, factor: 1}",
    "model: gpt2\npast: {start: 1, stop: 8, step: 1, factor: 2}",
    "model: {start: 1, stop: 8, step: 1}",
    "model: gpt2\nzip: [model, past]",
    "model: gpt2\nzip: [[model]]",
    "model: gpt2\nwhere: []",
    "model: gpt2\nwhere: 3",
    "model: gpt2\nset: 3",
    "model: gpt2\nset: {n_layer: []}",
    "model: gpt2\nset: {n_layer: {start: 1, stop: 2, setp: 1}}",
    "- model",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_read_is_valid(validator: Any, text: str) -> None:
    document = parse_yaml(text, "grid.yaml")
    axes_of(document)
    validator.validate(document.plain())


@pytest.mark.parametrize("text", BAD)
def test_what_is_refused_is_invalid(validator: Any, text: str) -> None:
    document = parse_yaml(text, "grid.yaml")
    with pytest.raises(ScenarioError):
        axes_of(document)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(document.plain())
