"""Fields of a measured row are checked before anything reads them."""

from typing import Any

import pytest

from planner.validate.reading import Skipped
from planner.validate.wellformed import checked_row, measured_bytes

ROW: dict[str, Any] = {"id": "a", "model": {"layers": 2, "moe": {"experts": 4}}, "parallel": {"tp": 1}, "seq_len": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "gpt2"}, "model is 'gpt2', expected an object"),
        ({"parallel": [1]}, r"parallel is \[1\], expected an object"),
        ({"model": {"moe": 8}}, "model.moe is 8, expected an object"),
        ({"model": {"layers": "32"}}, "model.layers is '32', expected a whole number from 0 to 10,000"),
        ({"model": {"layers": 10**9}}, "model.layers is 1000000000, expected"),
        ({"model": {"hidden": 0}}, "model.hidden is 0, expected a whole number from 1 to"),
        ({"model": {"heads": True}}, "model.heads is True"),
        ({"model": {"heads": 1.5}}, "model.heads is 1.5, expected a whole number"),
        ({"model": {"vocab": -1}}, "model.vocab is -1"),
        ({"model": {"vocab": float("nan")}}, "model.vocab is nan"),
        ({"model": {"moe": {"topk": "two"}}}, "model.moe.topk is 'two'"),
        ({"parallel": {"pp": 10**400}}, "parallel.pp is 1000.*0[.]{3}"),
        ({"seq_len": "x" * 300}, "seq_len is 'x+[.]{3}, expected"),
        ({"finetune": {"rank": {}}}, "finetune.rank is {}"),
    ],
)
def test_what_a_field_cannot_hold_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Skipped, match=message):
        checked_row({**ROW, **changes})


def test_fractions_that_are_whole_are_numbers_and_the_row_stays_as_it_was() -> None:
    row = {**ROW, "model": {"layers": 2.0, "vocab": 0, "moe": {"experts": 4.0}}, "seq_len": 8.0, "parallel": None}
    found = checked_row(row)
    assert found["model"] == {"layers": 2, "vocab": 0, "moe": {"experts": 4}}
    assert [type(found["model"]["layers"]), type(found["seq_len"])] == [int, int]
    assert type(row["model"]["layers"]) is float


@pytest.mark.parametrize("value", ["12 GB", True, -1, 0, float("inf"), float("nan"), [1], 10**30])
def test_what_is_no_size_is_not_measured(value: object) -> None:
    with pytest.raises(Skipped, match="peak_bytes is .*, expected a number of bytes"):
        measured_bytes({"peak_bytes": value}, "peak_bytes")


def test_a_size_may_be_missing() -> None:
    assert measured_bytes({}, "peak_bytes") is measured_bytes({"peak_bytes": None}, "peak_bytes") is None
    assert measured_bytes({"peak_bytes": 12.5}, "peak_bytes") == 12.5
