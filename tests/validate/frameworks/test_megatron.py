"""Rows of Megatron and nanotron: how words are read, and how close the shipped measurements come."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from planner.counts import count
from planner.validate.frameworks import megatron
from planner.validate.frameworks.megatron_blocks import expert_layers
from planner.validate.frameworks.megatron_trees import tree_of_row
from planner.validate.intervals import quantile
from planner.validate.reading import Skipped
from planner.validate.rows import shipped_rows
from planner.validate.training import judge, read

SMALL = {
    "family": "gpt",
    "layers": 12,
    "hidden": 512,
    "heads": 8,
    "kv_heads": 8,
    "ffn": 2048,
    "vocab": 50257,
    "tied_embeddings": True,
    "norm": "layernorm",
    "bias": True,
    "position": "learned_absolute",
}

ROW: dict[str, Any] = {
    "id": "x",
    "recipe": "megatron",
    "model": SMALL,
    "seq_len": 1024,
    "micro_batch_per_gpu": 4,
    "global_batch": 32,
    "gpus": 8,
    "gpu_kind": "A100-80GB",
    "parallel": {"tp": 1, "pp": 1, "dp": 8, "zero": 1},
    "precision": "bf16+fp32 master/grads",
    "act_ckpt": "none",
    "attention": "unfused",
    "loss_impl": "Megatron vocab-parallel CE (fp32)",
    "peak_bytes": 4673069568,
    "steady_bytes": 552128512,
    "extra": {"megatron_args": {"no-gradient-accumulation-fusion": True}},
}
"""Megatron-LM's smallest GPT test: exact bytes of its golden values."""


def test_the_smallest_test_to_a_thousandth() -> None:
    found = {item.quantity: item for item in judge(ROW)}
    assert found["steady_bytes"].predicted == pytest.approx(552128512, rel=0.01)
    # 4,120,941,056 above the states: 12 blocks of 34 sbh + 5 a s^2 b, logits at 6 B, and what is small.
    above = found["peak_bytes"].predicted - found["steady_bytes"].predicted  # type: ignore[operator]
    assert above == pytest.approx(4673069568 - 552128512, rel=0.001)


@pytest.mark.parametrize(
    ("words", "kind", "parts"),
    [
        ("none", "none", set()),
        ("", "none", set()),
        ("full(uniform,1)", "full", set()),
        ("full (checkpoint-activations)", "full", set()),
        ("selective core_attn (megatron default)", "selective", {"core_attention"}),
        ("selective", "selective", {"core_attention"}),
        (
            "selective([layernorm mla_up_proj mlp moe_act])",
            "selective",
            {"norm", "mla_up", "mlp", "moe_activation"},
        ),
        ("selective moe,layernorm", "selective", {"moe", "norm"}),
    ],
)
def test_words_of_recomputation(words: str, kind: str, parts: set[str]) -> None:
    found = megatron.recompute(words)
    assert (found.kind, set(found.parts)) == (kind, parts)


def test_an_unknown_word_is_skipped() -> None:
    with pytest.raises(Skipped, match="sometimes"):
        megatron.recompute("sometimes")


def test_layers_per_chunk_become_chunks_per_stage() -> None:
    row = {**ROW, "parallel": {"tp": 1, "pp": 4, "vpp_layers": 1, "dp": 2}}
    # 12 layers on 4 stages, one a chunk: 3 chunks.
    assert megatron.read(row).job.parallelism.vp == 3


@pytest.mark.parametrize(
    ("change", "attention", "workspace"),
    [
        ({}, "eager", 32 * 2**20),
        ({"attention": "flash"}, "flash", None),  # not deterministic, so cuBLAS is left as it is
        ({"attention": "auto (TE fused/flash)"}, "flash", 32 * 2**20),
        ({"attention": "auto (TE fused/flash)", "gpu_kind": "H100-80GB"}, "sdpa", 32 * 2**20),
        ({"attention": "auto (TE fused/flash)", "gpu_kind": "GB200"}, "flash", 32 * 2**20),
    ],
)
def test_kernels_follow_from_accelerator_and_determinism(
    change: dict[str, str], attention: str, workspace: int | None
) -> None:
    job = megatron.read({**ROW, **change}).job
    assert (job.attention, job.options.get("cublas_workspace")) == (attention, workspace)


def test_dropout_is_megatrons_where_a_command_line_is_silent() -> None:
    assert megatron.read(ROW).job.options["hidden_dropout"] == 0.1
    silent = {key: value for key, value in ROW.items() if key != "extra"}
    assert "hidden_dropout" not in megatron.read(silent).job.options


def test_a_gated_mlp_is_as_large_as_a_plain_one_where_its_width_is_open() -> None:
    swiglu = {**ROW, "model": {**SMALL, "gated_mlp": True}, "extra": {"megatron_args": {"swiglu": True}}}
    # 4 * 512 * 2 / 3 = 1365 -> 1344, a multiple of 64: 3 * 1344 against 2 * 2048 columns of 512, and biases.
    difference = 12 * (512 * (3 * 1344 - 2 * 2048) + (2 * 1344 - 2048))
    assert count(tree_of_row(swiglu)).total - count(tree_of_row(ROW)).total == difference


@pytest.mark.parametrize(
    ("moe", "expected"),
    [
        ({}, [False] * 4),
        ({"experts": 8}, [True] * 4),
        ({"experts": 8, "dense_layers": 1}, [False, True, True, True]),
        ({"experts": 8, "layer_freq": "([0]*1+[1]*3)"}, [False, True, True, True]),
        ({"experts": 8, "layer_freq": 2}, [True, False, True, False]),
    ],
)
def test_which_layers_have_experts(moe: dict[str, Any], expected: list[bool]) -> None:
    assert expert_layers(moe, 4) == expected


def test_experts_that_would_not_fit_are_not_divided() -> None:
    moe = {"experts": 8, "topk": 2, "moe_ffn": 512}
    row = {**ROW, "model": {**SMALL, "moe": moe}, "parallel": {"tp": 2, "sp": True, "dp": 4, "ep": 8}}
    assert megatron.read(row).job.parallelism.expert_tp == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"micro_batch_per_gpu": None}, "micro_batch_per_gpu"),
        ({"seq_len": None}, "seq_len"),
        ({"gpus": None, "parallel": {"tp": 1, "zero": 1}}, "number of accelerators"),
        ({"parallel": {"dp": 8, "zero": 3}}, "Megatron-FSDP"),
        ({"model": {**SMALL, "family": "mimo"}}, "vision tower"),
        ({"model": {**SMALL, "layers": None}}, "'layers' is None"),
    ],
)
def test_what_cannot_be_predicted_is_skipped_with_a_reason(change: dict[str, Any], reason: str) -> None:
    (item, *_) = judge({**ROW, **change})
    assert item.predicted is None
    assert reason in item.skipped


def _errors() -> dict[tuple[str, str, str], list[float]]:
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in shipped_rows():
        if row["id"].startswith(("megatron-golden", "simumax", "nanotron", "bridge")) and row["quality"] in "AB":
            for item in judge(row):
                if item.error is not None:
                    found[row["id"].rsplit("-", 1)[0], item.quality, item.quantity].append(abs(item.error))
    return found


def test_shipped_measurements_come_close() -> None:
    errors = _errors()
    bounds = {
        ("megatron-golden", "A", "steady_bytes"): (0.005, 0.03),
        ("megatron-golden", "A", "peak_bytes"): (0.005, 0.08),
        ("megatron-golden", "B", "peak_bytes"): (0.03, 0.15),
        ("simumax-b200", "A", "peak_bytes"): (0.005, 0.01),
        ("nanotron-bench", "A", "steady_bytes"): (0.002, 0.005),
        ("nanotron-bench", "A", "peak_bytes"): (0.003, 0.005),
        ("bridge-skills", "B", "peak_bytes"): (0.08, 0.10),
    }
    for group, (median, high) in bounds.items():
        assert quantile(errors[group], 0.5) <= median, group
        assert quantile(errors[group], 0.9) <= high, group


def test_simumax_stages_are_each_as_measured() -> None:
    from planner.training import training_memory_of

    row = next(row for row in shipped_rows() if row["id"] == "simumax-b200-001")
    reading = read(row)
    first, last = training_memory_of(reading.tree, reading.job).stages
    assert float(first.peak_bytes) / 2**20 == pytest.approx(row["extra"]["first_stage_peak_mib"], rel=0.01)
    assert float(last.peak_bytes) / 2**20 == pytest.approx(row["extra"]["last_stage_peak_mib"], rel=0.01)
