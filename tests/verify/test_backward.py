"""What a step holds while its blocks run backward: by hand, and against real models."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.activations.huggingface import huggingface_saved
from planner.activations.tape import Arithmetic
from planner.models import Model, load_model
from planner.nodes import walk
from planner.verify.backward import AT_WORK, LAST, WeightedTape, backward_moments, is_idle
from planner.verify.memory import verify_memory
from planner.verify.memory_result import Peak
from planner.workload import Step

TinyModel = Callable[..., Model]


def moments(model: Model, step: Step, *, checkpointing: bool = False, watched: bool = False) -> dict[str, int]:
    tapes: list[WeightedTape] = []

    def make_tape(arithmetic: Arithmetic) -> WeightedTape:
        tapes.append(WeightedTape(arithmetic))
        return tapes[-1]

    saved = huggingface_saved(model.tree, step, dtype="bf16", attention="sdpa", device="cpu", make_tape=make_tape)
    return backward_moments(
        model.tree,
        step,
        saved,
        tapes[0].blocks(),
        element_bytes=2,
        checkpointing=checkpointing,
        watched=watched,
    )


# of each of 3 blocks: queries and output 60 wide, keys and values 20; three matrices of 80; two norms
BLOCK = 2 * 48 * 60 + 2 * 48 * 20 + 3 * 48 * 80 + 2 * 48
TABLE = 99 * 48


def test_the_last_moment_has_all_gradients_and_that_of_the_embedded_tokens(tiny_model: TinyModel) -> None:
    step = Step(batch_size=2, sequence_length=12)
    # table, blocks, last norm and head; cosines and sines of 12 positions, 10 wide; 24 hidden states of 48: all in bf16
    whole = 2 * (2 * TABLE + 3 * BLOCK + 48) + 2 * 12 * 10 * 2 + 24 * 48 * 2
    assert moments(tiny_model("llama"), step)[LAST] == whole


def test_a_tied_table_gets_two_gradients_and_under_a_counter_their_sum(tiny_model: TinyModel) -> None:
    step, model = Step(batch_size=2, sequence_length=12), tiny_model("llama", tie_word_embeddings=True)
    apart = moments(tiny_model("llama"), step)[LAST]
    assert moments(model, step)[LAST] == apart
    assert moments(model, step, watched=True)[LAST] == apart + 2 * TABLE


def test_blocks_that_are_computed_again_wait_with_their_input_only(tiny_model: TinyModel) -> None:
    step = Step(batch_size=2, sequence_length=200)
    one, three = (tiny_model("llama", num_hidden_layers=count) for count in (1, 3))
    # The first block is the fullest where gradients of a block outweigh its input, and the last one where they do not.
    each = 2 * 200 * 48 * 2
    fullest = [moments(model, step, checkpointing=True)[AT_WORK] for model in (one, three)]
    assert each * 2 > 2 * BLOCK
    assert fullest[1] - fullest[0] == 2 * max(2 * BLOCK, each)


def test_a_tower_that_does_not_run_gets_no_gradients(tiny_model: TinyModel) -> None:
    model = tiny_model("gemma3")
    idle = {row.path for row in walk(model.tree) if is_idle(row, Step(sequence_length=12))}
    assert idle
    assert all("vision" in path or "projector" in path for path in idle)
    assert not [row for row in walk(model.tree) if is_idle(row, Step(sequence_length=12, images=1))]


def peak_of(model: Model, step: Step, **options: object) -> Peak:
    (result,) = verify_memory(model, step=step, attention="sdpa", **options)  # type: ignore[arg-type]
    assert result.peak is not None
    return result.peak


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_backward_of_a_block_that_is_computed_again_closes(tiny_model: TinyModel, family: str, dtype: str) -> None:
    step = Step(batch_size=4, sequence_length=60)
    peak = peak_of(tiny_model(family), step, dtype=dtype, checkpointing=True)
    backward = peak.phases[1]
    assert peak.of_phase(backward) == peak.predicted["backward of the blocks"]
    # positions of 60 tokens, which all blocks share, and the gradient of the loss
    assert 0 <= backward.peak_bytes - peak.predicted["backward of the blocks"] <= 60 * 8 + 8
    # without it, the loss was the fullest moment that was foreseen
    assert peak.predicted["backward of the loss"] < 0.85 * backward.peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens", "bound"),
    [
        # its blocks; positions of the tokens
        ("meta-llama/Llama-3.1-8B", 8192, 8 * 8192 + 8),
        ("mistralai/Mixtral-8x7B-v0.1", 4096, 8 * 4096 + 8),
        # its table
        ("meta-llama/Llama-3.1-8B", 1024, 2**20),
        # a tied table, and a tower that does not run; 5 parts in 10,000
        ("google/gemma-3-27b-it", 4096, 120_000_000),
    ],
)
def test_backward_of_models_of_full_size_closes(name: str, tokens: int, bound: int) -> None:
    peak = peak_of(load_model(name, offline=True), Step(sequence_length=tokens), checkpointing=True)
    backward = peak.phases[1]
    predicted = peak.of_phase(backward)
    assert predicted is not None
    assert abs(backward.peak_bytes - predicted) <= bound
