"""How far off predictions have been on the shipped measurements, and the interval that follows for a new one.

`catalog/measured/residuals.csv` holds, for each recipe or engine and each quantity, what `planner validate` finds on
the shipped rows. A plan reads it, so that it need not predict every row again; a test holds it to what is found.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from planner.catalog import read_text
from planner.numeric import Num
from planner.training.recipe import load_recipes
from planner.validate.result import Judged

FILENAME = "measured/residuals.csv"

FEWEST = 8
"""Rows below which residuals support no interval: the fifth and the ninety-fifth percentile need more."""

DIGITS = 6
"""Digits of a ratio in the catalog."""

ENOUGH = 19
"""Rows from which the outermost ones leave a twentieth on either side for the next measurement."""

COVERED = 0.90
"""Share of measurements that an interval is to hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """What is known of the errors of one recipe and quantity.

    Attributes
    ----------
    recipe, quantity, grade : str
        Which; see `grade_of`.
    rows : int
        Measurements. [-]
    contexts : tuple of str
        Kinds of cases among them, see `planner.validate.context`; empty where kinds make no difference.
    median_error, p90_error : float
        Of the absolute error, predicted over measured less one. [-]
    bias : float
        Median of the error itself. [-]
    low, high : float
        90 % of measurements lie between them: measured over predicted, or, for a quantity of `DIFFERENCES`, measured
        less predicted. [-, or the unit of the quantity]
    """

    recipe: str
    quantity: str
    grade: str
    rows: int
    contexts: tuple[str, ...]
    median_error: float
    p90_error: float
    bias: float
    low: float
    high: float

    def covers(self, context: str) -> bool:
        """Whether a kind of case is among those that were measured."""
        return not context or not self.contexts or context in self.contexts

    @property
    def supports_interval(self) -> bool:
        """Whether there are rows enough."""
        return self.rows >= FEWEST


DIFFERENCES = frozenset({"kv_cache_gib_per_gpu"})
"""Quantities that are what others leave, so that their error is that of the others and not a share of their own."""

EXACT, ROUGH = "exact", "rough"
"""Grades of measurements."""


def grade_of(quality: str) -> str:
    """Whether a counter was read exactly, or rounded as nvidia-smi and the like are (quality C).

    Examples
    --------
    >>> grade_of("B"), grade_of("C")
    ('exact', 'rough')
    """
    return ROUGH if quality == "C" else EXACT


def residuals_of(recipe: str, quantity: str, judged: Iterable[Judged], grade: str = EXACT) -> Residuals | None:
    """Errors of one group; None where nothing was predicted."""
    judged = list(judged)
    contexts = {item.context for item in judged if item.predicted and item.measured and item.context}
    pairs = [(item.measured, item.predicted) for item in judged if item.predicted and item.measured]
    if not pairs:
        return None
    errors = [predicted / measured - 1 for measured, predicted in pairs]
    absolute = [abs(error) for error in errors]
    differs = quantity in DIFFERENCES
    apart = [measured - predicted if differs else measured / predicted for measured, predicted in pairs]
    return Residuals(
        recipe=recipe,
        quantity=quantity,
        grade=grade,
        rows=len(pairs),
        contexts=tuple(sorted(contexts)),
        median_error=quantile(absolute, 0.5),
        p90_error=quantile(absolute, 0.9),
        bias=quantile(errors, 0.5),
        # Outwards at the digits that the catalog keeps, so that a bound holds the row that it was read off.
        low=math.floor(_outer(apart, (1 - COVERED) / 2) * 10**DIGITS) / 10**DIGITS,
        high=math.ceil(_outer(apart, (1 + COVERED) / 2) * 10**DIGITS) / 10**DIGITS,
    )


VERSION = re.compile(r"(?<=[a-z])-\d[\w.]*$")
"""End of a recipe's name that says since which release of the framework it holds."""


def unversioned(recipe: str) -> str:
    """Name of a recipe without a release.

    Examples
    --------
    >>> unversioned("huggingface-4.45"), unversioned("megatron"), unversioned("vllm 0.17-0.20")
    ('huggingface', 'megatron', 'vllm 0.17-0.20')
    """
    return VERSION.sub("", recipe)


def all_residuals(judged: Sequence[Judged]) -> list[Residuals]:
    """Errors of every recipe, quantity and grade, and of the releases of a recipe together.

    A recipe without measurements has those of the recipes that say that they are like it.
    """
    measured = {item.recipe for item in judged if item.predicted is not None}
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for item in judged:
        names = (item.recipe, unversioned(item.recipe), _unmeasured_base(item.recipe, measured))
        for recipe in dict.fromkeys(name for name in names if name is not None):
            groups.setdefault((recipe, item.quantity, grade_of(item.quality)), []).append(item)
    found = (residuals_of(recipe, quantity, items, grade) for (recipe, quantity, grade), items in groups.items())
    return sorted(
        (item for item in found if item is not None), key=lambda item: (item.recipe, item.quantity, item.grade)
    )


def _unmeasured_base(recipe: str, measured: Collection[str]) -> str | None:
    """Recipe that one says it is like, where no measurement is of that recipe itself or a release of it."""
    known = load_recipes().get(recipe)
    base = None if known is None else known.word("like") or None
    covered = {unversioned(name) for name in measured}
    return None if base is None or unversioned(base) in covered else base


def quantile(values: Sequence[float], share: float) -> float:
    """Quantile of some values, between neighbours in proportion.

    Examples
    --------
    >>> quantile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.5
    """
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def _outer(values: Sequence[float], share: float) -> float:
    """Order statistic that leaves at most `share` outside for the next measurement, as conformal prediction counts."""
    ordered = sorted(values)
    count = len(ordered)
    if share < 0.5:
        return ordered[max(math.floor(share * (count + 1)) - 1, 0)]
    return ordered[min(math.ceil(share * (count + 1)) - 1, count - 1)]


@cache
def load_residuals() -> dict[tuple[str, str, str], Residuals]:
    """Shipped residuals by recipe, quantity and grade."""
    return {
        (row["recipe"], row["quantity"], row["grade"]): Residuals(
            recipe=row["recipe"],
            quantity=row["quantity"],
            grade=row["grade"],
            rows=int(row["rows"]),
            contexts=tuple(row["contexts"].split("; ")) if row["contexts"] else (),
            **{name: float(row[name]) for name in ("median_error", "p90_error", "bias", "low", "high")},
        )
        for row in csv.DictReader(read_text(FILENAME).splitlines())
    }


def interval(
    recipe: str, quantity: str, predicted: Num, grade: str = EXACT, context: str = ""
) -> tuple[Num, Num] | None:
    """Interval that holds 90 % of measurements around a prediction; None where nothing covers the case.

    Parameters
    ----------
    recipe, quantity : str
        Recipe or engine, and field of a measured row.
    predicted : Num
        In the unit of the quantity.
    grade : str
        How the measurement will be read; see `grade_of`.
    context : str
        Kind of case, see `planner.validate.context`; any where it is left out.
    """
    found = residuals_for(recipe, quantity, grade, context)
    if found is None:
        return None
    if quantity in DIFFERENCES:
        return predicted + found.low, predicted + found.high
    return predicted * found.low, predicted * found.high


def residuals_for(recipe: str, quantity: str, grade: str = EXACT, context: str = "") -> Residuals | None:
    """Errors that support an interval: of the recipe, or of all its releases; None where those are few."""
    known = load_residuals()
    own, together = (
        found if found is not None and found.covers(context) else None
        for found in (known.get((name, quantity, grade)) for name in (recipe, unversioned(recipe)))
    )
    if own is not None and own.rows >= ENOUGH:
        return own
    return together if together is not None and together.supports_interval else None
