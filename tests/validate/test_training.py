"""Measured rows are untrusted: each is judged or skipped for a reason, and none of them disturbs another."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.validate.result import Judged
from planner.validate.run import judge_rows, summary
from planner.validate.training import judge

LLAMA = {
    "name": "small", "layers": 4, "hidden": 256, "heads": 8, "kv_heads": 4, "ffn": 704, "vocab": 1024,
    "gated_mlp": True, "norm": "rmsnorm", "tied_embeddings": False, "bias": False,
}  # fmt: skip
BASE: dict[str, Any] = {
    "id": "base", "model": LLAMA, "gpus": 1, "gpu_kind": "A100-80GB", "quality": "A", "kind": "measured",
    "precision": "bf16", "optimizer": "AdamW", "seq_len": 512, "micro_batch_per_gpu": 4, "act_ckpt": "none",
    "attention": None, "loss_impl": None, "finetune": {"method": "full", "rank": None, "targets": None, "quant": None},
    "parallel": {"tp": 1, "pp": 1, "dp": 1, "zero": 0}, "peak_mem": {"metric": "max_memory_allocated"},
    "peak_bytes": 123456789, "steady_bytes": 45678912,
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {**BASE, "id": "hf", "recipe": "huggingface"},
    {**BASE, "id": "lora", "recipe": "trl-lora", "finetune": {"method": "lora", "rank": 8, "targets": "q_proj,v_proj"}},
    {
        **BASE,
        "id": "megatron",
        "recipe": "megatron",
        "parallel": {"tp": 2, "sp": True, "pp": 2, "dp": 1},
        "gpus": 4,
        "grad_accum": 4,
    },
    {**BASE, "id": "nanotron", "recipe": "nanotron", "parallel": {"tp": 2, "pp": 1, "dp": 2, "zero": 1}, "gpus": 4},
    {
        **BASE,
        "id": "titan",
        "recipe": "torchtitan",
        "parallel": {"tp": 1, "dp": 8, "zero": 3, "fsdp": "FSDP2"},
        "gpus": 8,
        "act_ckpt": "per-op",
    },
    {**BASE, "id": "litgpt", "recipe": "litgpt"},
]


def outcome(found: list[Judged]) -> dict[str, tuple[float | None, str]]:
    return {item.quantity: (item.predicted, item.skipped) for item in found}


def test_every_row_of_the_base_is_predicted() -> None:
    for row in ROWS:
        found = judge(row)
        assert [item.quantity for item in found] == ["peak_bytes", "steady_bytes"]
        assert all(item.predicted and item.predicted > 0 for item in found), found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peak_bytes": None, "steady_bytes": None}, "nothing was measured"),
        ({"peak_bytes": "12 GB", "steady_bytes": None}, "peak_bytes is '12 GB', expected a number of bytes"),
        ({"kind": "claim"}, "its kind is 'claim', which is no measurement"),
        ({"recipe": None}, "no recipe: the row states none"),
        ({"recipe": "hugingface"}, "no framework reads the recipe 'hugingface'"),
        ({"model": None}, ""),
        ({"model": {"name": "x" * 5000}}, "catalog does not know its name"),
        ({"model": {**LLAMA, "layers": "many"}}, "model.layers is 'many'"),
        ({"model": {**LLAMA, "heads": 0}}, "model.heads is 0"),
        ({"optimizer": "a new one"}, ""),
        ({"parallel": {"tp": 3}}, ""),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(changes: dict[str, Any], reason: str) -> None:
    found = judge({**ROWS[0], **changes})
    assert found
    assert all(item.predicted is None and item.skipped and reason in item.skipped for item in found)
    assert {item.id for item in found} == {"hf"}


def test_one_wrong_quantity_leaves_the_other() -> None:
    found = {item.quantity: item for item in judge({**ROWS[0], "steady_bytes": "much"})}
    assert found["peak_bytes"].predicted
    assert found["steady_bytes"].skipped.startswith("steady_bytes is 'much'")


def test_what_a_run_measured_is_never_read() -> None:
    for row in ROWS:
        other = {
            **row,
            "peak_bytes": 1,
            "steady_bytes": 2,
            "reserved_bytes": 3,
            "step_time": 4,
            "unknown": {"deep": []},
        }
        assert outcome(judge(other)) == outcome(judge(row))


def test_a_null_engine_does_not_make_a_start_up_of_a_step() -> None:
    (peak, _) = judge_rows([{**ROWS[0], "engine": None}])
    assert peak.predicted


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**9, 10**30, 2**53 + 1]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["bf16", "full", "lora", "8x7B", "x" * 400]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, Mapping):
        return []
    inner = [(*path, key) for key in value if key != "id"]
    return [*inner, *(place for at in inner for place in places(value[at[-1]], at))]


@settings(max_examples=150, deadline=None)
@given(row=st.sampled_from(ROWS), data=st.data())
def test_no_row_stops_the_others(row: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(row)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(changed)))
        holder = changed
        for key in path:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = data.draw(WRONG)
        else:
            del holder[last]
        changed["extra key"] = data.draw(WRONG)
    changed["id"] = "changed"
    found = judge_rows([ROWS[0], changed, ROWS[-1]])
    assert [item.id for item in found if item.id != "changed"] == ["hf", "hf", "litgpt", "litgpt"]
    assert outcome(found[:2]) == outcome(judge(ROWS[0]))
    assert any(item.id == "changed" for item in found)
    for item in found:
        assert (item.predicted is None) == bool(item.skipped)
        json.dumps([item.measured, item.predicted, item.low, item.high], allow_nan=False)
    assert sum(group.rows for group in summary(found)) == len(found)
