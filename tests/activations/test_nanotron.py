"""nanotron's blocks by hand."""

from __future__ import annotations

import numpy as np
import pytest

from planner.activations.nanotron import nanotron_saved
from planner.errors import PlannerError
from planner.models import load_model
from planner.parallelism import WHOLE, Parallelism
from planner.training.activations import kept
from planner.training.job import Recompute
from planner.validate.architecture import tree_of
from planner.workload import Step

LLAMA_1B = {
    "layers": 24,
    "hidden": 2048,
    "heads": 32,
    "kv_heads": 32,
    "ffn": 4096,
    "vocab": 50257,
    "gated_mlp": True,
    "tied_embeddings": True,
    "norm": "rmsnorm",
}


@pytest.mark.parametrize(("samples", "one_piece"), [(1, 0), (4, 2)])
def test_a_block_of_the_benchmark(samples: int, one_piece: int) -> None:
    saved = nanotron_saved(tree_of(LLAMA_1B), Step(batch_size=samples, sequence_length=1))
    found = kept(saved, Parallelism(), WHOLE, Recompute(), 0)
    # In units of the width, 2 B each: norm inputs 4, normed 4; queries with keys and values 6, those two again 4;
    # output 2, and once more where samples lie apart in it; gate and up 8, silu 4, product 4.
    units = 4 + 4 + 6 + 4 + 2 + one_piece + 8 + 4 + 4
    small = 2 * 4 + 4 * 32  # a reciprocal deviation for each norm, a log-sum-exp a head
    assert found.blocks == 24 * samples * (units * 2048 + small)


def test_what_was_gathered_stays_whole() -> None:
    saved = nanotron_saved(tree_of(LLAMA_1B), Step(batch_size=2, sequence_length=1))
    whole = kept(saved, Parallelism(), WHOLE, Recompute(), 0).blocks
    shared = kept(saved, Parallelism(tp=8, sequence_parallel=True), WHOLE, Recompute(), 0).blocks
    gathered = 24 * 2 * 2 * 2 * 2048  # two normed tensors of 2 B in 24 layers, 2 tokens
    assert shared == pytest.approx(gathered + (whole - gathered) / 8)


def test_grouped_heads_are_separate_tensors() -> None:
    grouped = nanotron_saved(tree_of({**LLAMA_1B, "kv_heads": 8}), Step(batch_size=1, sequence_length=1))
    sizes = {tensor.name: tensor.size_bytes for tensor in grouped}
    assert sizes["queries"] == 2 * 2048
    assert sizes["keys and values"] == 2 * 2 * 512


def test_experts_are_refused() -> None:
    tree = load_model("mistralai/Mixtral-8x7B-v0.1", offline=True).tree
    with pytest.raises(PlannerError, match="neither routed experts"):
        nanotron_saved(tree, Step(batch_size=1, sequence_length=8))


def test_columns_equal_their_elements() -> None:
    tree = tree_of(LLAMA_1B)
    column = nanotron_saved(tree, Step(batch_size=np.array([1.0, 4.0]), sequence_length=1024))
    for at, samples in enumerate((1, 4)):
        alone = nanotron_saved(tree, Step(batch_size=samples, sequence_length=1024))
        assert [float(np.broadcast_to(tensor.size_bytes, 2)[at]) for tensor in column] == [
            float(tensor.size_bytes) for tensor in alone
        ]
