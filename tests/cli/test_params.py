import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["params", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_is_a_list_with_one_object_a_model() -> None:
    records = json.loads(_run("bert-base-uncased", "meta-llama/Llama-3.1-8B", "--format", "json"))
    assert [record["total"] for record in records] == [109_514_298, 8_030_261_248]
    for record in records:
        assert list(record) == [
            "model",
            "class",
            "method",
            "total",
            "active",
            "active_excl_input_embedding",
            "total_with_untied_head",
            "breakdown",
            "assumptions",
        ]
        assert sum(record["breakdown"].values()) == record["total"]
        assert record["method"] == "builder"


def test_csv_has_a_row_a_model_and_a_column_a_component() -> None:
    rows = list(csv.DictReader(io.StringIO(_run("bert-base-uncased", "gpt2", "--format", "csv"))))
    assert [row["total"] for row in rows] == ["109514298", "124439808"]
    assert [row["breakdown.embeddings.type"] for row in rows] == ["1536", "0"]


def test_text_shows_components_shares_and_origin() -> None:
    text = _run("mistralai/Mixtral-8x7B-v0.1")
    assert "46,702,792,704 parameters" in text
    assert "active a token: 12,879,925,248" in text
    assert "experts.routed" in text


def test_another_class() -> None:
    (record,) = json.loads(_run("bert-base-uncased", "--class", "BertForPreTraining", "--format", "json"))
    assert (record["class"], record["total"]) == ("BertForPreTraining", 110_106_428)


def test_overrides() -> None:
    (record,) = json.loads(_run("bert-base-uncased", "--set", "num_hidden_layers=6", "--format", "json"))
    assert record["total"] == 109_514_298 - 6 * 7_087_872


def test_a_folder_of_configs(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    (tmp_path / "org--tiny.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "vocab_size": 10}))
    (record,) = json.loads(_run("org/tiny", "--models", str(tmp_path), "--format", "json"))
    # two tables of 10 * 8, four projections of 8 * 8, three of the MLP, three norms
    assert record["total"] == 160 + 256 + 192 + 24


def test_the_derivation_of_bert_has_the_article_beside_it() -> None:
    text = _run("bert-base-uncased", "--explain")
    assert "bert.encoder.layer.*.attention.self.query.weight" in text
    assert "4*hidden_size**2 + 2*hidden_size*intermediate_size + 9*hidden_size + intermediate_size" in text
    assert "L (3 H^2 / A)" in text
    assert "-26,578,944" in text


def test_the_derivation_as_json() -> None:
    (record,) = json.loads(_run("bert-base-uncased", "--explain", "--format", "json"))
    modules = record["derivation"]["modules"]
    assert sum(module["parameters"] for module in modules) == record["total"]
    assert record["popular_article"][-1]["error"] == -27_235_584
    (other,) = json.loads(_run("gpt2", "--explain", "--format", "json"))
    assert "popular_article" not in other


def test_an_unread_key_is_said_on_stderr(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "num_experts": 8}))
    result = CliRunner().invoke(app, ["params", str(config)])
    assert f"warning: {config}: num_experts = 8: not read by this family" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bert-base-uncased", "--format", "yaml"], "unknown format 'yaml'"),
        (["bert-base-uncased", "--set", "vocab_size"], "expected --set key=value"),
        (["bert-base-uncased", "--set", "vocab_size=-3"], "vocab_size: expected a positive number"),
        (["gpt3", "--offline"], "unknown model 'gpt3'"),
        (["bert-base-uncased", "--class", "BertFor"], "unknown class 'BertFor'"),
    ],
)
def test_bad_input_is_one_error(arguments: list[str], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        CliRunner().invoke(app, ["params", *arguments], catch_exceptions=False)
