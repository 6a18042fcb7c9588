"""`planner validate`: every row of a file is accounted for, in the form that programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import ScenarioError

MODEL = {
    "name": "small",
    "layers": 4,
    "hidden": 256,
    "heads": 8,
    "kv_heads": 4,
    "ffn": 704,
    "vocab": 1024,
    "gated_mlp": True,
}
STEP: dict[str, Any] = {
    "recipe": "huggingface",
    "model": MODEL,
    "gpus": 1,
    "quality": "A",
    "precision": "bf16",
    "optimizer": "adamw",
    "seq_len": 512,
    "micro_batch_per_gpu": 4,
    "act_ckpt": "none",
    "finetune": {"method": "full"},
}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def validate(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["validate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_form_for_programs(tmp_path: Path) -> None:
    measured = 10**8
    path = write(
        tmp_path,
        {"id": "both", **STEP, "act_ckpt": "full", "peak_bytes": measured, "steady_bytes": 5 * 10**7},
        {"id": "nothing measured", **STEP},
        {"id": "no layers", **STEP, "model": {**MODEL, "layers": None}, "peak_bytes": measured},
    )
    found = json.loads(validate(path, "--format", "json"))
    assert set(found) == {"rows", "summary"}
    assert [(row["id"], row["quantity"]) for row in found["rows"]] == [
        ("both", "peak_bytes"),
        ("both", "steady_bytes"),
        ("nothing measured", "peak_bytes"),
        ("no layers", "peak_bytes"),
    ]
    peak, _, unmeasured, unknown = found["rows"]
    assert {"id", "quantity", "measured", "predicted", "low", "high", "error_percent"} <= set(peak)
    assert peak["error_percent"] == pytest.approx(100 * (peak["predicted"] / measured - 1))
    assert peak["low"] <= peak["predicted"] <= peak["high"]
    assert {"id", "quantity", "measured", "skipped"} <= set(unmeasured)
    assert "predicted" not in unmeasured
    assert (unmeasured["measured"], unknown["measured"]) == (None, measured)
    assert "layers is not stated" in unknown["skipped"]
    assert sum(group["rows"] for group in found["summary"]) == 4
    assert sum(group["skipped"] for group in found["summary"]) == 2


def test_the_text_says_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": "one", **STEP, "peak_bytes": 10**8}, {"id": "two", "peak_bytes": "12 GB"})
    text = validate(path)
    for words in ("measured and predicted", "one", "two", "errors by recipe", "huggingface"):
        assert words in text
    assert "peak_bytes is '12 GB'" in " ".join(text.split())


def test_characters_that_end_lines_elsewhere_and_a_byte_order_mark_are_no_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = json.dumps({"id": "a", **STEP, "peak_bytes": 1, "notes": "one\u2028two\x85"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\r\n".encode())
    assert len(json.loads(validate(str(path), "--format", "json"))["rows"]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"id": "a"}\n{"id"', "rows.jsonl:2: is no JSON"), ("[]", "rows.jsonl:1: expected an object, got list")],
)
def test_a_line_that_is_no_row_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=message):
        CliRunner().invoke(app, ["validate", str(path)], catch_exceptions=False)
