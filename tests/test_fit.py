"""Inverse questions: the answer fits, and the next one does not."""

from dataclasses import replace

import pytest

from planner.fit import (
    cheapest_recomputation,
    fewest_devices,
    largest_micro_batch,
    longest_sequence,
    needed_bytes,
)
from planner.models import load_model
from planner.nodes import Node
from planner.parallelism import Parallelism
from planner.training import TrainingJob
from planner.training.job import parse_recompute
from planner.training.setup import training_job
from planner.workload import Step

GIB = 2**30


@pytest.fixture(scope="module")
def tree() -> Node:
    return load_model("Qwen/Qwen3-0.6B", offline=True).tree


@pytest.fixture
def job() -> TrainingJob:
    return training_job(Step(batch_size=2, sequence_length=1024), "huggingface", precision="bf16", recompute="none")


def answered(text: str | None) -> int:
    assert text is not None
    return int(text.split()[0].rstrip(":"))


def test_one_more_sample_than_the_largest_micro_batch_does_not_fit(tree: Node, job: TrainingJob) -> None:
    found = largest_micro_batch(tree, job, 40 * GIB)
    most = answered(found.answer)
    at, beyond = (replace(job, step=replace(job.step, batch_size=samples)) for samples in (most, most + 1))
    assert needed_bytes(tree, at) <= 40 * GIB < needed_bytes(tree, beyond)
    assert found.needed_bytes == needed_bytes(tree, at)


def test_one_step_more_than_the_longest_sequence_does_not_fit(tree: Node, job: TrainingJob) -> None:
    longest = answered(longest_sequence(tree, job, 40 * GIB).answer)
    at, beyond = (replace(job, step=replace(job.step, sequence_length=tokens)) for tokens in (longest, longest + 128))
    assert needed_bytes(tree, at) <= 40 * GIB < needed_bytes(tree, beyond)


def test_a_table_of_positions_bounds_the_sequence() -> None:
    gpt2 = load_model("gpt2", offline=True).tree
    job = training_job(Step(), "huggingface", precision="bf16")
    found = longest_sequence(gpt2, job, 400 * GIB)
    assert answered(found.answer) == 1024
    assert "not looked at" in found.note


def test_nothing_fits_into_nothing(tree: Node, job: TrainingJob) -> None:
    assert largest_micro_batch(tree, job, GIB).answer is None
    assert cheapest_recomputation(tree, job, GIB).answer is None
    assert "1 samples already do not fit" in largest_micro_batch(tree, job, GIB).note


def test_recomputation_is_chosen_only_where_it_is_needed(tree: Node, job: TrainingJob) -> None:
    none, full = (needed_bytes(tree, replace(job, recompute=parse_recompute(word))) for word in ("none", "full"))
    assert full < none
    assert cheapest_recomputation(tree, job, float(none)).answer == "none"
    assert cheapest_recomputation(tree, job, float(full)).answer == "full"


def test_fewest_devices_fit_and_fewer_of_that_layout_do_not() -> None:
    tree = load_model("meta-llama/Llama-3.1-8B", offline=True).tree
    job = training_job(Step(sequence_length=4096), "torchtitan", parallelism=Parallelism(zero=3))
    found = fewest_devices(tree, job, 80 * GIB)
    assert found.answer is not None
    assert found.needed_bytes is not None
    devices = answered(found.answer)
    degrees = {part.split()[0]: int(part.split()[1]) for part in found.answer.split(": ")[1].split(", ")}
    assert degrees["tp"] * degrees["pp"] * degrees["dp"] == devices
    assert found.needed_bytes <= 80 * GIB
    alone = replace(job, parallelism=Parallelism(zero=3))
    assert needed_bytes(tree, alone) > 80 * GIB


def test_experts_are_spread_where_there_are_some() -> None:
    tree = load_model("mistralai/Mixtral-8x7B-v0.1", offline=True).tree
    job = training_job(Step(sequence_length=4096), "megatron-distributed")
    found = fewest_devices(tree, job, 80 * GIB)
    assert found.answer is not None
    # 46.7e9 parameters of 6 B, and 12 B that all share: fewer than 8 devices do not even hold the states
    assert 840 / 80 < answered(found.answer) <= 16
    none = fewest_devices(tree, training_job(Step(), "huggingface", precision="bf16"), 80 * GIB)
    assert none.answer is None
    assert "ZeRO stage 0 leaves weights whole" in none.note


def test_context_parallel_ranks_are_devices_too(tree: Node) -> None:
    job = training_job(Step(sequence_length=4096), "megatron", parallelism=Parallelism(cp=4))
    found = fewest_devices(tree, job, 80 * GIB)
    assert found.answer == "4: tp 1, pp 1, cp 4, dp 1"
    longest = longest_sequence(tree, replace(job, parallelism=Parallelism(cp=96)), 80 * GIB)
    assert answered(longest.answer) % (2 * 96) == 0


def test_only_recomputation_that_the_recipe_knows_is_proposed(tree: Node) -> None:
    for recipe, known in (("huggingface", "full"), ("megatron", "selective")):
        job = training_job(Step(batch_size=8, sequence_length=2048), recipe, attention="eager", recompute="none")
        none = float(needed_bytes(tree, job))
        assert cheapest_recomputation(tree, job, none - 1).answer == known
