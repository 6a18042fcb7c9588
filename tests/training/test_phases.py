"""Resident rows add, phases take the maximum, stage by stage: composed by hand from the parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.models import load_model
from planner.nodes import Node
from planner.parallelism import Parallelism
from planner.precisions import find_precision
from planner.training import StageMemory, TrainingJob, training_memory_of
from planner.training.setup import training_job
from planner.workload import Step

SAMPLES, LENGTH = 2, 1024
TOKENS = SAMPLES * LENGTH
WIDTH, LAYERS, VOCABULARY = 4096, 32, 128256
"""Llama-3.1-8B."""

BLOCK = 2 * (4 * 4096 + 2 * 4096 + 2 * 1024) + 6 * 14336 + 4 * 32 + 2 * 4
"""Bytes of a token in a block, as `tests/activations/test_megatron.py` adds them up."""


@pytest.fixture(scope="module")
def llama() -> Node:
    return load_model("meta-llama/Llama-3.1-8B", offline=True).tree


def _job(recipe: str = "megatron", micro_batches: Any = 16, **degrees: Any) -> TrainingJob:
    step = Step(batch_size=SAMPLES, sequence_length=LENGTH)
    return training_job(step, recipe, parallelism=Parallelism(**degrees), micro_batches=micro_batches)


def _row(stage: StageMemory, phase: str, name: str) -> float:
    return float(next(row.size_bytes for row in stage.phases[phase] if row.name == name))


def test_states_are_18_bytes_a_parameter_or_6_and_a_share_of_12(llama: Node) -> None:
    parameters = 8_030_261_248
    whole = training_memory_of(llama, _job()).stages[0]
    names = ("weights", "gradients", "master weights", "optimizer state")
    assert sum(row.size_bytes for row in whole.resident if row.name in names) == 18 * parameters
    shared = training_memory_of(llama, _job("megatron-distributed", zero=1, dp=8)).stages[0]
    assert sum(row.size_bytes for row in shared.resident if row.name in names) == (6 + 12 / 8) * parameters


@pytest.mark.parametrize(("micro_batches", "flights"), [(16, (4, 3, 2, 1)), (2, (2, 2, 2, 1))])
def test_a_stage_holds_as_many_micro_batches_as_follow_it(
    llama: Node, micro_batches: int, flights: tuple[int, ...]
) -> None:
    memory = training_memory_of(llama, _job(micro_batches=micro_batches, pp=4))
    found = [_row(stage, "forward and loss", "activations of blocks") for stage in memory.stages]
    assert found == [flight * 8 * TOKENS * BLOCK for flight in flights]


def test_an_interleaved_stage_holds_chunks(llama: Node) -> None:
    memory = training_memory_of(llama, _job(pp=4, vp=2))
    found = [_row(stage, "forward and loss", "activations of blocks") for stage in memory.stages]
    # 2 (3 - stage) + 4 + 1 passes of 4 layers each.
    assert found == [passes * 4 * TOKENS * BLOCK for passes in (11, 9, 7, 5)]


def test_the_head_and_its_loss_lie_on_the_last_stage(llama: Node) -> None:
    first, *_, last = training_memory_of(llama, _job(pp=4)).stages
    logits = TOKENS * VOCABULARY
    assert _row(last, "forward and loss", "logits and loss") == 6 * logits
    # The last norm's input and its result, and a statistic.
    assert _row(last, "forward and loss", "activations outside of blocks") == TOKENS * (4 * WIDTH + 4)
    assert not [row for row in first.phases["forward and loss"] if row.name == "logits and loss"]


def test_inputs_of_a_stage_stay_between_steps_but_not_at_the_peak(llama: Node) -> None:
    first, second, *_ = training_memory_of(llama, _job(pp=4)).stages
    assert not first.between
    # The last micro-batch's input and the gradient of it, 2 B each.
    assert sum(row.size_bytes for row in second.between) == 2 * TOKENS * WIDTH * 2
    resident = sum(row.size_bytes for row in second.resident)
    assert second.steady_bytes == resident + 2 * TOKENS * WIDTH * 2
    phase = second.phases["forward and loss"]
    assert second.phase_bytes("forward and loss") == resident + sum(row.size_bytes for row in phase)
    interleaved = training_memory_of(llama, _job(pp=4, vp=2)).stages[1]
    assert sum(row.size_bytes for row in interleaved.between) == 2 * 2 * TOKENS * WIDTH * 2


def test_gradients_in_16_bits_are_copied_for_the_step_only(llama: Node) -> None:
    job = replace(_job(), precision=find_precision("fp16-master"))
    stage = training_memory_of(llama, job).stages[0]
    copies = 4 * 8_030_261_248
    assert [row.size_bytes for row in stage.between] == [copies]
    assert _row(stage, "optimizer step", "gradients of masters") == copies
    assert not [row for row in stage.phases["forward and loss"] if row.name == "gradients of masters"]


def test_a_vocabulary_is_padded_for_every_rank(llama: Node) -> None:
    weights = {}
    for tp in (1, 8):
        stage = training_memory_of(llama, _job(tp=tp)).stages[0]
        weights[tp] = next(row.size_bytes for row in stage.resident if row.name == "weights")
    # 128,256 is 1002 * 128, and no multiple of 8 * 128: padded to 126 * 1024 = 129,024 rows of table and head.
    matrices = 8_030_261_248 - 2 * VOCABULARY * WIDTH - (2 * LAYERS + 1) * WIDTH
    assert weights[8] == 2 * (matrices / 8 + 2 * 129_024 * WIDTH / 8 + (2 * LAYERS + 1) * WIDTH)


def test_full_recomputation_keeps_inputs_and_makes_one_block_again(llama: Node) -> None:
    step = Step(batch_size=SAMPLES, sequence_length=LENGTH)
    stage = training_memory_of(llama, training_job(step, "megatron", recompute="full")).stages[0]
    assert _row(stage, "forward and loss", "activations of blocks") == LAYERS * TOKENS * WIDTH * 2
    again = _row(stage, "backward of the last block", "a block computed again")
    assert again == TOKENS * BLOCK - TOKENS * WIDTH * 2


def test_nanotron_balances_stages_by_cost(llama: Node) -> None:
    memory = training_memory_of(llama, _job("nanotron", pp=2))
    # A block has 218.1 M weights in matrices, the head 525.3 M: 2.41 blocks of 34.41, half of which 18 exceed.
    assert [len(stage.stage.layers or ()) for stage in memory.stages] == [18, 14]


def test_columns_equal_their_elements(llama: Node) -> None:
    job = _job("megatron-distributed", zero=1)
    batch, length, tp, dp = (
        np.array([1.0, 2.0, 4.0]),
        np.array([512.0, 1024.0, 4096.0]),
        np.array([1.0, 2.0, 8.0]),
        np.array([8.0, 4.0, 1.0]),
    )
    column = training_memory_of(
        llama,
        replace(
            job,
            step=Step(batch_size=batch, sequence_length=length),
            parallelism=Parallelism(tp=tp, sequence_parallel=True, dp=dp, pp=2, zero=1),
        ),
    )
    for at in range(3):
        alone = training_memory_of(
            llama,
            replace(
                job,
                step=Step(batch_size=int(batch[at]), sequence_length=int(length[at])),
                parallelism=Parallelism(tp=int(tp[at]), sequence_parallel=True, dp=int(dp[at]), pp=2, zero=1),
            ),
        )
        for swept, single in zip(column.stages, alone.stages, strict=True):
            assert np.asarray(swept.peak_bytes)[at] == pytest.approx(float(single.peak_bytes), rel=1e-12)
            assert np.asarray(swept.steady_bytes)[at] == pytest.approx(float(single.steady_bytes), rel=1e-12)
