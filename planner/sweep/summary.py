"""What a sweep comes to: for each model and workload the smallest GPU that fits, and what limits the rest."""

from __future__ import annotations

import numpy as np

from planner.plan import NOT_INCLUDED
from planner.report.tables import Cell, Table
from planner.sweep.columns import Coded, Codes, distinct
from planner.sweep.evaluate import USE
from planner.sweep.table import Report
from planner.units import format_gib

LONGEST_SUMMARY = 100
"""Lines that a terminal shows at once; the report has all of them."""


def summarise(report: Report, lines: int = LONGEST_SUMMARY) -> Table:
    """Table of the first workloads of a report.

    A workload is everything that the memory depends on. The smallest GPU is the one with the least memory that holds
    the states, and of equal ones the first by name; where none does, the one of which the fewest are needed.
    """
    workload = [name for name in report.inputs if name in ("model", "class", *USE) or name.startswith("set.")]
    found = distinct([_coded(report, name) for name in workload], report.rows)
    first = found.first[:lines]
    shown = [name for name in workload if name == "model" or _is_worth_a_column(report, name)]
    cells = [report.cells(name, first) for name in shown]
    sizes = [format_gib(float(size or 0)) for size in report.cells("total_bytes", first)]
    asks_for_gpus = "fits" in report.data
    verdicts = _verdicts(report, found.inverse, len(first)) if asks_for_gpus else [[]] * len(first)
    rows: list[list[Cell]] = [
        [*inputs, size, *verdict] for *inputs, size, verdict in zip(*cells, sizes, verdicts, strict=True)
    ]
    left_out = found.count - len(first)
    return Table(
        title=f"{report.name}: {report.rows:,} rows, {found.count:,} workloads",
        columns=(*shown, "states GiB", *(_VERDICT_COLUMNS if asks_for_gpus else ())),
        rows=rows,
        notes=[*([f"{left_out:,} more workloads are in the report"] if left_out else []), NOT_INCLUDED],
    )


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


def _verdicts(report: Report, workload: Codes, shown: int) -> list[list[Cell]]:
    """For each of the first workloads: the smallest GPU that fits, how many do, and what limits the others."""
    gpu = _coded(report, "gpu")
    # One row for each workload and GPU: batches and lengths do not change what the states take.
    once = distinct([Coded(tuple(range(int(workload.max(initial=0)) + 1)), workload), gpu], report.rows).first
    workload, gpu = workload[once], gpu.take(once)
    fits, memory, needed = (np.asarray(report.data[name])[once] for name in ("fits", "gpu_memory_bytes", "min_gpus"))
    by_name = np.argsort(np.argsort(np.array(gpu.values, dtype=str)))[gpu.codes]
    order = np.lexsort((by_name, memory, needed, workload))
    # One GPU is the fewest, so the head of each workload fits alone, or none does.
    best = order[np.searchsorted(workload[order], np.arange(shown))]
    fitting, asked = np.bincount(workload[fits], minlength=shown), np.bincount(workload, minlength=shown)
    limits = report.cells("largest_row", once[best])
    return [
        [
            gpu.at(int(row)) if needed[row] == 1 else f"none; {needed[row]:,} x {gpu.at(int(row))}",
            f"{fitting[number]} of {asked[number]}",
            None if fitting[number] == asked[number] else limit,
        ]
        for number, (row, limit) in enumerate(zip(best, limits, strict=True))
    ]
