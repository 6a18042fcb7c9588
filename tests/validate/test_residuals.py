"""The shipped residuals are what the predictions give on the shipped measurements.

`python tests/validate/test_residuals.py` writes them anew.
"""

import csv
import io
from pathlib import Path

import pytest

import planner
from planner.validate.intervals import FILENAME, all_residuals
from planner.validate.rows import shipped_rows
from planner.validate.run import judge_rows

COLUMNS = ("recipe", "quantity", "grade", "rows", "contexts", "median_error", "p90_error", "bias", "low", "high")


def found() -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in all_residuals(judge_rows(shipped_rows())):
        numbers = (f"{getattr(item, name):.6f}" for name in COLUMNS[5:])
        writer.writerow([item.recipe, item.quantity, item.grade, item.rows, "; ".join(item.contexts), *numbers])
    return out.getvalue()


def shipped() -> Path:
    return Path(planner.__file__).parent / "catalog" / FILENAME


@pytest.mark.slow
def test_shipped_residuals_are_those_of_the_predictions() -> None:
    assert shipped().read_text(encoding="utf-8") == found()


if __name__ == "__main__":
    shipped().write_text(found(), encoding="utf-8")
