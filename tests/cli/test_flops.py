import json

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.compute import CONVENTIONS
from planner.errors import PlannerError


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["flops", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


BERT_STEP = ["bert-base-uncased", "--class", "BertModel", "--batch-size", "2", "--sequence-length", "128"]


def test_json_has_every_convention_in_total_and_per_token() -> None:
    record = json.loads(
        _run(
            "bert-base-uncased",
            "--class",
            "BertModel",
            "--batch-size",
            "2",
            "--sequence-length",
            "128",
            "--format",
            "json",
        )
    )
    assert set(record["conventions"]) == set(CONVENTIONS)
    matmul = record["conventions"]["matmul"]
    assert matmul["forward"] == 2 * 22_348_431_360
    assert matmul["training"] == 3 * matmul["forward"]
    assert matmul["forward_per_token"] * 256 == matmul["forward"]
    assert record["tokens"] == 256
    assert sum(part["forward"] for part in record["components"].values()) == matmul["forward"]


def test_text_names_units_and_conventions() -> None:
    text = _run("gpt2", "--sequence-length", "64")
    for word in ("forward FLOP", "training FLOP/token", "a multiply-add is 2 FLOP", *CONVENTIONS):
        assert word in text


def test_a_step_that_the_model_cannot_run_is_said() -> None:
    assert "2,000 tokens do not fit the table of 1,024 positions" in _run("gpt2", "--sequence-length", "2000")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt2", "--batch-size", "0"], "batch_size: must be at least 1"),
        (["gpt2", "--logits", "first"], "logits: expected all or last"),
        (["bert-base-uncased", "--past", "4"], "past: this model has no causal attention"),
    ],
)
def test_bad_input_is_one_error(arguments: list[str], message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        CliRunner().invoke(app, ["flops", *arguments], catch_exceptions=False)
