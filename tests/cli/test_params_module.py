"""`planner params --module`: a torch module of the user's own."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli.app import app
from planner.errors import PlannerError

pytestmark = pytest.mark.slow

NETWORKS = '''
import torch
from torch import nn

import package_of_networks.helper


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.table = nn.Embedding(10, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10, bias=False)
        self.head.weight = self.table.weight


def net():
    return Net()


def with_inputs():
    return Net(), torch.zeros(2, 5, dtype=torch.long)


def huge():
    """Of 40 TB."""
    return nn.Linear(100_000_000, 100_000)


def asks_for_values():
    linear = nn.Linear(3, 4)
    assert linear.weight.abs().sum().item() > 0
    return linear


def fails():
    raise OSError("no such checkpoint\\nand more")


def wants(width):
    return Net(width)


def words():
    return "net"


def empty():
    return nn.ReLU()


def lazy():
    return nn.LazyLinear(3)


def wrong_inputs():
    return Net(), "text"


ready = Net()
number = 3
'''

PACKAGE = "package_of_networks"
TOTAL = 10 * 4 + 3 * (4 * 4 + 4) + 2 * 4


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "helper.py").write_text("", encoding="utf-8")
    (folder / "networks.py").write_text(NETWORKS, encoding="utf-8")
    (folder / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (folder / "needy.py").write_text("import package_that_is_not_there\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield
    for name in [known for known in sys.modules if known.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["params", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _module(factory: str) -> tuple[str, str]:
    return "--module", f"{PACKAGE}.networks:{factory}"


@pytest.mark.parametrize("factory", ["net", "Net", "with_inputs", "ready"])
def test_a_factory_a_class_and_a_module_are_counted(factory: str) -> None:
    (record,) = json.loads(_run(*_module(factory), "--format", "json"))
    assert (record["model"], record["class"], record["method"]) == (f"{PACKAGE}.networks:{factory}", "Net", "module")
    assert record["total"] == sum(record["breakdown"].values()) == TOTAL
    assert record["breakdown"]["norms"] == 8
    assert record["assumptions"][0].startswith("no builder: counted on the module itself")


def test_nothing_is_allocated() -> None:
    (record,) = json.loads(_run(*_module("huge"), "--format", "json"))
    assert record["total"] == 100_000_000 * 100_000 + 100_000


def test_a_factory_that_needs_values_is_run_plainly_and_said() -> None:
    (record,) = json.loads(_run(*_module("asks_for_values"), "--format", "json"))
    assert record["total"] == 3 * 4 + 4
    assert any("weights were allocated" in line for line in record["assumptions"])


def test_models_and_modules_together() -> None:
    rows = list(csv.DictReader(io.StringIO(_run("gpt2", *_module("net"), *_module("huge"), "--format", "csv"))))
    assert [(row["class"], row["method"]) for row in rows] == [
        ("GPT2LMHeadModel", "builder"),
        ("Net", "module"),
        ("Linear", "module"),
    ]


def test_explain_lists_every_tensor() -> None:
    text = _run(*_module("net"), "--explain")
    for path in ("table.weight", "layers.*.weight", "norm.bias"):
        assert path in text
    assert "one block of" not in text
    (record,) = json.loads(_run(*_module("net"), "--explain", "--format", "json"))
    assert record["derivation"]


def test_the_path_is_left_as_it_was() -> None:
    before = list(sys.path)
    _run(*_module("net"))
    assert sys.path == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a MODEL or --module"),
        (["--module", "networks"], "expected package.module:factory, got 'networks'"),
        (["--module", "package_of_network:net"], "no Python module 'package_of_network' (did you mean"),
        (["--module", f"{PACKAGE}.network:net"], f"did you mean '{PACKAGE}.networks'"),
        (["--module", f"{PACKAGE}.broken:net"], "importing 'package_of_networks.broken' failed: ZeroDivisionError"),
        (["--module", f"{PACKAGE}.needy:net"], "imports 'package_that_is_not_there', which is not installed"),
        ([*_module("nett")], "has no 'nett' (did you mean 'net'"),
        ([*_module("fails")], "the factory failed: OSError: no such checkpoint (it is called without arguments)"),
        ([*_module("wants")], "the factory failed: TypeError"),
        ([*_module("words")], "the factory returned str"),
        ([*_module("number")], "expected a callable that returns a torch module, found int"),
        ([*_module("empty")], "ReLU has no parameters"),
        ([*_module("lazy")], "has lazy parameters"),
        ([*_module("wrong_inputs")], "expected a tensor or a tuple of tensors as inputs"),
        ([*_module("net"), "--set", "a=1"], "--set: means nothing for a module"),
        ([*_module("net"), "--class", "Net"], "--class: means nothing for a module"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_wrong_is_said_in_one_error(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["params", *arguments])
    assert isinstance(result.exception, PlannerError), result.output
    assert message in str(result.exception)
