"""States of one rank: what is trained, what is frozen, and what divides them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from planner.adapters import Adapter
from planner.nodes import Node
from planner.parallelism import Parallelism
from planner.sharding import rank_tensors
from planner.training.setup import training_job
from planner.training.states import States, states
from planner.validate.architecture import tree_of
from planner.workload import Step

LLAMA = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "gated_mlp": True}
TOTAL = 8_030_261_248
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
# 16 * (two of 4096 + 4096, two of 4096 + 1024) a layer
LORA = 32 * 16 * (2 * 8192 + 2 * 5120)


@pytest.fixture(scope="module")
def tree() -> Node:
    return tree_of(LLAMA)


def _states(tree: Node, recipe: str = "huggingface", options: Mapping[str, Any] | None = None, **more: Any) -> States:
    job = training_job(Step(batch_size=1, sequence_length=128), recipe, **more)
    job = type(job)(**{**{name: getattr(job, name) for name in job.__dataclass_fields__}, "options": options or {}})
    return states(tuple(rank_tensors(tree, job.parallelism)), job, tree)


def test_everything_in_bf16_takes_eight_bytes(tree: Node) -> None:
    found = _states(tree, precision="bf16")
    assert (found.weights, found.gradients, found.optimizer) == (2 * TOTAL, 2 * TOTAL, 4 * TOTAL)
    assert found.stepped == found.weights


def test_lora_adds_sixteen_bytes_for_each_of_its_own(tree: Node) -> None:
    found = _states(tree, adapter=Adapter(method="lora", rank=16, target_modules=TARGETS))
    # fp32: 4 B weight, 4 B gradient, 8 B Adam
    assert found.weights == 2 * TOTAL + 4 * LORA
    assert (found.gradients, found.optimizer, found.trained_elements) == (4 * LORA, 8 * LORA, LORA)


def test_a_quantised_base_leaves_table_head_and_norms_in_sixteen_bits(tree: Node) -> None:
    adapter = Adapter(method="lora", rank=16, target_modules=TARGETS)
    found = _states(tree, adapter=adapter, base="nf4-double-quant")
    outside = 2 * 128256 * 4096 + 65 * 4096  # table, head, two norms a layer and the last one
    assert found.base_codes == (TOTAL - outside) / 2 + 2 * outside
    # one byte for 64, and 4 more for each 256 of those; code books are small
    blocks = (TOTAL - outside) / 64
    assert found.scales == pytest.approx(blocks * (1 + 4 / 256), rel=3e-3)


def test_sharding_leaves_scales_and_unsharded_adapters_whole(tree: Node) -> None:
    adapter = Adapter(method="lora", rank=16, target_modules=TARGETS, dtype="bf16")
    whole = _states(tree, adapter=adapter, base="nf4-double-quant")
    more: dict[str, Any] = {"adapter": adapter, "base": "nf4-double-quant", "parallelism": Parallelism(dp=4, zero=3)}
    divided = _states(tree, options={"adapters_sharded": "no"}, **more)
    assert divided.scales == whole.scales
    assert divided.weights == pytest.approx(whole.base_codes / 4 + 2 * LORA)
    assert (divided.gradients, divided.optimizer) == (2 * LORA, 4 * LORA)
    assert _states(tree, **more).optimizer == LORA  # 4 B over 4 ranks


def test_offloaded_states_are_not_on_the_device(tree: Node) -> None:
    here = _states(tree, "deepspeed-zero3", parallelism=Parallelism(dp=2, zero=3))
    there = _states(tree, "deepspeed-zero3-cpu", parallelism=Parallelism(dp=2, zero=3))
    # 2 B weights and gradients, 4 B masters and 8 B Adam, over 2 ranks
    assert (here.weights, here.gradients, here.masters, here.optimizer) == (TOTAL, TOTAL, 2 * TOTAL, 4 * TOTAL)
    assert (there.weights, there.gradients, there.masters, there.optimizer) == (0, TOTAL, 0, 0)


def test_a_column_of_ranks_equals_each_of_them(tree: Node) -> None:
    adapter = Adapter(method="lora", rank=16, target_modules=TARGETS)
    ranks = np.array([1.0, 2.0, 8.0])
    column = _states(tree, adapter=adapter, parallelism=Parallelism(dp=ranks, zero=3))
    each = [_states(tree, adapter=adapter, parallelism=Parallelism(dp=int(one), zero=3)) for one in ranks]
    for name in ("weights", "gradients", "optimizer"):
        assert np.asarray(getattr(column, name)).tolist() == [float(getattr(one, name)) for one in each]
