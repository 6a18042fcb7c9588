"""Kinds of cases: an interval says nothing about a kind that was not measured."""

import pytest

from planner.models import load_model
from planner.training.setup import training_job
from planner.validate.context import architecture, training_context
from planner.validate.intervals import interval, residuals_for
from planner.workload import Step


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("google-bert/bert-base-uncased", "encoder"),
        ("gpt2", "decoder"),
        ("google-t5/t5-3b", "encoder-decoder"),
        ("mistralai/Mixtral-8x7B-v0.1", "experts"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "recurrent"),
    ],
)
def test_architectures_are_told_apart(name: str, kind: str) -> None:
    assert architecture(load_model(name, offline=True).tree) == kind


def test_an_encoder_is_not_covered_by_decoders() -> None:
    job = training_job(Step(), "huggingface", recompute="full")
    contexts = [
        training_context(load_model(name, offline=True).tree, job) for name in ("gpt2", "google-bert/bert-base-uncased")
    ]
    assert contexts == ["decoder, full", "encoder, full"]
    covered, uncovered = (interval("huggingface", "peak_bytes", 1e9, context=context) for context in contexts)
    assert covered is not None
    assert uncovered is None
    known = residuals_for("huggingface", "peak_bytes")
    assert known is not None
    assert known.contexts == ("decoder, full",)
