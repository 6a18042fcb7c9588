"""Layouts that cannot exist are refused, with the degree that is at fault."""

from __future__ import annotations

import numpy as np
import pytest

from planner.errors import PlannerError
from planner.models import load_model
from planner.parallelism import Parallelism
from planner.training import training_memory_of
from planner.training.setup import training_job
from planner.workload import Step

LLAMA, MIXTRAL = "meta-llama/Llama-3.1-8B", "mistralai/Mixtral-8x7B-v0.1"


@pytest.mark.parametrize(
    ("model", "parallelism", "length", "micro_batches", "key", "reason"),
    [
        (LLAMA, Parallelism(tp=3), 1024, 1, "tp", "tp 3 does not divide the 32 heads"),
        (LLAMA, Parallelism(ep=2, dp=2), 1024, 1, "ep", "without routed experts"),
        (LLAMA, Parallelism(cp=4), 1020, 1, "cp", "not a multiple of 2 x cp 4"),
        (LLAMA, Parallelism(tp=8, sequence_parallel=True), 1023, 1, "sequence_parallel", "1023 tokens"),
        (LLAMA, Parallelism(pp=64), 1024, 64, "pp", "64 pipeline chunks"),
        (LLAMA, Parallelism(pp=4, vp=2), 1024, 2, "vp", "at least as many micro-batches"),
        (MIXTRAL, Parallelism(ep=3, dp=3), 1024, 1, "ep", "ep 3 does not divide 8 experts"),
        (MIXTRAL, Parallelism(ep=8, dp=4), 1024, 1, "ep", "do not divide the 4 ranks"),
        (MIXTRAL, Parallelism(ep=4, tp=2, dp=2), 1024, 1, "ep", "ep 4 x 2 tensor-parallel ranks"),
    ],
)
def test_refused(model: str, parallelism: Parallelism, length: int, micro_batches: int, key: str, reason: str) -> None:
    step = Step(batch_size=1, sequence_length=length)
    job = training_job(step, "megatron", parallelism=parallelism, micro_batches=micro_batches)
    with pytest.raises(PlannerError, match=reason) as caught:
        training_memory_of(load_model(model, offline=True).tree, job)
    assert caught.value.key == key


@pytest.mark.parametrize(
    "parallelism",
    [
        Parallelism(tp=16),  # 8 key/value heads, each held by two ranks
        Parallelism(tp=np.array([1.0, 2.0, 8.0])),
        Parallelism(tp=np.array([2.0, 16.0])),  # of 8 key/value heads, one divides them, the other is a multiple
        Parallelism(pp=4, vp=2, dp=2),
    ],
)
def test_allowed(parallelism: Parallelism) -> None:
    job = training_job(Step(batch_size=1, sequence_length=1024), "megatron", parallelism=parallelism, micro_batches=8)
    assert training_memory_of(load_model(LLAMA, offline=True).tree, job).stages


def test_products_of_samples_have_no_heads_to_divide() -> None:
    job = training_job(Step(batch_size=2, sequence_length=16, images=1), "megatron", parallelism=Parallelism(tp=2))
    assert training_memory_of(load_model("openai/clip-vit-base-patch16", offline=True).tree, job).stages
