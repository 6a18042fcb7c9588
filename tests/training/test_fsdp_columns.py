"""A whole step of each FSDP2 recipe and of litgpt on columns: every element is what it is alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.adapters import Adapter
from planner.parallelism import Parallelism
from planner.training import training_memory_of
from planner.training.setup import training_job
from planner.validate.architecture import tree_of
from planner.workload import Step

MODEL = {
    "layers": 4, "hidden": 256, "heads": 8, "kv_heads": 4, "ffn": 704, "vocab": 1024, "gated_mlp": True,
    "norm": "rmsnorm",
}  # fmt: skip
BATCH, LENGTH, TP, DP, MICRO = (
    np.array([1.0, 2.0, 4.0, 8.0]),
    np.array([128.0, 1024.0, 64.0, 4096.0]),
    np.array([1.0, 2.0, 4.0, 1.0]),
    np.array([2.0, 8.0, 4.0, 64.0]),
    np.array([1.0, 4.0, 1.0, 2.0]),
)
LORA = Adapter(method="lora", rank=8, target_modules=("q_proj", "v_proj"), dtype="bf16", dropout=0.05)


def peak(recipe: str, batch: Any, length: Any, tp: Any, dp: Any, micro: Any, **options: Any) -> Any:
    job = training_job(
        Step(batch_size=batch, sequence_length=length),
        recipe,
        parallelism=Parallelism(tp=tp, dp=dp, zero=options.pop("zero", 3), sequence_parallel=True),
        micro_batches=micro,
        **options,
    )
    memory = training_memory_of(tree_of(MODEL), job)
    return memory.stages[0].steady_bytes, memory.peak_bytes


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("torchtitan", {"compiled": True}),
        ("torchtitan", {"compiled": True, "recompute": "none"}),
        ("torchtitan", {"recompute": "full"}),
        ("torchtitan-2024", {}),
        ("kempner-fsdp2", {}),
        ("torchtune", {}),
        ("fsdp2", {}),
        ("litgpt", {"adapter": LORA, "zero": 0}),
        ("litgpt-fsdp", {"adapter": LORA}),
        ("litgpt", {"adapter": Adapter(method="adapter_v2", dtype="bf16"), "zero": 0}),
    ],
)
def test_columns_equal_their_elements(recipe: str, options: dict[str, Any]) -> None:
    columns = peak(recipe, BATCH, LENGTH, TP, DP, MICRO, **options)
    for position in range(4):
        alone = peak(
            recipe,
            *(int(column[position]) for column in (BATCH, LENGTH, TP, DP, MICRO)),
            **options,
        )
        for column, single in zip(columns, alone, strict=True):
            assert np.broadcast_to(column, 4)[position] == pytest.approx(single, rel=1e-12)


@pytest.mark.parametrize("recipe", ["torchtitan", "kempner-fsdp2", "fsdp2"])
def test_more_samples_or_longer_ones_never_take_less(recipe: str) -> None:
    for varied in (0, 1):
        arguments: list[Any] = [1, 128, 1, 2, 1]
        arguments[varied] = np.array([128.0, 256.0, 512.0, 8192.0])
        _, sizes = peak(recipe, *arguments)
        assert (np.diff(sizes) > 0).all()


def test_more_ranks_never_take_more() -> None:
    _, sizes = peak("fsdp2", 1, 128, 1, np.array([1.0, 2.0, 4.0, 64.0]), 1)
    assert (np.diff(sizes) < 0).all()


def test_sharding_more_never_takes_more_between_steps() -> None:
    steady = [peak("fsdp2", 1, 128, 1, 8, 1, zero=zero)[0] for zero in (0, 1, 2, 3)]
    assert steady == sorted(steady, reverse=True)
