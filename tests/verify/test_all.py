"""`planner verify --all`: every model of the catalog, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.catalog.models import CatalogModel
from planner.cli.app import app
from planner.errors import UnknownNameError
from planner.verify import every
from planner.verify.every import Outcome, chosen_models, verify_every
from planner.workload import Step

TinyConfig = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.slow

STEP = Step(sequence_length=16)


def _entry(name: str, config: dict[str, Any]) -> CatalogModel:
    return CatalogModel(
        id=name,
        aliases=(),
        config=config,
        source="tiny",
        published_total=None,
        published_class=None,
        published_source=None,
    )


@pytest.fixture
def tiny_catalog(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[CatalogModel, ...]:
    """Dense, with experts, with an encoder, with an image, without sdpa, without a class, without a right config."""
    types = ("llama", "mixtral", "t5", "clip", "gpt_oss")
    entries = (
        *(_entry(f"tiny/{model_type}", tiny_config(model_type)) for model_type in types),
        _entry("tiny/nobody", {**tiny_config("llama"), "model_type": "qqqqq", "architectures": ["NoSuchModel"]}),
        _entry("tiny/wrong", tiny_config("llama", num_hidden_layers="many")),
    )
    monkeypatch.setattr(every, "catalog_models", lambda: entries)
    return entries


def _outcomes(entries: tuple[CatalogModel, ...]) -> dict[str, Outcome]:
    return {outcome.model: outcome for outcome in verify_every(entries, step=STEP)}


def test_each_model_has_an_outcome(tiny_catalog: tuple[CatalogModel, ...]) -> None:
    outcomes = _outcomes(tiny_catalog)
    assert {name: outcome.verdict for name, outcome in outcomes.items()} == {
        "tiny/llama": "exact",
        "tiny/mixtral": "exact",
        "tiny/t5": "exact",
        "tiny/clip": "exact",
        "tiny/gpt_oss": "exact",
        "tiny/nobody": "unsupported",
        "tiny/wrong": "failed",
    }
    ways = {
        name: (outcome.result.attention, outcome.result.experts) for name, outcome in outcomes.items() if outcome.result
    }
    assert ways["tiny/llama"] == ("sdpa", None)
    assert ways["tiny/mixtral"] == ("sdpa", "grouped_mm")
    assert ways["tiny/gpt_oss"] == ("eager", "grouped_mm")
    assert "NoSuchModel" in str(outcomes["tiny/nobody"].unsupported)
    assert "num_hidden_layers" in str(outcomes["tiny/wrong"].failure)


def test_recurrences_run_on_few_tokens(tiny_config: TinyConfig) -> None:
    (outcome,) = verify_every([_entry("tiny/mamba", tiny_config("mamba"))], step=Step(sequence_length=20))
    assert outcome.verdict == "exact"
    assert outcome.result is not None
    assert outcome.result.step == Step(sequence_length=every.RECURRENT_TOKENS)


def test_texts_beside_images_are_as_short_as_they_must_be(tiny_config: TinyConfig) -> None:
    config = tiny_config("clip")
    longest = int(config["text_config"]["max_position_embeddings"])
    (outcome,) = verify_every([_entry("tiny/clip", config)], step=Step(sequence_length=longest + 1))
    assert outcome.result is not None
    assert outcome.result.exact
    assert outcome.result.step == Step(sequence_length=longest, images=1)


def test_a_model_that_breaks_does_not_end_the_others(
    tiny_catalog: tuple[CatalogModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("at once")

    monkeypatch.setattr(every, "verify", broken)
    outcomes = _outcomes(tiny_catalog)
    assert outcomes["tiny/llama"].failure == "ZeroDivisionError: at once"
    assert outcomes["tiny/nobody"].verdict == "unsupported"


def test_a_family_and_a_limit_choose(tiny_catalog: tuple[CatalogModel, ...]) -> None:
    assert [entry.id for entry in chosen_models(limit=2)] == ["tiny/llama", "tiny/mixtral"]
    assert [entry.id for entry in chosen_models("llama")] == ["tiny/llama", "tiny/wrong"]
    assert len(chosen_models()) == len(tiny_catalog)
    with pytest.raises(UnknownNameError, match="did you mean 'llama'"):
        chosen_models("lama")


@pytest.mark.usefixtures("tiny_catalog")
def test_status_0_progress_and_a_row_for_each_model() -> None:
    result = CliRunner().invoke(app, ["verify", "--all", "--limit", "2", "--sequence-length", "16"])
    assert result.exit_code == 0, result.output
    assert "1 of 2: tiny/llama, exact, " in result.stderr
    assert "2 of 2: tiny/mixtral, exact, " in result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("  tiny/")]
    assert [row[0] for row in rows] == ["tiny/llama", "tiny/mixtral"]
    # tokens, and the differences of parameters, fvcore and FlopCounterMode
    assert all((row[2], row[4], row[6], row[7]) == ("16", "0", "0", "0") for row in rows)
    assert "2 exact" in result.stdout


@pytest.mark.usefixtures("tiny_catalog")
def test_status_0_and_the_reason_where_a_model_is_only_unsupported() -> None:
    result = CliRunner().invoke(app, ["verify", "--all", "--family", "qqqqq", "--format", "json"])
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert (record["verdict"], record["verification"]) == ("unsupported", None)
    text = CliRunner().invoke(app, ["verify", "--all", "--family", "qqqqq"]).stdout
    assert "tiny/nobody (no class) unsupported: " in text
    assert "has no class 'NoSuchModel'" in text


@pytest.mark.usefixtures("tiny_catalog")
def test_status_1_where_one_fails_or_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = CliRunner().invoke(app, ["verify", "--all", "--family", "llama"])
    assert failed.exit_code == 1
    assert "tiny/wrong (no class) failed: " in failed.stdout

    # a builder that forgets the head's products
    monkeypatch.setattr("planner.verify.run.expected_flops", lambda *_: {"model": 1}, raising=True)
    different = CliRunner().invoke(app, ["verify", "--all", "--limit", "1"])
    assert different.exit_code == 1
    assert "tiny/llama: " in different.stdout
    assert "lm_head: forward FLOPs 0 expected" in different.stdout


def test_the_whole_catalog_can_be_asked_for() -> None:
    assert len({entry.id for entry in chosen_models()}) == len(chosen_models()) > 90
