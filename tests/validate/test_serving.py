"""Start-ups of engines: what the shipped rows say against what follows from their flags."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from planner.validate.intervals import quantile
from planner.validate.result import Judged
from planner.validate.serving import QUANTITIES, judge

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in files("planner.catalog").joinpath("measured/inference.jsonl").read_text(encoding="utf-8").splitlines()
]

BY_ID = {row["id"]: row for row in ROWS}

BASE: dict[str, Any] = {
    "id": "one",
    "engine": "vllm",
    "engine_version": "0.19.0",
    "model": "meta-llama/Llama-3.1-8B",
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpu_total_gib": 79.19,
    "gpu_memory_utilization": 0.95,
    "max_model_len": 8192,
    "max_num_seqs": 1024,
    "max_num_batched_tokens": 8192,
    "weight_dtype": "bf16",
    "weights_gib_per_gpu": 14.99,
    "kv_cache_gib_per_gpu": 58.11,
    "quality": "A",
}


@pytest.fixture(scope="module")
def judged() -> list[tuple[dict[str, Any], Judged]]:
    return [(row, item) for row in ROWS for item in judge(row)]


def _errors(judged: list[tuple[dict[str, Any], Judged]], quantity: str, keep: Any) -> list[float]:
    return [
        abs(item.error) for row, item in judged if item.quantity == quantity and item.error is not None and keep(row)
    ]


def _is_plain(row: dict[str, Any]) -> bool:
    """Dense or routed text models whose weights are not quantised, without latents or towers."""
    special = ("deepseek", "kimi-k", "gemma-3", "llama-4", "vision", "-vl", "gemma-4", "mistral-small", "qwen3-next")
    return not row.get("quantization") and not any(word in row["model"].lower() for word in special)


def _states_flags(row: dict[str, Any]) -> bool:
    return row["engine"] == "vllm" and all(
        row.get(name) is not None for name in ("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization")
    )


def test_weights_of_plain_text_models(judged: list[tuple[dict[str, Any], Judged]]) -> None:
    errors = _errors(judged, "weights_gib_per_gpu", _is_plain)
    assert len(errors) >= 35
    assert quantile(errors, 0.5) < 0.0005
    assert quantile(errors, 0.9) < 0.01


def test_weights_of_the_others(judged: list[tuple[dict[str, Any], Judged]]) -> None:
    errors = _errors(judged, "weights_gib_per_gpu", lambda row: not _is_plain(row))
    assert len(errors) >= 25
    assert quantile(errors, 0.9) < 0.02


def test_pools_of_rows_that_state_their_flags(judged: list[tuple[dict[str, Any], Judged]]) -> None:
    apart = [
        abs(item.predicted - item.measured)
        for row, item in judged
        if item.quantity == "kv_cache_gib_per_gpu" and _states_flags(row) and item.predicted and item.measured
    ]
    assert len(apart) >= 50
    assert quantile(apart, 0.5) < 0.1
    assert quantile(_errors(judged, "kv_cache_gib_per_gpu", _states_flags), 0.9) < 0.01


def test_most_rows_are_predicted_and_the_rest_say_why_not(judged: list[tuple[dict[str, Any], Judged]]) -> None:
    predicted = {row["id"] for row, item in judged if item.predicted is not None}
    assert len(predicted) >= 0.85 * len(ROWS)
    assert all(item.skipped for _, item in judged if item.predicted is None)
    assert {item.quantity for _, item in judged} == set(QUANTITIES)


@pytest.mark.parametrize("name", ["mem073", "mem141"])
def test_an_engine_that_did_not_start_is_predicted_not_to(name: str) -> None:
    (pool,) = [item for item in judge(BY_ID[name]) if item.quantity == "kv_cache_gib_per_gpu"]
    assert pool.measured is not None
    assert pool.predicted is not None
    assert pool.measured < 0
    assert pool.predicted < 0


def test_a_request_that_was_too_long_is_predicted_to_be() -> None:
    row = BY_ID["mem124"]
    (tokens,) = [item for item in judge(row) if item.quantity == "kv_tokens"]
    assert tokens.predicted is not None
    assert row["kv_tokens"] < row["max_model_len"]
    assert tokens.predicted < row["max_model_len"]


def test_bytes_of_a_token_are_those_of_the_log(judged: list[tuple[dict[str, Any], Judged]]) -> None:
    predictions: dict[str, dict[str, float]] = {}
    for row, item in judged:
        if item.predicted is not None:
            predictions.setdefault(row["id"], {})[item.quantity] = item.predicted
    checked = 0
    for row in ROWS:
        pool, tokens = row.get("kv_cache_gib_per_gpu"), row.get("kv_tokens")
        found = predictions.get(row["id"], {})
        if not pool or not tokens or pool < 0 or "kv_tokens" not in found or (row.get("pipeline_parallel") or 1) > 1:
            continue
        if row["id"] == "mem088":
            continue  # the pool is one rank's, and the tokens are the least of four
        checked += 1
        printed = 0.006 / pool + 32 / tokens + 0.0011
        assert found["kv_cache_gib_per_gpu"] / found["kv_tokens"] == pytest.approx(pool / tokens, rel=printed), row[
            "id"
        ]
    assert checked >= 45


def test_memory_that_is_not_known_leaves_the_weights() -> None:
    weights, pool = judge({**BASE, "gpu": "abacus", "gpu_total_gib": None})
    assert weights.error is not None
    assert abs(weights.error) < 0.001
    assert pool.skipped == "the memory of 'abacus' is not known"


def test_a_stated_checkpoint_is_shared_evenly() -> None:
    # 305.79 / 8 = 38.22 of 38.24 GiB that vLLM logged
    found = {item.quantity: item for item in judge(BY_ID["mem116"])}
    assert found["weights_gib_per_gpu"].predicted == 305.79 / 8
    assert found["kv_tokens"].skipped.startswith("no config")


def test_what_was_measured_predicts_nothing() -> None:
    first = {item.quantity: item.predicted for item in judge(BASE)}
    other = {**BASE, "weights_gib_per_gpu": 1.0, "kv_cache_gib_per_gpu": 2.0}
    assert {item.quantity: item.predicted for item in judge(other)} == first


def test_a_config_of_the_folder_comes_first(tmp_path: Path) -> None:
    from planner.catalog.models import find_catalog_model

    entry = find_catalog_model("Qwen/Qwen3-0.6B")
    assert entry is not None
    (tmp_path / "some--model.json").write_text(json.dumps(dict(entry.config)), encoding="utf-8")
    row = {**BASE, "config": "some--model.json"}
    (weights, _) = judge(row, tmp_path)
    assert weights.predicted is not None
    assert weights.predicted < 2
    (without, _) = judge(row)
    assert without.predicted == pytest.approx(14.99, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "nobody/knows", "config": None}, "no config: the row names none, and the catalog does not know"),
        ({"engine": "wonder"}, "unknown engine 'wonder'"),
        ({"quantization": "wonderful"}, "unknown quantization 'wonderful'"),
        (
            {"quantization": "nvfp4", "model": "google/gemma-4-31B-it"},
            "which layers are in nvfp4 is in the checkpoint's config",
        ),
        ({"tensor_parallel": 3}, "32 attention heads cannot be divided over 3 ranks"),
        ({"pipeline_parallel": 1000}, "pipeline_parallel is 1000"),
        ({"gpu_memory_utilization": 95}, "must be above 0 and at most 1"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(changes: dict[str, Any], reason: str) -> None:
    for item in judge({**BASE, **changes}):
        assert item.predicted is None
        assert reason in item.skipped


@pytest.mark.parametrize("field", [name for name in BASE if name != "id"])
@pytest.mark.parametrize("value", [None, "", "?", -1, 0, 1e300, float("nan"), [], {}, True, [1], {"a": 1}])
def test_no_field_makes_a_row_raise(field: str, value: Any) -> None:
    for item in judge({**BASE, field: value}):
        assert item.predicted is not None or item.skipped


@pytest.mark.parametrize("version", ["2026", "0.7.x/0.8.x", "main 2025-01-16 (~0.6.6)", "PR #18263", None, ""])
def test_odd_versions_are_predicted(version: str | None) -> None:
    assert all(item.predicted is not None for item in judge({**BASE, "engine_version": version}))


def test_a_row_without_a_measurement_is_said_to_have_none() -> None:
    row = {name: value for name, value in BASE.items() if not name.endswith(("gib_per_gpu",))}
    (item,) = judge(row)
    assert item.skipped == "nothing was measured"


def test_pools_of_sglang_follow_from_its_own_share() -> None:
    (weights, pool, tokens) = judge(BY_ID["mem135"])
    for item in (weights, pool, tokens):
        assert item.error is not None
        assert abs(item.error) < 0.02


def test_devices_of_llama_cpp() -> None:
    # Mixtral-8x7B on two cards: 17 of 33 layers on the first one, the output matrix being a layer
    for item in judge(BY_ID["mem104"]):
        assert item.error is not None
        assert abs(item.error) < 0.02
