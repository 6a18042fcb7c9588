"""Loss paths against kernels that were measured alone, and against the lifetimes that autograd gives their tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from planner.adapters import Adapter
from planner.errors import UnknownNameError
from planner.nodes import LOGITS, Linear, Module, Node
from planner.parallelism import WHOLE, Parallelism, Stage
from planner.sharding import RankTensor, rank_tensors
from planner.training.job import TrainingJob
from planner.training.loss import (
    find_loss_path,
    load_loss_paths,
    logit_tokens,
    loss_backward_rows,
    loss_forward_rows,
    loss_kept_bytes,
)
from planner.training.setup import training_job
from planner.workload import Step

VOCABULARY, HIDDEN = 128256, 4096


def head() -> Node:
    leaf = Linear(in_features=HIDDEN, out_features=VOCABULARY, yields_logits=True, stream=LOGITS)
    return Module(children={"lm_head": leaf})


def job_of(loss: str, tokens: object = 4096, **degrees: object) -> TrainingJob:
    step = Step(batch_size=1, sequence_length=tokens)  # type: ignore[arg-type]
    parallelism = Parallelism(**degrees)  # type: ignore[arg-type]
    return replace(training_job(step, "loss-kernels", loss=loss), parallelism=parallelism)


def held_by(job: TrainingJob, stage: Stage = WHOLE) -> tuple[RankTensor, ...]:
    return tuple(rank_tensors(head(), job.parallelism, stage))


def total(rows: object) -> object:
    return sum(row.size_bytes for row in rows)  # type: ignore[attr-defined]


def test_cross_entropy_on_16_bit_logits_peaks_in_its_backward() -> None:
    job = job_of("eager-bf16")
    logits = 4096 * VOCABULARY
    # log-softmax, gradient of nll_loss and of log_softmax, 2 B each
    assert total(loss_backward_rows(held_by(job), job, WHOLE)) == 6 * logits
    # logits and their log-softmax
    assert total(loss_forward_rows(held_by(job), job, WHOLE)) == 4 * logits
    assert loss_kept_bytes(held_by(job), job, WHOLE) == 2 * logits


def test_the_gradient_of_a_wide_head_outweighs_the_logits_of_few_tokens() -> None:
    job = job_of("eager-bf16", 8)
    # gradient of 8 tokens' logits, of the head, and of the hidden states, 2 B each
    expected = 2 * (8 * VOCABULARY + HIDDEN * VOCABULARY + 8 * HIDDEN)
    assert total(loss_backward_rows(held_by(job), job, WHOLE)) == expected


def test_a_fused_linear_loss_makes_one_chunk_and_both_gradients_in_the_forward_pass() -> None:
    job = job_of("fused-linear", 16384)
    # 128256 / 4096 rounds up to 32 chunks of 16384 / 32 = 512 tokens
    chunk = 512 * VOCABULARY * 8
    gradients = 2 * (HIDDEN * VOCABULARY + 16384 * HIDDEN)
    assert total(loss_forward_rows(held_by(job), job, WHOLE)) == chunk + gradients
    assert total(loss_backward_rows(held_by(job), job, WHOLE)) == gradients


def test_chunks_of_litgpt_are_of_a_fixed_length_in_each_sample() -> None:
    step = Step(batch_size=2, sequence_length=1024)
    frozen = Adapter(method="lora", target_modules=("q_proj",))
    job = training_job(step, "loss-kernels", loss="chunked-fp32", adapter=frozen)
    # 8 B of each logit, and 8 B of 2 x 128 tokens
    assert total(loss_backward_rows(held_by(job), job, WHOLE)) == 8 * VOCABULARY * (2048 + 256)


@pytest.mark.parametrize(("path", "divided"), [("vocab-parallel", True), ("eager-parallel", True), ("eager", False)])
def test_tensor_parallelism_divides_logits_where_the_head_is_not_gathered(path: str, divided: bool) -> None:
    alone, shared = job_of(path), job_of(path, tp=4)
    kept_alone = loss_kept_bytes(held_by(alone), alone, WHOLE)
    kept_shared = loss_kept_bytes(held_by(shared), shared, WHOLE)
    assert kept_alone == kept_shared * (4 if divided else 1)


def test_context_parallelism_divides_positions() -> None:
    assert logit_tokens(job_of("eager", cp=4)) == 1024


def test_a_stage_without_the_head_has_no_logits() -> None:
    job = job_of("eager")
    before = Stage(index=0, layers=(), first=True, last=False)
    assert loss_forward_rows(held_by(job), job, before) == ()
    assert loss_backward_rows(held_by(job), job, before) == ()
    assert loss_kept_bytes(held_by(job), job, before) == 0


@pytest.mark.parametrize("path", load_loss_paths())
def test_every_path_holds_in_backward_what_it_kept(path: str) -> None:
    found = find_loss_path(path)
    assert found.backward >= found.kept
    assert found.forward + found.chunk_gradient >= found.kept
    assert found.source


@pytest.mark.parametrize("path", load_loss_paths())
def test_columns_equal_their_elements(path: str) -> None:
    lengths = np.array([1000.0, 4096.0, 65536.0])
    column = job_of(path, lengths)
    for rows in (loss_forward_rows, loss_backward_rows):
        sizes = total(rows(held_by(column), column, WHOLE))
        alone = [job_of(path, int(length)) for length in lengths]
        assert list(np.broadcast_to(sizes, 3)) == [total(rows(held_by(job), job, WHOLE)) for job in alone]  # type: ignore[call-overload]


def test_an_unknown_path_names_its_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="unknown loss path 'fused-liner'.*did you mean 'fused-linear'"):
        find_loss_path("fused-liner")
