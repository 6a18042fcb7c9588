"""Workspaces of libraries, by architecture and by kind of model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.models import load_model
from planner.parallelism import Parallelism
from planner.sharding import rank_tensors
from planner.training.job import TrainingJob
from planner.training.setup import training_job
from planner.training.workspace import architecture, shown_elements, workspace_rows
from planner.validate.architecture import tree_of
from planner.workload import Step

MIB = 2**20
SLACK = 3565158
"""What the recipe says beside handles and engines."""


def _job(recipe: str, device: str, **options: bool | int) -> TrainingJob:
    job = training_job(Step(batch_size=1, sequence_length=8), recipe, device=device)
    return replace(job, options=options)


def _sizes(model: str, job: TrainingJob) -> dict[str, float]:
    held = tuple(rank_tensors(load_model(model, offline=True).tree, job.parallelism))
    return {row.name: float(row.size_bytes) for row in workspace_rows(held, job)}


@pytest.mark.parametrize(
    ("recipe", "device", "expected"),
    [
        # Two handles of 32 MiB and TransformerEngine's 32 MiB; before Hopper 8.125 MiB and 4 MiB.
        ("megatron", "H100-80GB", 2 * 32 * MIB + 32 * MIB),
        ("megatron", "A100-80GB", 2 * 8519680 + 4 * MIB),
        ("megatron", "", 2 * 32 * MIB + 32 * MIB),
        ("megatron-local", "H100-80GB", 4 * 32 * MIB),
    ],
)
def test_handles_and_engines(recipe: str, device: str, expected: float) -> None:
    assert _sizes("gpt2", _job(recipe, device))["workspace"] == expected + SLACK


def test_a_setting_of_cublas_overrides_the_architecture() -> None:
    found = _sizes("gpt2", _job("megatron", "A100-80GB", cublas_workspace=32 * MIB))
    assert found["workspace"] == 2 * 32 * MIB + 4 * MIB + SLACK


@pytest.mark.parametrize(("grouped", "streams"), [(True, 4), (False, 0)])
def test_grouped_products_have_workspaces_of_their_own(grouped: bool, streams: int) -> None:
    found = _sizes("mistralai/Mixtral-8x7B-v0.1", _job("megatron", "H100-80GB", grouped_experts=grouped))
    assert found["workspace"] == 2 * 32 * MIB + (1 + streams) * 32 * MIB + SLACK


def test_one_gradient_is_shown_for_each_shape() -> None:
    tree = load_model("meta-llama/Llama-3.1-8B", offline=True).tree
    h, k, f = 4096, 1024, 14336
    # Queries, keys and values are one weight, gate and up another; then the output and the MLP's second.
    assert shown_elements(tuple(rank_tensors(tree))) == (h + 2 * k) * h + h * h + 2 * f * h + f * h
    # Divided by two ranks, each of them.
    halves = tuple(rank_tensors(tree, Parallelism(tp=2)))
    assert shown_elements(halves) == ((h + 2 * k) * h + h * h + 2 * f * h + f * h) / 2
    without = _sizes("meta-llama/Llama-3.1-8B", _job("megatron", "", gradient_accumulation_fusion=False))
    assert list(without) == ["workspace"]


def test_shapes_that_are_alike_at_some_degrees_only_count_so_in_a_column() -> None:
    # Four weights: the fused three, 768 / tp x 256; output and second of the MLP, 256 x 256 / tp; its first, 256 / tp x
    # 256, which is like those two where nothing is divided.
    tree = tree_of({"layers": 1, "hidden": 256, "heads": 8, "ffn": 256, "vocab": 10, "gated_mlp": False})
    column = shown_elements(tuple(rank_tensors(tree, Parallelism(tp=np.array([1.0, 2.0])))))
    assert np.array_equal(column, [(768 + 256) * 256, (384 + 128 + 128) * 256])


def test_an_unknown_device_has_no_architecture() -> None:
    assert architecture("abacus") == architecture("") == ""
    assert architecture("GB200").startswith("Blackwell")
