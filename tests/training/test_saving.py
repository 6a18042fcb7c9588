"""What writing a checkpoint adds."""

import pytest

from planner.models import load_model
from planner.nodes import Node
from planner.parallelism import Parallelism, ZeroStage
from planner.training import training_memory_of
from planner.training.saving import SAVE
from planner.training.setup import training_job
from planner.workload import Step


@pytest.fixture(scope="module")
def tree() -> Node:
    return load_model("meta-llama/Llama-3.1-8B", offline=True).tree


def added(tree: Node, recipe: str, zero: ZeroStage) -> float:
    job = training_job(Step(), recipe, precision="bf16", parallelism=Parallelism(dp=8, zero=zero))
    (stage,) = training_memory_of(tree, job).stages
    return sum(float(row.size_bytes) for row in stage.phases[SAVE])


def test_a_divided_model_is_gathered_group_by_group(tree: Node) -> None:
    # the root group is the largest: 2 tables of 128,256 x 4,096 and a norm of 4,096, 2 B each
    assert added(tree, "huggingface", 3) == (2 * 128_256 * 4_096 + 4_096) * 2


def test_a_whole_model_is_written_as_it_is(tree: Node) -> None:
    assert added(tree, "huggingface", 0) == 0


def test_sharded_checkpoints_gather_nothing(tree: Node) -> None:
    assert added(tree, "torchtitan", 3) == 0
