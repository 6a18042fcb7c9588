"""Every row judged, and the summary by recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from planner.validate import serving, training
from planner.validate.intervals import Residuals, grade_of, interval, residuals_of
from planner.validate.result import Judged

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many rows are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Errors of one recipe, quality and quantity.

    Attributes
    ----------
    recipe, quality, quantity : str
        Which.
    rows, skipped : int
        Measurements, and those of them that were not predicted. [-]
    residuals : Residuals or None
        Of those that were.
    covered : float or None
        Share of the predicted ones that lie in their stated interval, where one is stated. [-]
    """

    recipe: str
    quality: str
    quantity: str
    rows: int
    skipped: int
    residuals: Residuals | None
    covered: float | None


def judge_rows(
    rows: Sequence[Mapping[str, Any]], *, models_dir: Path | None = None, progress: Progress | None = None
) -> list[Judged]:
    """Predictions for every row, each from its own context alone.

    Parameters
    ----------
    rows : sequence of mapping
        Measured training steps or engine start-ups.
    models_dir : Path, optional
        Folder of the configs that serving rows name.
    progress : callable, optional
        See `Progress`.
    """
    judged: list[Judged] = []
    for done, row in enumerate(rows, 1):
        found = serving.judge(row, models_dir) if is_serving(row) else training.judge(row)
        judged += [_with_interval(item) for item in found]
        if progress is not None:
            progress(done, len(rows))
    return judged


def is_serving(row: Mapping[str, Any]) -> bool:
    """Whether a row is the start-up of an engine; any other is a training step, such as one whose engine is null."""
    return "engine" in row and (row["engine"] is not None or not any(name in row for name in training.QUANTITIES))


def _with_interval(item: Judged) -> Judged:
    if item.predicted is None:
        return item
    found = interval(item.recipe, item.quantity, item.predicted, grade_of(item.quality), item.context)
    return item if found is None else replace(item, low=float(found[0]), high=float(found[1]))


def summary(judged: Iterable[Judged]) -> list[Group]:
    """Errors by recipe, quality and quantity, sorted by these."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for item in judged:
        groups.setdefault((item.recipe, item.quality, item.quantity), []).append(item)
    return [_group(*key, groups[key]) for key in sorted(groups)]


def _group(recipe: str, quality: str, quantity: str, items: Sequence[Judged]) -> Group:
    stated = [
        item.low <= item.measured <= item.high
        for item in items
        if item.low is not None and item.high is not None and item.measured is not None
    ]
    return Group(
        recipe=recipe,
        quality=quality,
        quantity=quantity,
        rows=len(items),
        skipped=sum(item.predicted is None for item in items),
        residuals=residuals_of(recipe, quantity, items),
        covered=sum(stated) / len(stated) if stated else None,
    )
