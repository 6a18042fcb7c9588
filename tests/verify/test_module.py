"""`planner verify` where no builder says what is multiplied: a user's own module, and a class that is only real."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from planner.cli.app import app
from planner.errors import PlannerError, UnsupportedError
from planner.models import TRANSFORMERS, Model, build_model
from planner.nodes import Linear, Module
from planner.real import user_module as user_modules
from planner.sources import ConfigSource
from planner.verify import Verification, verify
from planner.verify.execute import Executed
from planner.verify.module import verify_module
from planner.verify.witness import Kernels, counted
from planner.verify.witnesses import DROPPED, NO_BUILDER, TOTALS_ONLY, products_of_witnesses
from planner.workload import Step

pytestmark = pytest.mark.slow

NETWORKS = '''
from dataclasses import dataclass

import torch
from torch import nn


class Encoder(nn.Module):
    """Torch's own layers, and a head that is tied."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.layers(self.table(ids)))


def encoder():
    return Encoder(), torch.zeros(2, 5, dtype=torch.long)


def without_inputs():
    return Encoder()


@dataclass
class Answer:
    first: torch.Tensor
    rest: dict


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)
        self.example_inputs = torch.zeros(2, 3), torch.zeros(2, 5)

    def forward(self, left, right):
        return Answer(self.left(left), {"rest": [self.right(right)]})


class Dropped(nn.Module):
    example_inputs = torch.zeros(2, 3)

    def __init__(self):
        super().__init__()
        self.kept, self.dropped = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        self.dropped(x)
        return self.kept(x)


class Shared(nn.Module):
    example_inputs = torch.zeros(2, 3)

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first

    def forward(self, x):
        return self.second(self.first(x))


class Borrower(nn.Module):
    def forward(self, module, x):
        return module(x)


class Lent(nn.Module):
    """One module runs inside another that is not its parent."""

    example_inputs = torch.zeros(2, 3)

    def __init__(self):
        super().__init__()
        self.lent, self.borrower = nn.Linear(3, 4), Borrower()

    def forward(self, x):
        return self.borrower(self.lent, x)


class Recurrent(nn.Module):
    example_inputs = torch.zeros(2, 3, 4)

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5)

    def forward(self, x):
        return self.lstm(x)[0]


class Asking(nn.Module):
    """Its path depends on a value."""

    example_inputs = torch.ones(2, 3)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else x


class Silent(nn.Module):
    example_inputs = torch.zeros(2, 3)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        self.linear(x)
        return None
'''

NAME = "networks_to_verify"


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{NAME}.py").write_text(NETWORKS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop(NAME, None)


def _verified(factory: str) -> Verification:
    return verify_module(f"{NAME}:{factory}")


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["verify", *arguments])


def test_a_module_of_torch_layers_is_exact() -> None:
    result = _verified("encoder")
    assert result.exact
    assert not result.builder
    # a layer: 8 to 24 and back to 8, 8 to 16 and back, two norms; the head is the table
    layer = 8 * 24 + 24 + 8 * 8 + 8 + 2 * 8 * 16 + 16 + 8 + 4 * 8
    assert result.parameters.expected == result.parameters.actual == 10 * 8 + 3 * layer
    # 2 x 5 tokens: four projections, the MLP, scores of 5 keys and their values; the head
    products = 3 * (4 * 8 * 8 + 2 * 8 * 16 + 2 * 5 * 8) + 8 * 10
    assert result.flops.expected == result.flops.actual == 2 * 10 * products
    # attention, whose output projection torch applies itself, two matrices of the MLP; the head
    assert result.modules == 3 * 3 + 1
    assert result.notes == (NO_BUILDER,)


def test_the_fast_path_of_torch_is_as_it_was() -> None:
    _verified("encoder")
    assert torch.backends.mha.get_fastpath_enabled()


def test_several_inputs_and_outputs_in_containers() -> None:
    result = _verified("TwoInputs")
    assert result.exact
    assert result.inputs == ((2, 3), (2, 5))
    assert result.flops.actual == 2 * 2 * (3 * 4 + 5 * 4)


def test_a_path_that_depends_on_a_value_runs() -> None:
    assert _verified("Asking").flops.actual == 2 * 2 * 3 * 3


def test_a_product_that_is_dropped_is_a_difference() -> None:
    result = _verified("Dropped")
    assert not result.exact
    (difference,) = result.differences
    assert (difference.path, difference.expected, difference.actual) == ("dropped", 0, 2 * 2 * 3 * 4)
    assert DROPPED in result.notes


@pytest.mark.parametrize(("factory", "flops"), [("Shared", 2 * 2 * 2 * 3 * 3), ("Lent", 2 * 2 * 3 * 4)])
def test_modules_that_run_elsewhere_are_compared_in_total(factory: str, flops: int) -> None:
    result = _verified(factory)
    assert result.exact
    assert result.flops.actual == flops
    assert result.modules == 0
    assert TOTALS_ONLY in result.notes


def test_a_tree_that_lacks_a_tensor_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Module(children={"left": Linear(in_features=3, out_features=4, bias=True)})
    monkeypatch.setattr(user_modules, "module_tree", lambda _: wrong)
    result = _verified("TwoInputs")
    assert {difference.path for difference in result.differences} == {"right.weight", "right.bias"}
    assert result.parameters.difference == 5 * 4 + 4
    assert not result.exact


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("without_inputs", "the factory gives none"),
        ("Recurrent", "no count: aten::lstm"),
        ("Silent", "returns no tensor"),
    ],
)
def test_what_cannot_be_compared_is_an_error(factory: str, message: str) -> None:
    with pytest.raises(PlannerError, match=message):
        _verified(factory)


def test_meta_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="run on real tensors"):
        verify_module(f"{NAME}:encoder", device="meta")


def test_status_and_text_of_the_command() -> None:
    exact = _run("--module", f"{NAME}:encoder")
    assert exact.exit_code == 0
    assert f"{NAME}:encoder: Encoder on cpu (float32), inputs 2 x 5" in exact.stdout
    assert NO_BUILDER in exact.stdout
    different = _run("--module", f"{NAME}:Dropped", "--format", "json")
    assert different.exit_code == 1
    (record,) = json.loads(different.stdout)
    assert (record["exact"], record["builder"], record["step"], record["inputs"]) == (False, False, None, [[2, 3]])
    assert record["forward_flops"] == {"expected": 48, "actual": 96, "difference": 48}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of MODEL, --module and --all"),
        (["gpt2", "--module", f"{NAME}:encoder"], "expected one of MODEL, --module and --all"),
        (["--module", f"{NAME}:encoder", "--sequence-length", "8"], "--sequence-length: means nothing for --module"),
        (["gpt2", "--limit", "3"], "--limit: means nothing for a model"),
    ],
)
def test_options_that_would_change_nothing_are_refused(arguments: list[str], message: str) -> None:
    result = _run(*arguments)
    assert isinstance(result.exception, PlannerError)
    assert message in str(result.exception)


def _executed(by_module: bool, own: dict[str, int] | None) -> Executed:
    kernels = own and Kernels(forward=sum(own.values()), backward=None, fused=frozenset(), own=own)
    return Executed(
        real=nn.Identity(), traced={"": 0, "a": 4, "b": 2}, kernels=kernels or None, by_module=by_module, reason="why"
    )


def test_equal_totals_do_not_hide_modules_that_differ() -> None:
    products = products_of_witnesses(_executed(True, {"": 0, "a": 2, "b": 4}))
    assert products.flops.difference == 0
    assert [difference.path for difference in products.differences] == ["a", "b"]


def test_totals_that_differ_are_a_difference_too() -> None:
    (difference,) = products_of_witnesses(_executed(False, {"": 0, "a": 2, "b": 5})).differences
    assert (difference.expected, difference.actual) == (6, 7)


def test_one_witness_proves_nothing() -> None:
    with pytest.raises(UnsupportedError, match="no second witness: why"):
        products_of_witnesses(_executed(True, None))


HYBRID: dict[str, Any] = {
    "model_type": "granitemoehybrid",
    "hidden_size": 64,
    "intermediate_size": 32,
    "shared_intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "layer_types": ["attention", "attention"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}


@pytest.fixture
def hybrid() -> Model:
    model = build_model(ConfigSource(name="hybrid", raw=HYBRID, origin="config.json"))
    assert model.method == TRANSFORMERS
    return model


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_class_without_a_builder_has_two_witnesses(hybrid: Model, device: str) -> None:
    results = verify(hybrid, step=Step(batch_size=2, sequence_length=8), device=device)
    assert [(result.attention, result.experts) for result in results] == [
        ("eager", "grouped_mm"),
        ("sdpa", "grouped_mm"),
    ]
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 2 * 3 * 64 * 32 + 4 * 64 + 3 * 64 * 48 + 2 * 8 * 64
    for result in results:
        assert result.exact
        assert NO_BUILDER in result.notes
        # attention products included, which its tree has not
        assert result.flops.expected == result.flops.actual == 2 * 16 * (2 * layer + 100 * 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"backward": True}, "sees no backward"), ({"step": Step(past=3)}, "past cannot be made up")],
)
def test_what_one_witness_cannot_see_is_refused(hybrid: Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        verify(hybrid, **options)


def test_witnesses_that_disagree_end_with_status_1(
    hybrid: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def more(*arguments: Any, **options: Any) -> Kernels:
        kernels = counted(*arguments, **options)
        own = kernels.own | {"lm_head": kernels.own["lm_head"] + 1}
        return Kernels(forward=kernels.forward + 1, backward=None, fused=kernels.fused, own=own)

    monkeypatch.setattr("planner.verify.execute.counted", more)
    (tmp_path / "config.json").write_text(json.dumps(hybrid.raw), encoding="utf-8")
    result = _run(str(tmp_path / "config.json"), "--attention", "sdpa")
    assert result.exit_code == 1
    assert "lm_head: forward FLOPs" in result.stdout
