"""The shipped sweep over shapes follows the laws that its comments teach."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import planner
from planner.sweep import sweep

SCENARIO = Path(planner.__file__).parent.parent / "scenarios" / "scaling.yaml"

LENGTH = 2048


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    found = sweep(SCENARIO, offline=True).to_pandas()
    return found.rename(
        columns={
            "set.hidden_size": "d",
            "set.num_hidden_layers": "L",
            "set.vocab_size": "V",
            "set.num_local_experts": "E",
            "set.num_experts_per_tok": "k",
        }
    )


def _only(frame: pd.DataFrame, **values: int) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def test_every_shape_of_the_grid_is_there_once(frame: pd.DataFrame) -> None:
    # layers x widths x vocabularies x experts
    assert len(frame) == 8 * 4 * 2 * 3
    assert not frame.duplicated(["L", "d", "V", "E"]).any()
    # zipped: heads stay 128 wide, the MLP 8/3 as wide as the model
    assert (frame["set.num_attention_heads"] * 128 == frame["d"]).all()
    assert (frame["set.num_key_value_heads"] == frame["set.num_attention_heads"]).all()
    assert (frame["set.intermediate_size"] * 3 == frame["d"] * 8).all()


def test_a_dense_model_has_twelve_d_squared_a_layer(frame: pd.DataFrame) -> None:
    dense = _only(frame, E=1)
    L, d, V = dense["L"], dense["d"], dense["V"]  # noqa: N806 - as papers write them
    # attention 4 d**2, MLP 3 * d * 8 d / 3, a router to one expert, two norms; two tables and the last norm
    assert np.array_equal(dense["total_parameters"], L * (12 * d**2 + d + 2 * d) + 2 * V * d + d)
    assert np.array_equal(dense["active_parameters"], dense["total_parameters"])
    law = 12 * L * d**2 + 2 * V * d
    assert (np.abs(dense["total_parameters"] / law - 1) < 2e-4).all()


def test_the_total_follows_the_experts_held_and_the_active_those_visited(frame: pd.DataFrame) -> None:
    L, d, V, E, k = (frame[name] for name in ("L", "d", "V", "E", "k"))  # noqa: N806 - as papers write them
    outside = L * (4 * d**2 + E * d + 2 * d) + 2 * V * d + d
    assert np.array_equal(frame["total_parameters"], outside + L * E * 8 * d**2)
    assert np.array_equal(frame["active_parameters"], outside + L * k * 8 * d**2)


def test_a_token_costs_two_flops_a_visited_weight_and_its_scores(frame: pd.DataFrame) -> None:
    L, d, V, E, k = (frame[name] for name in ("L", "d", "V", "E", "k"))  # noqa: N806 - as papers write them
    multiplied = L * (4 * d**2 + E * d + k * 8 * d**2) + V * d
    assert np.array_equal(frame["forward_flops_per_token"], 2 * multiplied + 4 * L * LENGTH * d)
    assert np.array_equal(frame["training_flops_per_token"], 3 * frame["forward_flops_per_token"])


def test_training_holds_sixteen_bytes_a_parameter_whatever_the_shape(frame: pd.DataFrame) -> None:
    assert np.array_equal(frame["total_bytes"], 16 * frame["total_parameters"])


@pytest.mark.parametrize(("d", "expected"), [(1536, 64 * 12 * 1536**2), (12288, 64 * 12 * 12288**2)])
def test_twice_the_layers_add_their_own_weights_again(frame: pd.DataFrame, d: int, expected: int) -> None:
    totals = _only(frame, d=d, V=32000, E=1).sort_values("L")["total_parameters"].diff().dropna()
    assert totals.nunique() == 1
    # from 8 to 64 in seven equal steps, of which eight would be 64 layers
    assert 8 * totals.iloc[0] == pytest.approx(expected, rel=2e-4)


def test_twice_the_width_is_four_times_the_layers(frame: pd.DataFrame) -> None:
    dense = _only(frame, E=1, V=32000, L=64).sort_values("d")
    layers = (dense["total_parameters"] - 2 * 32000 * dense["d"]).to_numpy()
    assert layers[1:] / layers[:-1] == pytest.approx([4, 4, 4], rel=1e-3)


def test_tables_are_two_thirds_of_the_smallest_model_and_a_fortieth_of_the_largest(frame: pd.DataFrame) -> None:
    dense = _only(frame, E=1, V=128256).sort_values("total_parameters")
    share = (2 * 128256 * dense["d"] / dense["total_parameters"]).to_numpy()
    assert share[0] == pytest.approx(2 / 3, abs=0.04)
    assert share[-1] == pytest.approx(1 / 40, abs=0.003)


@pytest.mark.parametrize(("d", "added"), [(1536, 1 / 5), (12288, 1 / 36)])
def test_scores_add_what_the_comment_says_to_the_layers(frame: pd.DataFrame, d: int, added: float) -> None:
    row = _only(frame, d=d, E=1, V=32000, L=64).iloc[0]
    weights = 64 * 2 * 12 * d**2
    scores = row["forward_flops_per_token"] - weights - 2 * 64 * d - 2 * 32000 * d
    assert scores / weights == pytest.approx(added, rel=0.12)
    # even at s = 6 d
    assert scores / LENGTH * 6 * d == weights


def test_shapes_are_evaluated_as_columns_and_not_one_by_one() -> None:
    # One by one, 192 trees of 64 layers would be built; the bound is lax, for a machine that is busy.
    sweep(SCENARIO, offline=True)
    start = time.process_time()
    sweep(SCENARIO, offline=True)
    assert time.process_time() - start < 1
