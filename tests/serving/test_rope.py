"""Positions that configs state, and how long a request engines take for it."""

from __future__ import annotations

from typing import Any

import pytest

from planner.models import load_model
from planner.serving.rope import longest_request, stated_positions


@pytest.mark.parametrize(
    ("raw", "longest"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 32768}, 32768),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({}, None),
        # a linear scaling stretches what stands beside it
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        # YaRN says what it stretches: 32768 * 4, whatever stands beside it
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
        # these state what they lead to
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096},
            },
            131072,
        ),
        (
            {
                "model_type": "gemma3",
                "text_config": {
                    "max_position_embeddings": 131072,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                },
            },
            131072,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": "4096"}, None),
    ],
)
def test_the_longest_request_of_a_config(raw: dict[str, Any], longest: int | None) -> None:
    assert longest_request(raw) == longest


@pytest.mark.parametrize(
    ("name", "longest"),
    [
        ("meta-llama/Llama-3.1-8B", 131072),
        ("openai/gpt-oss-20b", 131072),
        ("google/gemma-3-27b-it", 131072),
        ("gpt2", 1024),
        ("microsoft/phi-4", 16384),  # the catalog knows it, the config of the catalog does not
    ],
)
def test_the_longest_request_of_a_model(name: str, longest: int) -> None:
    model = load_model(name, offline=True)
    assert longest_request(model.raw, model.name) == longest
    assert stated_positions(model.raw, model.name) is not None
