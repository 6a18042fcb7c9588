"""`planner verify`: what it prints, and the status with which it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from planner.cli import main
from planner.cli.app import app
from planner.cli.options import parse_overrides
from planner.errors import PlannerError, UnknownNameError, UnsupportedError
from planner.families import family
from planner.families.family import Builder
from planner.models import Model
from planner.nodes import Linear, Module, Node
from planner.verify import free_memory, verify
from planner.verify.choices import NOT_ON_META
from planner.workload import Step

TinyConfig = Callable[..., dict[str, Any]]
TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow


@pytest.fixture
def config_file(tiny_config: TinyConfig, tmp_path: Path) -> Callable[..., str]:
    def write(model_type: str, **changes: object) -> str:
        path = tmp_path / f"{model_type}.json"
        path.write_text(json.dumps(tiny_config(model_type, **changes)), encoding="utf-8")
        return str(path)

    return write


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify", *arguments])


def with_wrong_head(builder: Builder) -> Builder:
    """Builder of the same tree, but that its language head is one column short."""

    def wrong(config: Any) -> Node:
        tree = builder(config)
        assert isinstance(tree, Module)
        return replace(tree, children={**tree.children, "lm_head": Linear(in_features=48, out_features=98)})

    return wrong


def test_status_0_and_every_number_where_nothing_differs(config_file: Callable[..., str]) -> None:
    result = run(config_file("llama"), "--device", "cpu", "--sequence-length", "12", "--backward")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "LlamaForCausalLM on cpu (float32), 1 x 12 tokens" in lines[0]
    assert f"torch {torch.__version__}" in lines[0]
    rows = [line.split("  ") for line in lines if line.startswith(("  eager", "  sdpa"))]
    # 2 implementations x (parameters, forward twice, backward)
    assert len(rows) == 8
    assert {row[-1].strip() for row in rows} == {"0"}
    assert "eager: 30 tensors and 25 modules compared one by one: no path differs" in lines
    assert "building LlamaForCausalLM on cpu, attention eager" in result.stderr
    assert max(map(len, lines)) <= 200


def test_status_1_and_the_paths_where_something_differs(
    config_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = family("llama").classes
    assert isinstance(classes, dict)
    monkeypatch.setitem(classes, "LlamaForCausalLM", with_wrong_head(classes["LlamaForCausalLM"]))
    result = run(config_file("llama"), "--attention", "eager", "--sequence-length", "12")
    assert result.exit_code == 1
    assert "2 paths differ" in result.stdout
    assert "lm_head.weight: shape [98, 48] expected, [99, 48] in the real model" in result.stdout
    # 2 x 12 tokens x 48 x (98 and 99)
    assert "lm_head: forward FLOPs 112,896 expected, 114,048 in the real model" in result.stdout
    as_json = run(config_file("llama"), "--attention", "eager", "--sequence-length", "12", "--format", "json")
    assert as_json.exit_code == 1
    (record,) = json.loads(as_json.stdout)
    assert record["exact"] is False
    assert record["parameters"]["difference"] == 48
    assert record["differences"] == [
        {"path": "lm_head.weight", "quantity": "shape", "expected": [98, 48], "actual": [99, 48]},
        {"path": "lm_head", "quantity": "forward FLOPs", "expected": 112_896, "actual": 114_048},
    ]


def test_a_module_that_only_one_side_has_is_named(tiny_model: TinyModel) -> None:
    model = tiny_model("llama")
    head = Linear(in_features=48, out_features=99)

    def wrong(config: Any) -> Node:
        tree = family("llama").classes["LlamaForCausalLM"](config)
        assert isinstance(tree, Module)
        return Module(children={"model": tree.children["model"], "head": head})

    classes = {**model.family.classes, "LlamaForCausalLM": wrong}
    (result,) = verify(
        replace(model, family=replace(model.family, classes=classes)), step=Step(sequence_length=12), attention="eager"
    )
    assert {(difference.path, difference.quantity, difference.actual is None) for difference in result.differences} == {
        ("head.weight", "shape", True),
        ("lm_head.weight", "shape", False),
        ("head", "forward FLOPs", True),
        ("lm_head", "forward FLOPs", False),
    }
    # The totals agree, and still it is no proof.
    assert result.parameters.difference == result.flops.difference == 0
    assert not result.exact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "unknown device 'gpu', expected one of meta, cpu, cuda"),
        (["--attention", "sdp"], "did you mean 'sdpa'"),
        (["--experts", "grouped"], "did you mean 'grouped_mm'"),
        (["--format", "jsn"], "did you mean 'json'"),
        (["--set", "num_hidden_layers"], "expected --set key=value"),
        (["--class", "LlamaForCausalML"], "did you mean 'LlamaForCausalLM'"),
        (["--experts", "eager"], "has no experts"),
    ],
)
def test_status_2_for_what_cannot_be_answered(
    config_file: Callable[..., str],
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["planner", "verify", config_file("llama"), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""


def test_overrides_reach_both_sides(config_file: Callable[..., str]) -> None:
    arguments = ["--set", "num_hidden_layers=1", "--set", "attention_bias=true", "--attention", "eager"]
    (record,) = json.loads(run(config_file("llama"), *arguments, "--format", "json").stdout)
    assert record["exact"]
    # table, 4 attention matrices and 4 biases, 3 MLP matrices, 3 norms, head
    assert record["tensors"] == 1 + 8 + 3 + 3 + 1


def test_json_has_an_object_for_each_implementation(config_file: Callable[..., str]) -> None:
    step = ["--batch-size", "2", "--sequence-length", "3", "--past", "5"]
    records = json.loads(run(config_file("mixtral"), *step, "--experts", "all", "--format", "json").stdout)
    assert [(record["attention"], record["experts"]) for record in records] == [
        ("eager", "batched_mm"),
        ("eager", "grouped_mm"),
        ("sdpa", "batched_mm"),
        ("sdpa", "grouped_mm"),
    ]
    for record in records:
        assert (record["model"].endswith("mixtral.json"), record["class"]) == (True, "MixtralForCausalLM")
        assert (record["device"], record["dtype"], record["exact"]) == ("meta", "bfloat16", True)
        assert (record["step"]["batch_size"], record["step"]["sequence_length"], record["step"]["past"]) == (2, 3, 5)
        assert set(record["versions"]) == {"torch", "transformers", "fvcore"}
        assert set(record["parameters"]) == {"expected", "actual", "difference"}
        assert record["witness"]["forward_flops"]["difference"] == 0
        assert record["notes"] == [f"experts eager skipped: {NOT_ON_META}"]


def test_an_implementation_that_the_class_has_not_is_left_out_and_said(tiny_model: TinyModel) -> None:
    results = verify(tiny_model("gpt_oss"), step=Step(sequence_length=4))
    assert [result.attention for result in results] == ["eager"]
    assert results[0].notes == ("attention sdpa skipped: GptOssForCausalLM of transformers has no sdpa attention",)
    with pytest.raises(UnsupportedError, match=r"'sdpa' cannot run.*choose eager"):
        verify(tiny_model("gpt_oss"), attention="sdpa")
    with pytest.raises(UnsupportedError, match=r"'eager' cannot run.*choose batched_mm, grouped_mm"):
        verify(tiny_model("gpt_oss"), experts="eager")


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "free_bytes", lambda _: 1000)
    monkeypatch.setattr("planner.verify.execute.build", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(UnsupportedError, match=r"needs about [\d,]+ bytes on cpu, and 1,000 bytes are free"):
        verify(tiny_model("llama"), device="cpu")


def test_memory_that_is_needed_grows_with_what_is_asked(tiny_model: TinyModel) -> None:
    tree = tiny_model("mixtral").tree

    def needed(tokens: int, experts: str = "grouped_mm", *, backward: bool = False) -> int:
        step = Step(sequence_length=tokens)
        return free_memory.needed_bytes(tree, step, 4, experts=experts, backward=backward)

    assert needed(16) < needed(256) < needed(256, backward=True)
    # one copy of an expert's matrices for each of 256 tokens and 2 experts
    assert needed(256, "batched_mm") - needed(256) >= 256 * 2 * (2 * 80 * 48 + 48 * 80) * 4


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "CGROUP", tmp_path)
    unlimited = free_memory.free_bytes("cpu")
    assert unlimited > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert free_memory.free_bytes("cpu") > 2**20
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_memory.free_bytes("cpu") == 600


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_an_error(tiny_model: TinyModel) -> None:
    with pytest.raises(UnsupportedError, match="no CUDA device"):
        verify(tiny_model("llama"), device="cuda")


def test_a_config_that_transformers_refuses_is_an_error(tiny_model: TinyModel) -> None:
    with pytest.raises(UnsupportedError, match="transformers refuses the config"):
        verify(tiny_model("llama", max_position_embeddings="many"))


def test_a_class_that_transformers_has_not_is_an_error(tiny_model: TinyModel) -> None:
    with pytest.raises(UnsupportedError, match="has no class 'NoSuchModel'"):
        verify(replace(tiny_model("llama"), class_name="NoSuchModel"))


def test_a_word_that_is_no_choice_is_an_error(tiny_model: TinyModel) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'meta'"):
        verify(tiny_model("llama"), device="mets")


def test_values_of_overrides_are_json_or_text() -> None:
    assert parse_overrides(None) == {}
    assert parse_overrides(["a=1", "b=1.5", "c=null", "d=[1, 2]", "e=relu", 'f="1"', "g.h=true", "i="]) == {
        "a": 1,
        "b": 1.5,
        "c": None,
        "d": [1, 2],
        "e": "relu",
        "f": "1",
        "g.h": True,
        "i": "",
    }
    with pytest.raises(PlannerError, match="set twice"):
        parse_overrides(["a=1", "a=2"])
