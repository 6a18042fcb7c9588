"""Start-ups of engines: what the shipped rows say against what follows from their flags."""

from __future__ import annotations

import json
import math
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from planner.validate.intervals import quantile
from planner.validate.result import Judged
from planner.validate.serving import QUANTITIES, judge, origin_of

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
        ({"pipeline_parallel": 1000}, "32 layers cannot be divided over 1000 stages"),
        ({"pipeline_parallel": 10**6}, "pipeline_parallel is 1000000, which is no number of ranks"),
        ({"tensor_parallel": "two"}, "tensor_parallel is 'two', which is no number of ranks"),
        ({"max_num_seqs": "1024"}, "max_num_seqs is '1024', expected a number"),
        ({"weight_dtype": "int3"}, "unknown quantization 'int3'"),
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


@pytest.mark.parametrize(
    ("model", "origin"),
    [
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "meta-llama/Llama-3.3-70B-Instruct"),
        ("unsloth/meta-llama-3.1-8b-instruct-bnb-4bit", "meta-llama/Llama-3.1-8B"),
        ("RedHatAI/phi-4-quantized.w8a8", "microsoft/phi-4"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "Qwen/Qwen3-30B-A3B"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", None),
        ("moonshotai/Kimi-Dev-72B", None),
        ("zai-org/glm-4-9b-chat", None),  # two models of the catalog are called so, and differ
    ],
)
def test_a_quantised_copy_has_the_shape_of_its_origin(model: str, origin: str | None) -> None:
    assert origin_of(model) == origin


def test_what_needs_no_model_is_predicted_without_one() -> None:
    row = {**BASE, "model": "nobody/knows", "config": None, "tensor_parallel": 2, "non_torch_gib": 2.07}
    found = {item.quantity: item for item in judge(row)}
    assert found["non_torch_gib"].error == 0
    assert found["weights_gib_per_gpu"].skipped.startswith("no config")


def test_a_cache_format_that_is_not_known_leaves_all_but_the_tokens() -> None:
    found = {item.quantity: item for item in judge({**BASE, "kv_dtype": "fp3", "kv_tokens": 10})}
    assert found["kv_tokens"].skipped.startswith("kv_cache_dtype: unknown cache format 'fp3'")
    assert found["kv_cache_gib_per_gpu"].predicted == pytest.approx(58.11, abs=0.05)


@pytest.mark.parametrize("words", ["auto(16-bit)", "auto", "16-bit", "bf16", "bfloat16", None])
def test_words_for_a_cache_of_two_bytes(words: str | None) -> None:
    (tokens,) = [
        item for item in judge({**BASE, "kv_dtype": words, "kv_tokens": 476016}) if item.quantity == "kv_tokens"
    ]
    assert tokens.error == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("words", ["fp8", "FP8", "fp8_e4m3", "fp8 (e4m3)", "fp8_e5m2"])
def test_words_for_a_cache_of_one_byte(words: str) -> None:
    (tokens,) = [
        item for item in judge({**BASE, "kv_dtype": words, "kv_tokens": 952032}) if item.quantity == "kv_tokens"
    ]
    assert tokens.error == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize(
    "gpu", ["NVIDIA H100 80GB HBM3", "H100", "h100-sxm5-80gb", "NVIDIA H100 80GB (SageMaker)", "H100 SXM5 80GB"]
)
def test_a_device_may_be_spelled_in_any_way(gpu: str) -> None:
    (_, pool) = judge({**BASE, "gpu": gpu, "gpu_total_gib": None})
    assert pool.error == pytest.approx(0, abs=0.001)


def test_the_size_that_a_card_is_sold_with_stands_for_one_that_is_not_known() -> None:
    (_, pool) = judge({**BASE, "gpu": "NVIDIA Unheard 96GB", "gpu_total_gib": None})
    # 96 * 0.985 * 0.95 GiB less 14.99 + 1.89 + 0.25, which vLLM logged
    assert pool.predicted == pytest.approx(96 * 0.985 * 0.95 - 17.13, abs=0.05)


def test_what_is_stored_may_stand_in_the_place_of_the_dtype() -> None:
    # vLLM logged 8.49 GiB for Llama-3.1-8B in FP8
    (weights, _) = judge({**BASE, "weight_dtype": "fp8", "weights_gib_per_gpu": 8.49})
    assert weights.error == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("name", ["../one.json", "/etc/passwd", "x" * 5000, "\0", ".", ""])
def test_a_row_reads_no_file_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "one.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    inside = tmp_path / "configs"
    inside.mkdir()
    for row in ({**BASE, "config": name}, {**BASE, "config": None, "model": name}):
        found = judge(row, inside)
        assert len(found) == 2
        for item in found:
            assert item.predicted == pytest.approx(item.measured, abs=0.05) if "no config" not in item.skipped else True


def test_every_shipped_row_is_accounted_for(judged: list[tuple[dict[str, Any], Judged]]) -> None:
    stated = sum(isinstance(row.get(name), (int, float)) for row in ROWS for name in QUANTITIES)
    assert len(judged) == stated
    predicted = {row["id"] for row, item in judged if item.predicted is not None}
    assert len(predicted) >= 0.85 * len(ROWS)


def test_rows_that_are_wrong_leave_the_others_as_they_are() -> None:
    draw = random.Random(5)  # noqa: S311 - the same rows each time
    values: list[Any]
    values = [None, "", "?", -1, 0, 3, 0.5, 1e300, float("nan"), "8", [], {}, True, 2**70, "2026", "fp8_e4m3", "H100"]
    for row in ROWS:
        for _ in range(4):
            changed = dict(row)
            for field in draw.sample([name for name in row if name != "id"], 2):
                changed[field] = draw.choice(values)
            found = judge(changed)
            assert {item.id for item in found} == {row["id"]}
            for item in found:
                assert item.skipped or (item.predicted is not None and math.isfinite(item.predicted))


def test_figures_are_of_the_stage_that_the_notes_name() -> None:
    split = {**BASE, "pipeline_parallel": 4, "weights_gib_per_gpu": 3.28, "kv_cache_gib_per_gpu": 69.8}

    def predicted(notes: str | None) -> tuple[float | None, ...]:
        return tuple(round(item.predicted or 0, 1) for item in judge({**split, "notes": notes}))

    # the table and the head are on the first and the last of four stages: 4.26 and 3.28 GiB, and vLLM's log of the
    # first stage says 69.80 GiB for the pool
    assert predicted(None) == (3.3, 69.8)
    assert predicted("PP stage 0; the least was used") == (4.3, 69.8)
    assert predicted("rank PP1_TP0") == (3.3, 70.8)
    assert predicted("PP4: 3.28 is the reported rank") == (3.3, 70.8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"engine_version": "0.9.2 with a connector of caches"}, "a connector of caches holds buffers"),
        ({"notes": "TP2 across two nodes (Ray)"}, "NCCL holds more between nodes"),
    ],
)
def test_what_lies_outside_of_the_engine_leaves_the_weights(changes: dict[str, Any], reason: str) -> None:
    weights, pool = judge({**BASE, **changes})
    assert weights.error == pytest.approx(0, abs=0.001)
    assert reason in pool.skipped
