"""Recurrences are set apart by what they multiply, to the last digit; all other products of a mixer are compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.models import Model
from planner.nodes import TOKENS, Linear, Module, Scan
from planner.verify import verify
from planner.verify.scans import set_scans_apart
from planner.workload import Step

TinyModel = Callable[..., Model]

SEQUENCES, LENGTH = 2, 12
STEP = Step(batch_size=SEQUENCES, sequence_length=LENGTH)
TOKENS_OF_STEP = SEQUENCES * LENGTH


def past_the_end(channels: int, kernel: int) -> int:
    """FLOPs of the positions that a causal convolution computes and drops."""
    return 2 * SEQUENCES * (kernel - 1) * channels * kernel


def chunked(heads: int, head_dim: int, state: int, chunk: int) -> int:
    """FLOPs of Mamba-2 in one chunk, which the sequence is padded to, and which starts from an empty one."""
    scores = chunk * chunk * state
    weighted = chunk * chunk * head_dim
    states = chunk * head_dim * state
    between = 2 * 2 * head_dim * state
    return 2 * SEQUENCES * heads * (scores + weighted + states + between + states)


def one_step_at_a_time(channels: int, state: int) -> int:
    """FLOPs of a state's product with the output matrix, for each token."""
    return 2 * TOKENS_OF_STEP * channels * state


APART = {
    "mamba": 3 * (past_the_end(56, 3) + one_step_at_a_time(56, 6)),
    "falcon_mamba": 3 * (past_the_end(56, 3) + one_step_at_a_time(56, 6)),
    # 48 * 2 channels, and two groups of matrices for 4 groups of heads
    "mamba2": 3 * (past_the_end(96 + 2 * 4 * 6, 3) + chunked(12, 8, 6, 256)),
    # layers 0, 2 and 3 of 5
    "jamba": 3 * (past_the_end(96, 3) + one_step_at_a_time(96, 6)),
    "zamba": 6 * (past_the_end(96, 3) + one_step_at_a_time(96, 6)),
    "nemotron_h": 2 * (past_the_end(60 + 2 * 3 * 6, 3) + chunked(6, 10, 6, 128)),
    # The recurrence multiplies element by element; layers 0 and 1 of 3.
    "recurrent_gemma": 2 * past_the_end(36, 3),
    "rwkv": 0,
}
"""FLOPs by model type."""


@pytest.mark.slow
@pytest.mark.parametrize("model_type", APART)
def test_what_is_set_apart_is_the_recurrence_and_nothing_else(tiny_model: TinyModel, model_type: str) -> None:
    (result,) = verify(tiny_model(model_type), step=STEP, attention="eager")
    assert result.exact
    assert result.apart == APART[model_type]
    assert result.witness.forward is not None


@pytest.mark.slow
def test_a_delta_net_solves_a_triangular_system_in_each_chunk(tiny_model: TinyModel) -> None:
    # Queries and keys are 6 wide, values 10, in 4 heads of a chunk of 64.
    keys, values, heads, chunk = 6, 10, 4, 64
    scores = 2 * chunk * chunk * keys
    solved = chunk * (chunk - 1) // 2 * (keys + values)
    # The state after the only chunk is asked for by nobody, and so not in the trace.
    read = 2 * chunk * keys * values + chunk * chunk * values
    scan = 2 * SEQUENCES * heads * (scores + solved + read)
    (result,) = verify(tiny_model("qwen3_next"), step=STEP, attention="eager")
    assert result.exact
    assert result.apart == 2 * (past_the_end(2 * 2 * keys + heads * values, 3) + scan)


@pytest.mark.slow
def test_backward_is_left_out_with_a_reason(tiny_model: TinyModel) -> None:
    (result,) = verify(tiny_model("mamba"), step=Step(sequence_length=3), device="cpu", backward=True)
    assert result.exact
    assert result.witness.backward is None
    assert any("backward not compared" in note for note in result.notes)


MIXER = Module(
    children={
        "mixer": Module(
            children={
                "in_proj": Linear(in_features=4, out_features=6),
                "dt_proj": Linear(in_features=2, out_features=6),
                "": Scan(state_elements=6, flops_per_element=9),
            }
        )
    },
    stream=TOKENS,
)
EXPECTED = {"mixer.in_proj": 48, "mixer.dt_proj": 24}


def test_a_projection_that_the_mixer_applies_is_expected_of_the_mixer() -> None:
    compared = set_scans_apart(MIXER, Step(), EXPECTED, {"": 0, "mixer": 100, "mixer.in_proj": 48, "mixer.dt_proj": 0})
    assert compared.expected == {"mixer.in_proj": 48, "mixer": 24}
    assert compared.actual == {"": 0, "mixer": 24, "mixer.in_proj": 48, "mixer.dt_proj": 0}
    assert compared.apart == 76


def test_a_mixer_that_multiplies_too_little_stays_different() -> None:
    compared = set_scans_apart(MIXER, Step(), EXPECTED, {"mixer": 20, "mixer.in_proj": 48})
    assert (compared.expected["mixer"], compared.actual["mixer"], compared.apart) == (24, 20, 0)


def test_a_module_without_a_recurrence_is_compared_as_it_is() -> None:
    compared = set_scans_apart(MIXER, Step(), EXPECTED, {"mixer": 24, "mixer.in_proj": 50})
    assert (compared.expected["mixer.in_proj"], compared.actual["mixer.in_proj"], compared.apart) == (48, 50, 0)
