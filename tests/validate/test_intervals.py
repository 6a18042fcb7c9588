"""Residuals and the intervals that follow from them."""

import pytest

from planner.validate.intervals import FEWEST, Residuals, residuals_of
from planner.validate.result import Judged


def judged(measured: float, predicted: float | None) -> Judged:
    return Judged(
        id="row", recipe="r", quality="A", quantity="peak_bytes", measured=measured, predicted=predicted, skipped=""
    )


def test_errors_are_predicted_over_measured() -> None:
    # 110/100 = +10 %, 90/100 = -10 %, 100/100 = 0
    found = residuals_of("r", "peak_bytes", [judged(100, 110), judged(100, 90), judged(100, 100)])
    assert found is not None
    assert found.rows == 3
    assert found.median_error == pytest.approx(0.10)
    assert found.bias == pytest.approx(0.0)


def test_skipped_rows_do_not_count() -> None:
    found = residuals_of("r", "peak_bytes", [judged(100, 100), judged(100, None)])
    assert found is not None
    assert found.rows == 1
    assert residuals_of("r", "peak_bytes", [judged(100, None)]) is None


def test_an_interval_holds_nine_of_ten_of_the_rows_that_made_it() -> None:
    # measured over predicted runs from 0.900 to 1.099 in steps of 0.001
    rows = [judged(900 + step, 1000) for step in range(200)]
    found = residuals_of("r", "peak_bytes", rows)
    assert found is not None
    inside = sum(found.low <= row.measured / 1000 <= found.high for row in rows if row.measured)
    assert 0.88 <= inside / len(rows) <= 0.93


def test_a_few_rows_support_no_interval() -> None:
    few = Residuals(
        recipe="r",
        quantity="q",
        grade="exact",
        rows=FEWEST - 1,
        contexts=(),
        median_error=0,
        p90_error=0,
        bias=0,
        low=1,
        high=1,
    )
    assert not few.supports_interval


def test_what_others_leave_is_off_by_what_they_are_off() -> None:
    # 60.0 - 59.9 = 0.1 GiB and 5.0 - 5.1 = -0.1 GiB: a small pool is no more exact than a large one
    rows = [
        Judged(id="a", recipe="e", quality="A", quantity="kv_cache_gib_per_gpu", measured=60.0, predicted=59.9),
        Judged(id="b", recipe="e", quality="A", quantity="kv_cache_gib_per_gpu", measured=5.0, predicted=5.1),
    ]
    found = residuals_of("e", "kv_cache_gib_per_gpu", rows)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-0.1, 0.1), abs=2e-6)
