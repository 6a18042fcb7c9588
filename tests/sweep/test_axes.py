"""Axes: what a file states becomes lists, and their product is known before it is made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.devices import load_devices
from planner.errors import ScenarioError
from planner.located import parse_yaml
from planner.sweep.axes import LARGEST_CONFIRMED_GRID, LARGEST_GRID, Axes, axes_of
from planner.sweep.grid import expand


def axes(text: str, *, confirmed: bool = False) -> Axes:
    return axes_of(parse_yaml(text, "grid.yaml"), confirmed=confirmed)


def values(text: str, name: str) -> tuple[object, ...]:
    axis = axes(text).axis(name)
    assert axis is not None
    return axis.values


def error(text: str, *, confirmed: bool = False) -> ScenarioError:
    with pytest.raises(ScenarioError) as found:
        axes(text, confirmed=confirmed)
    assert found.value.file == "grid.yaml"
    return found.value


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("8", (8,)),
        ("[8, 1, 8]", (8, 1, 8)),
        ("{start: 1, stop: 7, step: 2}", (1, 3, 5, 7)),
        ("{start: 1, stop: 8, step: 2}", (1, 3, 5, 7)),
        ("{start: 7, stop: 1, step: -3}", (7, 4, 1)),
        ("{start: 5, stop: 5, step: 1}", (5,)),
        ("{start: 1, stop: 64, factor: 4}", (1, 4, 16, 64)),
        ("{start: 3, stop: 20, factor: 2}", (3, 6, 12)),
        ("{start: 1e3, stop: 4e3, factor: 2.0}", (1000, 2000, 4000)),
    ],
)
def test_values_lists_and_ranges(written: str, meant: tuple[int, ...]) -> None:
    assert values(f"model: gpt2\nbatch_size: {written}", "batch_size") == meant
    assert values(f"model: gpt2\nset: {{n_layer: {written}}}", "set.n_layer") == meant


@given(st.integers(1, 1000), st.integers(0, 50), st.integers(1, 40), st.integers(0, 39))
def test_a_stepped_range_counts_itself(start: int, count: int, step: int, beyond: int) -> None:
    stop = start + count * step + min(beyond, step - 1)
    found = values(f"model: gpt2\nbatch_size: {{start: {start}, stop: {stop}, step: {step}}}", "batch_size")
    assert found == tuple(start + number * step for number in range(count + 1))


@given(st.integers(1, 1000), st.integers(0, 8), st.integers(2, 9))
def test_a_multiplied_range_counts_itself(start: int, count: int, factor: int) -> None:
    stop = start * factor**count
    found = values(f"model: gpt2\nbatch_size: {{start: {start}, stop: {stop}, factor: {factor}}}", "batch_size")
    assert found == tuple(start * factor**number for number in range(count + 1))


def test_names_become_those_of_the_catalog() -> None:
    assert values("model: gpt2\ngpu: [h100, rtx-4090]", "gpu") == ("H100 SXM5 80GB", "GeForce RTX 4090")
    assert values("model: gpt2\ngpu: all", "gpu") == tuple(load_devices())
    assert values("model: gpt2\ngpu: [all, T4]", "gpu") == (*load_devices(), "Tesla T4")


def test_nested_keys_and_values_that_are_lists() -> None:
    text = "model: gpt2\nset: {text_config: {n_layer: [1, 2]}, layer_types: [[a, b], [c]]}"
    assert values(text, "set.text_config.n_layer") == (1, 2)
    assert values(text, "set.layer_types") == (["a", "b"], ["c"])


def test_the_first_axis_of_the_file_is_the_slowest() -> None:
    grid = expand(axes("batch_size: [1, 2]\nmodel: [gpt2, t5]\nzip: [[model, past]]\npast: [0, 5]"))
    rows = [tuple(grid.columns[name].at(row) for name in ("batch_size", "model", "past")) for row in range(grid.rows)]
    assert rows == [(1, "gpt2", 0), (1, "t5", 5), (2, "gpt2", 0), (2, "t5", 5)]


def test_a_value_listed_twice_has_one_code() -> None:
    grid = expand(axes("model: gpt2\nset: {x: [1, true, 1, 1.0, null, [1]]}"))
    assert grid.columns["set.x"].values == (1, True, 1.0, None, [1])
    assert grid.columns["set.x"].codes.tolist() == [0, 1, 0, 2, 3, 4]
    assert grid.place("set.x", 5).key == "set.x[5]"


MISTAKES = {
    "empty list": ("model: gpt2\nbatch_size: []", 2, "batch_size", "is an empty list", None),
    "wrong item": ("model: gpt2\nbatch_size:\n  - 1\n  - x", 4, "batch_size[1]", "whole number, got 'x'", None),
    "unknown item": ("model: gpt2\ngpu: [T4,\n  H10O]", 3, "gpu[1]", "unknown accelerator", "did you mean"),
    "no GPU in a list": ("model: gpt2\ngpu: [T4, null]", 2, "gpu[1]", "is nothing", None),
    "unknown key": ("model: gpt2\nbatch_sizes: [1]", 2, "batch_sizes", "unknown key", "'batch_size'"),
    "range of names": ("model: {start: 1, stop: 2, step: 1}", 1, "model", "a range counts numbers", None),
    "range key": ("model: gpt2\npast: {start: 1, stpo: 2, step: 1}", 2, "past.stpo", "unknown key of a range", "stop"),
    "no stop": ("model: gpt2\npast: {start: 1, step: 1}", 2, "past", "a range has start, stop", "for example"),
    "neither": ("model: gpt2\npast: {start: 1, stop: 2}", 2, "past", "either step or factor", None),
    "both": ("model: gpt2\npast: {start: 1, stop: 2, step: 1, factor: 2}", 2, "past", "either step or factor", None),
    "step 0": ("model: gpt2\npast: {start: 1, stop: 2, step: 0}", 2, "past", "a step of 0 never arrives", None),
    "factor 1": ("model: gpt2\npast: {start: 1, stop: 2, factor: 1}", 2, "past", "a factor of at least 2", None),
    "start 0": ("model: gpt2\npast: {start: 0, stop: 2, factor: 2}", 2, "past", "a start of at least 1", None),
    "wrong way": ("model: gpt2\npast: {start: 3, stop: 2, step: 1}", 2, "past", "is empty", None),
    "fraction": ("model: gpt2\npast: {start: 0.5, stop: 2, step: 1}", 2, "past.start", "in whole numbers", None),
    "end too small": ("model: gpt2\nbatch_size: {start: 0, stop: 2, step: 1}", 2, "batch_size", "at least 1", None),
    "endless": ("model: gpt2\npast: {start: 0, stop: 1e30, step: 1}", 2, "past", "expected at most 1,000,000", None),
    "zip is no list": ("model: gpt2\nzip: model", 2, "zip", "expected lists of fields", "[[model, batch_size]]"),
    "zip is flat": ("model: [a, b]\nzip: [model, past]", 2, "zip", "expected lists of fields", None),
    "zip of one": ("model: [a, b]\nzip: [[model]]", 2, "zip[0]", "at least two", None),
    "zip unstated": ("model: [a, b]\nzip: [[model, past]]", 2, "zip[0][1]", "does not state it", None),
    "zip unknown": ("model: [a, b]\npast: 1\nzip: [[model, pst]]", 3, "zip[0][1]", "unknown field 'pst'", "'past'"),
    "zip number": ("model: [a, b]\nzip: [[model, 3]]", 2, "zip[0][1]", "expected the name of a field", None),
    "zip lengths": (
        "model: [a, b]\npast: [1, 2, 3]\nzip: [[model, past]]",
        3,
        "zip[0]",
        "lists of one length, got model 2, past 3",
        None,
    ),
    "zip twice": (
        "model: [a, b]\npast: [1, 2]\nimages: [1, 2]\nzip: [[model, past], [past, images]]",
        4,
        "zip[1][0]",
        "'past' is zipped twice",
        None,
    ),
    "where number": ("model: gpt2\nwhere: 3", 2, "where", "expected a condition as text", None),
    "where empty": ("model: gpt2\nwhere: []", 2, "where", "is an empty list", None),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named(case: str) -> None:
    text, line, key, message, hint = MISTAKES[case]
    found = error(text)
    assert (found.line, found.key) == (line, key)
    assert message in found.message
    assert hint is None or hint in (found.hint or "")


LARGE = "model: gpt2\nbatch_size: {start: 1, stop: 1000, step: 1}\npast: {start: 0, stop: %d, step: 1}"


def test_a_large_grid_must_be_confirmed() -> None:
    # 1,000 * 1,001 rows
    found = error(LARGE % 1000)
    assert found.line == 3
    assert "1,001,000 rows (batch_size 1,000 x past 1,001), the limit is 1,000,000" in found.message
    assert found.hint is not None
    assert "--yes" in found.hint
    assert axes(LARGE % 1000, confirmed=True).rows == 1_001_000
    assert axes(LARGE % 999).rows == LARGEST_GRID


def test_a_huge_grid_is_refused_before_it_is_expanded() -> None:
    text = "model: gpt2\n" + "\n".join(
        f"{name}: {{start: 1, stop: 1000000, step: 1}}" for name in ("batch_size", "past", "images", "sequence_length")
    )
    for confirmed in (False, True):
        found = error(text, confirmed=confirmed)
        assert "1,000,000,000,000,000,000,000,000 rows" in found.message
        assert f"the limit is {LARGEST_CONFIRMED_GRID:,}" in found.message
