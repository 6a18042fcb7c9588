"""What a sweep comes to: for each model and workload the smallest GPU that fits, and what limits the rest."""

from __future__ import annotations

import numpy as np

from planner.plan import NOT_INCLUDED
from planner.report.tables import Cell, Table
from planner.sweep.columns import Coded, Codes, Mask, distinct
from planner.sweep.evaluate import USE
from planner.sweep.serving import SERVING_RUN
from planner.sweep.table import Report
from planner.sweep.training import TRAINING_RUN
from planner.units import format_gib

LONGEST_SUMMARY = 100
"""Lines that a terminal shows at once; the report has all of them."""


def summarise(report: Report, lines: int = LONGEST_SUMMARY) -> Table:
    """Table of the first workloads of a report.

    A workload is everything that the memory depends on. The smallest GPU is the one with the least memory that holds
    the states, and of equal ones the first by name; where none does, the one of which the fewest are needed.
    """
    runs = "device_bytes" in report.data
    read = (*USE, *TRAINING_RUN.fields, *SERVING_RUN.fields) if runs else USE
    workload = [
        name
        for name in report.inputs
        if (name in ("model", "class", *read) and name != "gpu") or name.startswith("set.")
    ]
    found = distinct([_coded(report, name) for name in workload], report.rows)
    first = found.first[:lines]
    shown = [name for name in workload if name == "model" or _is_worth_a_column(report, name)]
    cells = [report.cells(name, first) for name in shown]
    sizes = [_needed(*size) for size in zip(*(report.cells(name, first) for name in _sizes(runs=runs)), strict=True)]
    asks_for_gpus = "fits" in report.data
    verdicts = _verdicts(report, found.inverse, len(first)) if asks_for_gpus else [[]] * len(first)
    rows: list[list[Cell]] = [
        [*inputs, size, *verdict] for *inputs, size, verdict in zip(*cells, sizes, verdicts, strict=True)
    ]
    left_out = found.count - len(first)
    return Table(
        title=f"{report.name}: {report.rows:,} rows, {found.count:,} workloads",
        columns=(*shown, "GiB on a GPU" if runs else "states GiB", *(_VERDICT_COLUMNS if asks_for_gpus else ())),
        rows=rows,
        notes=[
            *([f"{left_out:,} more workloads are in the report"] if left_out else []),
            *([] if runs else [NOT_INCLUDED]),
        ],
    )


def _sizes(*, runs: bool) -> tuple[str, ...]:
    return ("device_bytes", "total_bytes", "refused") if runs else ("total_bytes",)


def _needed(size: Cell, states: Cell = None, refused: Cell = None) -> str | None:
    """What one GPU must hold: that of a run, nothing for a layout that cannot exist, or the states."""
    if not isinstance(size, (int, float)) and states is None:
        return None
    needed = states if size is None and refused is None else size
    return None if needed is None else format_gib(float(needed))


_VERDICT_COLUMNS = ("smallest GPU that fits", "GPUs that fit", "the rest is limited by")


def _coded(report: Report, name: str) -> Coded:
    column = report.data[name]
    assert isinstance(column, Coded)  # noqa: S101 - every input is
    return column


def _is_worth_a_column(report: Report, name: str) -> bool:
    """Whether it tells workloads apart; a class does only where a model has several."""
    beside = [_coded(report, "model")] if name == "class" else []
    without = distinct(beside, report.rows).count
    return distinct([*beside, _coded(report, name)], report.rows).count > max(without, 1)


def _is_run(report: Report) -> Mask:
    asks = np.zeros(report.rows, dtype=np.bool_)
    for name in ("recipe", "engine"):
        column = report.data.get(name)
        if isinstance(column, Coded):
            asks |= np.array([value is not None for value in column.values], dtype=np.bool_)[column.codes]
    return asks


def _verdicts(report: Report, workload: Codes, shown: int) -> list[list[Cell]]:
    """For each of the first workloads: the smallest GPU that fits, how many do, and what limits the others."""
    gpu = _coded(report, "gpu")
    # One row for each workload and GPU: what does not change the memory is not asked twice.
    once = distinct([Coded(tuple(range(int(workload.max(initial=0)) + 1)), workload), gpu], report.rows).first
    workload, gpu = workload[once], gpu.take(once)
    fits, memory, needed = (np.asarray(report.data[name])[once] for name in ("fits", "gpu_memory_bytes", "min_gpus"))
    runs = _is_run(report)[once]
    # A run is spread already: it fits on its GPUs, or no number of them helps.
    needed = np.where(runs, np.where(fits, 1, 2), needed)
    by_name = np.argsort(np.argsort(np.array(gpu.values, dtype=str)))[gpu.codes]
    order = np.lexsort((by_name, memory, needed, workload))
    # One GPU is the fewest, so the head of each workload fits alone, or none does.
    best = order[np.searchsorted(workload[order], np.arange(shown))]
    fitting, asked = np.bincount(workload[fits], minlength=shown), np.bincount(workload, minlength=shown)
    limits = report.cells("largest_row", once[best])
    return [
        [
            gpu.at(int(row))
            if needed[row] == 1
            else "none"
            if runs[row]
            else f"none; {needed[row]:,} x {gpu.at(int(row))}",
            f"{fitting[number]} of {asked[number]}",
            None if fitting[number] == asked[number] or runs[row] else limit,
        ]
        for number, (row, limit) in enumerate(zip(best, limits, strict=True))
    ]
