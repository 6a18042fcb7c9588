import numpy as np
import pytest
import sympy

from planner.numeric import (
    all_true,
    ceil_div,
    divides,
    exact_integers,
    exact_quotient,
    maximum,
    minimum,
    where,
)

COLUMN = np.array([1.0, 5.0, 9.0])


@pytest.mark.parametrize(("numerator", "denominator", "expected"), [(0, 3, 0), (1, 3, 1), (3, 3, 1), (4, 3, 2)])
def test_ceil_div_rounds_up(numerator: int, denominator: int, expected: int) -> None:
    assert expected == ceil_div(numerator, denominator)


def test_ceil_div_is_exact_beyond_what_floats_hold() -> None:
    assert ceil_div(2**80 + 1, 2) == 2**79 + 1


def test_columns_go_element_by_element() -> None:
    assert maximum(COLUMN, 5).tolist() == [5, 5, 9]  # type: ignore[union-attr]
    assert minimum(COLUMN, 5).tolist() == [1, 5, 5]  # type: ignore[union-attr]
    assert where(COLUMN > 4, 1, 0).tolist() == [0, 1, 1]  # type: ignore[union-attr]
    assert ceil_div(COLUMN, 2).tolist() == [1, 3, 5]  # type: ignore[union-attr]


def test_numbers_stay_python_integers() -> None:
    assert isinstance(maximum(2**70, 1), int)
    assert where(True, 2**70, 1) == 2**70


def test_symbols_pass_every_check() -> None:
    width = sympy.Symbol("width", positive=True)
    assert divides(12, width)
    assert all_true(width > 3)
    assert exact_quotient(width, 2) * 2 == width


def test_divides_asks_every_element() -> None:
    assert divides(2, np.array([4.0, 6.0]))
    assert not divides(2, np.array([4.0, 5.0]))


def test_whole_columns_become_integers() -> None:
    assert exact_integers(np.array([0.0, 2.0**53])).tolist() == [0, 2**53]


@pytest.mark.parametrize("value", [0.5, 2.0**54])
def test_what_a_float_may_have_rounded_is_refused(value: float) -> None:
    with pytest.raises(OverflowError):
        exact_integers(np.array([value]))
