import pytest

from planner.units import GB, GIB, format_count, format_gib, format_percent, format_share, format_si


def test_gib_and_gb_differ_by_seven_percent() -> None:
    assert pytest.approx(1.0737, abs=1e-4) == GIB / GB


def test_formats() -> None:
    assert format_count(8_030_261_248) == "8,030,261,248"
    assert format_count(2.5) == "2.50"
    assert format_count(3.0) == "3"
    assert format_gib(16_060_522_496) == "14.958"
    assert format_si(989.4e12, "FLOP/s") == "989.4 TFLOP/s"
    assert format_si(12, "B") == "12 B"
    assert format_percent(-0.938) == "-93.8 %"
    assert format_share(1 / 3) == "33.33 %"
