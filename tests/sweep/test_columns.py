"""Columns of codes: distinct combinations are found whatever the size of the space that they come from."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from planner.sweep.columns import Coded, distinct, groups

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=60)


def columns(rows: list[tuple[int, int, int]], spread: int) -> list[Coded]:
    """Codes `spread` times apart, so that the space of their combinations is large where it is asked to be."""
    return [
        Coded(tuple(range(5 * spread)), np.array([row[position] * spread for row in rows])) for position in range(3)
    ]


@given(ROWS, st.sampled_from([1, 1000]))
def test_distinct_combinations(rows: list[tuple[int, int, int]], spread: int) -> None:
    found = distinct(columns(rows, spread), len(rows))
    expected = list(dict.fromkeys(rows))
    assert [rows[row] for row in found.first] == expected
    assert [expected[number] for number in found.inverse] == rows
    assert found.first.tolist() == [rows.index(row) for row in expected]


@given(ROWS)
def test_a_space_beyond_int64_is_renumbered(rows: list[tuple[int, int, int]]) -> None:
    class Huge(tuple[int, ...]):
        __slots__ = ()

        def __len__(self) -> int:
            return 2**40

    wide = [Coded(Huge(), column.codes) for column in columns(rows, 1)]
    assert distinct(wide, len(rows)).inverse.tolist() == distinct(columns(rows, 1), len(rows)).inverse.tolist()


@given(ROWS)
def test_groups_partition_the_rows(rows: list[tuple[int, int, int]]) -> None:
    seen: list[int] = []
    for values, members in groups(columns(rows, 1)[:2], len(rows)):
        assert {rows[member][:2] for member in members} == {values}
        seen += members.tolist()
    assert sorted(seen) == list(range(len(rows)))


def test_no_columns_are_one_combination() -> None:
    found = distinct([], 3)
    assert (found.first.tolist(), found.inverse.tolist()) == ([0], [0, 0, 0])
    assert distinct([], 0).count == 0


def test_replaced_values() -> None:
    column = Coded(("a", "b"), np.array([0, 1, 1]))
    mask = np.array([True, False, True])
    assert [column.replaced(mask, "b").at(row) for row in range(3)] == ["b", "b", "b"]
    assert [column.replaced(mask, None).at(row) for row in range(3)] == [None, "b", None]


def test_a_constant_takes_no_memory() -> None:
    assert Coded.constant("x", 10**9).codes.strides == (0,)
