"""Gathered parameters and whole gradients of FSDP, counted by hand on a small model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.nodes import Embedding, Linear, Module, Node, Norm, Repeat
from planner.numeric import Num
from planner.parallelism import WHOLE, Parallelism
from planner.sharding import rank_tensors
from planner.training.build import BUILD, build_phase
from planner.training.job import TrainingJob
from planner.training.offload import on_device
from planner.training.setup import training_job
from planner.training.states import states
from planner.training.transients import (
    ACCUMULATED,
    FIRST,
    FORWARD,
    GATHERED,
    LAST,
    LOSS,
    UNREDUCED,
    WAITING,
    groups,
    transient_rows,
)
from planner.workload import Step

BLOCK = 8 * 8
TABLE = 10 * 8
HEAD = 8 + 10 * 8  # the last norm, and the head


def model() -> Node:
    block = Module(children={"up_proj": Linear(in_features=8, out_features=8)}, bucket="mlp")
    return Module(
        children={
            "embed": Embedding(num_embeddings=10, embedding_dim=8, bucket="embeddings.token"),
            "layers": Repeat(child=block, count=3, indices=range(3)),
            "norm": Norm(dim=8),
            "lm_head": Linear(in_features=8, out_features=10, yields_logits=True),
        }
    )


def job_of(recipe: str, **fields: object) -> TrainingJob:
    found = training_job(Step(batch_size=1, sequence_length=4), recipe)
    return replace(found, **{"parallelism": Parallelism(dp=2, zero=3), **fields})  # type: ignore[arg-type]


def sizes(phase: str, job: TrainingJob) -> dict[str, Num]:
    held = tuple(rank_tensors(model(), job.parallelism, WHOLE))
    return {row.name: row.size_bytes for row in transient_rows(phase, held, states(held, job), job, WHOLE)}


def test_groups_are_a_block_and_what_is_in_none() -> None:
    found = groups(tuple(rank_tensors(model())), WHOLE)
    assert (found.block, found.blocks, found.head, found.outside) == (BLOCK, 3 * BLOCK, HEAD, TABLE + HEAD)


@pytest.mark.parametrize(
    ("phase", "gathered", "unreduced"),
    [
        # norm and head stay gathered to their own gradient
        (FORWARD, 2 * HEAD, 0),
        # backward gathers the last block ahead
        (LOSS, 2 * (HEAD + BLOCK), 0),
        # two blocks are gathered; a block's gradients in 16 bits, and the head's in fp32 on their way
        (FIRST, 2 * 2 * BLOCK, 2 * BLOCK + 4 * HEAD),
        # one block; its gradients, and those of the block before in fp32 on their way
        (LAST, 2 * BLOCK, 2 * BLOCK + 4 * BLOCK),
    ],
)
def test_torchtitan_gathers_norm_and_head_as_a_group(phase: str, gathered: int, unreduced: int) -> None:
    found = sizes(phase, job_of("torchtitan"))
    assert found[GATHERED] == gathered
    assert found[UNREDUCED] == unreduced


def test_one_root_group_stays_gathered_until_backward_ends() -> None:
    job = job_of("torchtitan-2024")
    for phase, blocks in ((FORWARD, 0), (LOSS, 1), (FIRST, 2), (LAST, 1)):
        assert sizes(phase, job)[GATHERED] == 2 * (TABLE + HEAD + blocks * BLOCK)


def test_parameters_that_are_not_resharded_are_all_there_until_backward() -> None:
    job = job_of("fsdp2", options={"reshard_after_forward": "no"})
    whole = 2 * (TABLE + HEAD + 3 * BLOCK)
    assert [sizes(phase, job)[GATHERED] for phase in (FORWARD, LOSS, FIRST)] == [whole] * 3
    assert sizes(LAST, job)[GATHERED] == 2 * (TABLE + HEAD + BLOCK)


def test_gradients_that_are_not_reduced_add_up_whole() -> None:
    whole = 4 * (TABLE + HEAD + 3 * BLOCK)
    several = job_of("kempner-fsdp2", micro_batches=2)
    assert sizes(FIRST, several)[ACCUMULATED] == whole
    # at the end of the last micro-batch, bf16 gradients of half of the elements have taken the place of fp32 ones
    assert sizes(LAST, several)[ACCUMULATED] == whole - 2 * (TABLE + HEAD + 3 * BLOCK) // 2
    assert sizes(FIRST, job_of("kempner-fsdp2"))[ACCUMULATED] == 0


def test_gradients_of_earlier_micro_batches_wait_sharded() -> None:
    job = job_of("fsdp2", micro_batches=4)
    # fp32 gradients, divided by two ranks
    assert sizes(LOSS, job)[WAITING] == 4 * (TABLE + HEAD + 3 * BLOCK) // 2
    assert WAITING not in sizes(LAST, job)


def test_without_sharding_nothing_is_gathered() -> None:
    job = job_of("torchtitan", parallelism=Parallelism(dp=2))
    assert all(GATHERED not in sizes(phase, job) for phase in (FORWARD, LOSS, FIRST, LAST))


def test_what_the_host_holds_is_not_on_the_device() -> None:
    job = job_of("fsdp2", options={"host": "weights optimizer"})
    assert [on_device(part, 7, job) for part in ("weights", "gradients", "optimizer")] == [0, 7, 0]
    in_backward = job_of("fsdp2", options={"optimizer_in_backward": True})
    assert [on_device(part, 7, in_backward) for part in ("weights", "gradients", "optimizer")] == [7, 0, 7]
    paged = replace(job, options={}, optimizer=training_job(job.step, "fsdp2", optimizer="paged-adamw-8bit").optimizer)
    assert [on_device(part, 7, paged) for part in ("weights", "gradients", "optimizer")] == [7, 7, 0]


@pytest.mark.parametrize("recipe", ["torchtitan", "torchtitan-2024", "kempner-fsdp2", "fsdp2"])
@pytest.mark.parametrize("phase", [FORWARD, LOSS, FIRST, LAST])
def test_columns_equal_their_elements(recipe: str, phase: str) -> None:
    counts = np.array([1.0, 2.0, 8.0])
    degrees = np.array([2.0, 4.0, 8.0])
    column = sizes(phase, job_of(recipe, micro_batches=counts, parallelism=Parallelism(dp=degrees, zero=3)))
    for position in range(3):
        alone = job_of(
            recipe, micro_batches=int(counts[position]), parallelism=Parallelism(dp=int(degrees[position]), zero=3)
        )
        single = sizes(phase, alone)
        for name, size in single.items():
            assert np.broadcast_to(column[name], 3)[position] == size


def test_a_model_that_is_built_whole_peaks_before_it_is_divided() -> None:
    whole = 2 * (TABLE + HEAD + 3 * BLOCK)
    steady = 3 * whole // 64  # bf16 weights and two bf16 moments, over 64 ranks
    found = build_phase(model(), job_of("kempner-fsdp2"), WHOLE, steady)
    (row,) = found[BUILD]
    assert steady + row.size_bytes == whole
    # with tensor parallelism a rank makes its share only, and other recipes do so always
    shared = job_of("kempner-fsdp2", parallelism=Parallelism(tp=2, dp=2, zero=3))
    assert build_phase(model(), shared, WHOLE, steady)[BUILD][0].size_bytes == 0
    assert build_phase(model(), job_of("fsdp2"), WHOLE, steady) == {}
