"""The summary answers which GPU, from the same rows."""

import numpy as np
import pytest

from planner.devices import load_devices
from planner.located import parse_yaml
from planner.sweep import Report, evaluate_axes
from planner.sweep.axes import axes_of
from planner.sweep.summary import summarise


def report(text: str) -> Report:
    return evaluate_axes(axes_of(parse_yaml(text, "grid.yaml")), "grid", offline=True)


def test_the_smallest_gpu_that_fits() -> None:
    found = report("model: [gpt2, meta-llama/Llama-3.1-405B]\ngpu: all\nbatch_size: [1, 8]")
    summary = summarise(found)
    assert summary.columns == (
        "model",
        "states GiB",
        "smallest GPU that fits",
        "GPUs that fit",
        "the rest is limited by",
    )
    devices = load_devices().values()
    smallest = min(devices, key=lambda device: (device.memory_bytes, device.name))
    # 811,706,777,600 B; more memory means fewer of them
    fewest = min(devices, key=lambda device: (-(-811_706_777_600 // device.memory_bytes), device.memory_bytes))
    count = -(-811_706_777_600 // fewest.memory_bytes)
    assert [tuple(row) for row in summary.rows] == [
        ("gpt2", "0.232", smallest.name, f"{len(devices)} of {len(devices)}", None),
        ("meta-llama/Llama-3.1-405B", "755.961", f"none; {count} x {fewest.name}", f"0 of {len(devices)}", "weights"),
    ]


def test_what_limits_the_rest_is_the_largest_row() -> None:
    summary = summarise(report("model: meta-llama/Llama-3.1-8B\nmode: [inference, training]\ngpu: [T4, H100, B200]"))
    assert [row[-3:] for row in summary.rows] == [
        ["H100 SXM5 80GB", "2 of 3", "weights"],
        # 119.66 GiB in fp32: half of it are the two states of AdamW
        ["B200 SXM6", "1 of 3", "optimizer state"],
    ]


@pytest.mark.parametrize("order", ["[T4, L4, RTX 4090]", "[RTX 4090, T4, L4]"])
def test_equal_or_not_the_least_memory_comes_first(order: str) -> None:
    summary = summarise(report(f"model: meta-llama/Llama-3.1-8B\ngpu: {order}"))
    assert summary.rows[0][2] == "L4"


def test_only_what_varies_is_shown() -> None:
    summary = summarise(report("model: gpt2\nset: {n_layer: [1, 2], n_embd: 768}\nclass: [GPT2Model, GPT2LMHeadModel]"))
    assert summary.columns == ("model", "class", "set.n_layer", "states GiB")
    assert len(summary.rows) == 4


def test_a_long_summary_says_what_it_leaves_out() -> None:
    found = report("model: gpt2\nset: {n_layer: {start: 1, stop: 50, step: 1}}\ngpu: T4")
    summary = summarise(found, lines=10)
    assert len(summary.rows) == 10
    assert summary.notes[0] == "40 more workloads are in the report"
    assert "50 workloads" in summary.title
    assert [row[1] for row in summary.rows] == list(range(1, 11))


def test_an_empty_report() -> None:
    summary = summarise(report("model: gpt2\ngpu: T4\nwhere: headroom_bytes < 0"))
    assert list(summary.rows) == []
    assert "0 rows" in summary.title
    assert len(summarise(report("model: gpt2\ngpu: T4\nwhere: past > 1")).rows) == 0


def test_the_summary_agrees_with_the_rows() -> None:
    found = report("model: [gpt2, google-t5/t5-3b]\nmode: [inference, training]\ngpu: all\nweights: [bf16, int8]")
    rows = np.arange(found.rows)
    names = ("model", "mode", "weights", "gpu", "fits", "gpu_memory_bytes")
    cells = list(zip(*(found.cells(name, rows) for name in names), strict=True))
    for model, mode, weights, _, _, _, smallest, fitting, _ in summarise(found).rows:
        fit = [row for row in cells if row[:3] == (model, mode, weights) and row[4]]
        assert smallest == min(fit, key=lambda row: (row[5], row[3]))[3]
        assert fitting == f"{len(fit)} of {len(load_devices())}"
