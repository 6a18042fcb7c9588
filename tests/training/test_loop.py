"""What a training loop holds beside the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.adapters import Adapter
from planner.memory import MemoryRow
from planner.parallelism import Parallelism
from planner.training.job import Recompute, TrainingJob
from planner.training.loop import idle_rows, loop_rows, retained_rows
from planner.training.setup import training_job
from planner.training.states import States
from planner.workload import Step

STATES = States(
    weights=0, gradients=0, masters=0, optimizer=0, whole_weights=0, whole_gradients=1000, trained_elements=500
)
GRADIENTS = MemoryRow(name="gradients", size_bytes=7, basis="exact", source="test")


def _job(*, zero: int = 0, dp: int = 1, adapter: Adapter | None = None, recipe: str = "huggingface") -> TrainingJob:
    step = Step(batch_size=4, sequence_length=4096)
    job = training_job(step, recipe, adapter=adapter, parallelism=Parallelism(dp=dp, zero=zero))  # type: ignore[arg-type]
    return replace(job, recompute=Recompute(kind="full"))


def test_a_batch_takes_three_integers_a_token() -> None:
    sizes = {row.name: row.size_bytes for row in loop_rows(STATES, _job())}
    assert sizes["batch"] == 3 * 8 * 4 * 4096


@pytest.mark.parametrize(("dp", "zero", "expected"), [(1, 0, 0), (2, 0, 1000), (2, 3, None)])
def test_only_undivided_data_parallelism_has_buckets(dp: int, zero: int, expected: int | None) -> None:
    sizes = {row.name: row.size_bytes for row in loop_rows(STATES, _job(dp=dp, zero=zero))}
    assert sizes.get("gradient buckets") == expected


def test_gradients_of_shards_stay_between_steps_under_fsdp() -> None:
    assert idle_rows((GRADIENTS,), _job(dp=2, zero=3)) == (GRADIENTS,)
    assert idle_rows((GRADIENTS,), _job()) == ()
    assert idle_rows((GRADIENTS,), _job(dp=2, zero=3, recipe="deepspeed-zero3")) == ()


def test_hooks_of_frozen_blocks_keep_inputs_and_their_gradients() -> None:
    lora = Adapter(method="lora", rank=8, target_modules=("q_proj",))
    rows = retained_rows(32 * 10, 10, _job(dp=2, zero=3, adapter=lora))
    # the first block's own input is counted where it is at work, and so are the gradients on its two sides
    assert [row.size_bytes for row in rows] == [31 * 10, 30 * 10]
    assert retained_rows(32 * 10, 10, _job(dp=2, zero=3)) == ()
    assert retained_rows(32 * 10, 10, _job(adapter=lora)) == ()
