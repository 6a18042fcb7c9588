"""Weight files as arguments of `planner params` and `planner memory`."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from planner.cli.app import app
from planner.errors import CheckpointError, PlannerError

TinyConfig = Callable[..., dict[str, Any]]

HIDDEN, INNER, VOCABULARY, LAYERS = 48, 80, 99, 3
# table and head, and a layer of 4 attention matrices (6 and 2 heads of 10), 3 of an MLP and 2 norms; the last norm
ATTENTION = LAYERS * (2 * 60 * HIDDEN + 2 * 20 * HIDDEN)
MLP = LAYERS * 3 * INNER * HIDDEN
NORMS = (2 * LAYERS + 1) * HIDDEN
TABLE = VOCABULARY * HIDDEN
TOTAL = 2 * TABLE + ATTENTION + MLP + NORMS


def _invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, tiny_config: TinyConfig) -> Path:
    """A tiny Llama in F16, with a buffer that older files keep."""
    held = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        block = f"model.layers.{layer}."
        held |= {
            f"{block}self_attn.q_proj.weight": (60, HIDDEN),
            f"{block}self_attn.k_proj.weight": (20, HIDDEN),
            f"{block}self_attn.v_proj.weight": (20, HIDDEN),
            f"{block}self_attn.o_proj.weight": (HIDDEN, 60),
            f"{block}mlp.gate_proj.weight": (INNER, HIDDEN),
            f"{block}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{block}mlp.down_proj.weight": (HIDDEN, INNER),
            f"{block}input_layernorm.weight": (HIDDEN,),
            f"{block}post_attention_layernorm.weight": (HIDDEN,),
            f"{block}self_attn.rotary_emb.inv_freq": (5,),
        }
    (tmp_path / "model").mkdir()
    save_file({name: np.zeros(shape, np.float16) for name, shape in held.items()}, tmp_path / "model/model.safetensors")
    config = tiny_config("llama") | {"architectures": ["LlamaForCausalLM"]}
    (tmp_path / "model/config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path / "model"


def test_a_folder_with_weights_is_shown_as_stored(folder: Path) -> None:
    text = _invoke("params", str(folder)).stdout
    assert f"{TOTAL:,} parameters" in text
    assert "as stored" in text
    assert "rotary_frequencies" in text


def test_json_has_rows_that_sum_to_the_files(folder: Path) -> None:
    (record,) = json.loads(_invoke("params", str(folder), "--format", "json").stdout)
    assert record["total"] == TOTAL
    stored = record["stored"]
    rows = {row["component"]: row for row in stored["rows"]}
    assert sum(row["size_bytes"] for row in stored["rows"]) == (folder / "model.safetensors").stat().st_size
    assert {name: row["parameters"] for name, row in rows.items() if row["parameters"]} == record["breakdown"]
    assert rows["mlp"]["bytes_by_dtype"] == {"F16": 2 * MLP}
    # 3 layers of 5 frequencies
    assert (rows["rotary_frequencies"]["stored"], rows["rotary_frequencies"]["parameters"]) == (15, None)
    assert stored["missing"] == []


def test_csv_has_the_totals_unless_files_are_asked_for(folder: Path) -> None:
    (row,) = csv.DictReader(io.StringIO(_invoke("params", str(folder), "--format", "csv").stdout))
    assert row["total"] == str(TOTAL)
    asked = _invoke("params", str(folder), "--from-files", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(asked)))
    assert sum(int(row["size_bytes"]) for row in rows) == (folder / "model.safetensors").stat().st_size
    assert {row["dtype"] for row in rows} == {"F16", ""}


def test_headers_alone_are_shown_where_there_is_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    for path in (folder, folder / "model.safetensors"):
        (record,) = json.loads(_invoke("params", str(path), "--format", "json").stdout)
        assert record["stored"]["elements"] == TOTAL + 15
        assert record["stored"]["bytes_by_dtype"] == {"F16": 2 * (TOTAL + 15)}
        assert "values" in _invoke("params", str(path)).stdout
        assert "values" in _invoke("params", str(path), "--format", "markdown").stdout
    with pytest.raises(PlannerError, match="--set: means nothing for .* no config.json"):
        _invoke("params", str(folder), "--set", "num_hidden_layers=1")


def test_memory_takes_the_weights_as_stored_unless_a_format_is_named(folder: Path) -> None:
    record = json.loads(_invoke("memory", str(folder), "--format", "json").stdout)
    assert record["use"] == "weights as stored in safetensors"
    assert record["total_bytes"] == 2 * TOTAL
    named = json.loads(_invoke("memory", str(folder), "--weights", "fp32", "--format", "json").stdout)
    assert named["total_bytes"] == 4 * TOTAL


def test_memory_of_a_file_without_a_config(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((6, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    rows = json.loads(_invoke("memory", str(path), "--format", "json").stdout)
    assert [(row["memory"], row["bytes"]) for row in rows] == [("weights", 768), ("total", 768)]
    assert "general.architecture: llama" in _invoke("memory", str(path)).stdout


def test_a_config_beside_several_checkpoints_is_counted_with_a_warning(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "two.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    result = _invoke("params", str(folder), "--format", "json")
    assert json.loads(result.stdout)[0]["total"] == TOTAL
    assert "holds 2 checkpoints" in result.stderr


def test_broken_weights_are_an_error_even_beside_a_config(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut off"):
        _invoke("params", str(folder))


def test_a_name_is_read_from_the_cache_where_files_are_asked_for(folder: Path, tmp_path: Path) -> None:
    """In a process of its own, as the place of the cache and of the hub are read once."""
    cache = tmp_path / "home" / "hub" / "models--some--model"
    (cache / "snapshots").mkdir(parents=True)
    folder.rename(cache / "snapshots" / "abc")
    variables = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    variables.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "planner", "params", "some/model", "--from-files", "--format", "json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)  # noqa: S603
    assert json.loads(run.stdout)[0]["stored"]["elements"] == TOTAL + 15
