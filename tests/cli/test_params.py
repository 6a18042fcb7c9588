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


def test_a_published_total_is_explained_term_by_term() -> None:
    # 671,026,404,352 + 13,463,426,048 of the module and its tables + 59 * 256 biases
    text = _run("deepseek-ai/DeepSeek-R1", "--checkpoint")
    assert [line.split()[:2] for line in text.split("what a checkpoint of")[1].splitlines()[4:10]] == [
        ["DeepseekV3ForCausalLM", "671,026,404,352"],
        ["mtp", "11,610,067,968"],
        ["mtp_tables", "1,853,358,080"],
        ["router_biases", "15,104"],
        ["sum", "684,489,845,504"],
        ["published", "684,489,845,504"],
    ]
    assert "HF hub safetensors total of deepseek-ai/DeepSeek-R1" in text
    assert "not explained" not in text
    assert "3,416" in _run("moonshotai/Kimi-K2-Instruct", "--checkpoint").split("not explained")[1]


def test_what_a_total_leaves_out_is_a_note() -> None:
    assert "not in this total, but a checkpoint may hold it: causal_masks, 12,582,912" in _run("gpt2", "--checkpoint")


def test_what_a_checkpoint_may_hold_where_no_total_is_known(tmp_path: Path) -> None:
    config = {"model_type": "glm4_moe", "head_dim": 128, "num_nextn_predict_layers": 1, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    text = _run(str(tmp_path), "--checkpoint")
    assert "no published total of this config is known" in text
    for term in ("tied_head_twice", "mtp", "mtp_tables", "router_biases"):
        assert f"may hold: {term} " in text


def test_a_checkpoint_as_json_leaves_the_total_of_the_class_alone() -> None:
    (plain,) = json.loads(_run("zai-org/GLM-4.6", "--format", "json"))
    (record,) = json.loads(_run("zai-org/GLM-4.6", "--checkpoint", "--format", "json"))
    checkpoint = record.pop("checkpoint")
    assert record == plain
    assert checkpoint["total"] == record["total"]
    assert [term["term"] for term in checkpoint["terms"]] == ["mtp", "router_biases"]
    assert checkpoint["total"] + sum(term["parameters"] for term in checkpoint["terms"]) == checkpoint["sum"]
    assert (checkpoint["published_total"], checkpoint["unexplained"]) == (checkpoint["sum"], 0)
    assert [term["term"] for term in checkpoint["may_also_hold"]] == ["mtp_tables"]


def test_a_checkpoint_as_csv_has_a_row_a_term() -> None:
    text = _run("bert-base-uncased", "tiiuae/falcon-40b", "--checkpoint", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["model"], row["term"], row["parameters"]) for row in rows] == [
        ("bert-base-uncased", "BertModel", "109482240"),
        ("bert-base-uncased", "sum", "109482240"),
        ("bert-base-uncased", "published", "109482240"),
        ("tiiuae/falcon-40b", "FalconForCausalLM", "41303293952"),
        ("tiiuae/falcon-40b", "tied_head_twice", "532676608"),
        ("tiiuae/falcon-40b", "sum", "41835970560"),
        ("tiiuae/falcon-40b", "published", "41835970560"),
    ]


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
