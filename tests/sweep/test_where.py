"""Conditions: what they may say, what they mean on columns, and that they can do nothing else."""

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import ScenarioError
from planner.located import Place
from planner.sweep.axes import Condition
from planner.sweep.columns import Coded
from planner.sweep.where import Filter, split_conjunctions

COLUMNS: dict[str, Any] = {
    "batch_size": np.array([1.0, 2, 3, 4]),
    "past": np.array([0.0, 0, 8, 8]),
    "set.hidden_size": np.array([64.0, 96, math.nan, 128]),
    "model": Coded(("gpt2", "bert", None), np.array([0, 1, 1, 2])),
    "gpu": Coded(("bert", "T4"), np.array([0, 0, 1, 1])),
    "set.tied": Coded((True, "yes", None), np.array([0, 1, 2, 0])),
    "class": Coded(("A", "B"), np.array([0, 1, 0, 1])),
    "fits": np.array([True, True, False, False]),
}


def condition(text: str) -> Condition:
    return Condition(text=text, place=Place(file="grid.yaml", line=7, key="where[0]"))


def rows(text: str) -> list[int]:
    found = Filter(condition(text))
    found.check_names(list(COLUMNS))
    return np.flatnonzero(found.mask(COLUMNS, 4)).tolist()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("batch_size > 2", [2, 3]),
        ("2 <= batch_size < 4", [1, 2]),
        ("batch_size == 2 or past == 8 and batch_size != 3", [1, 3]),
        ("not (batch_size > 2)", [0, 1]),
        ("not fits and batch_size < 4", [2]),
        ("fits", [0, 1]),
        ("fits == False", [2, 3]),
        ("batch_size in [1, 4]", [0, 3]),
        ("batch_size not in (1, 4)", [1, 2]),
        ("batch_size * 2 + past / 8 - 1 >= 6", [2, 3]),
        ("batch_size % 2 == 0 and batch_size // 2 == 1", [1]),
        ("-batch_size < -3", [3]),
        ("set.hidden_size % 64 == 0", [0, 3]),
        ("set.hidden_size == None", [2]),
        ("set.hidden_size != None", [0, 1, 3]),
        ("set.hidden_size > 64", [1, 3]),
        ("model == 'gpt2'", [0]),
        ("model != 'gpt2'", [1, 2, 3]),
        ("'gpt2' == model", [0]),
        ("model == None", [3]),
        ("model in ['gpt2', 'x']", [0]),
        ("'er' in model", [1, 2]),
        ("'er' not in model", [0, 3]),
        ("model == gpu", [1]),
        ("set.tied == True", [0, 3]),
        ("set.tied == 'yes'", [1]),
        ("class_name == 'B'", [1, 3]),
        ("batch_size / past > 0.4", [0, 1, 3]),
        ("True", [0, 1, 2, 3]),
        ("1 > 2", []),
        ("'a' in 'abc'", [0, 1, 2, 3]),
        ("  batch_size\n == 1", [0]),
    ],
)
def test_meaning(text: str, kept: list[int]) -> None:
    assert rows(text) == kept


ATTACKS = [
    "__import__('os').system('true')",
    "open('x')",
    "().__class__.__bases__[0].__subclasses__()",
    "model.__class__",
    "batch_size.tolist()",
    "batch_size.dtype",
    "(batch_size + 1).real > 0",
    "model[0] == 'g'",
    "9**9**9**9 > 1",
    "batch_size ** 2 > 1",
    "1 << 1000000000 > 1",
    "[x for x in model]",
    "[].append(1)",
    "(lambda: True)()",
    "f'{batch_size}' == ''",
    "fits if fits else fits",
    "(x := 1) > 0",
    "{'a': 1}",
    "{1, 2}",
    "batch_size is None",
    "batch_size @ batch_size > 1",
    "~fits",
    "fits & fits",
    "*model",
    "await model",
    "b'x' == model",
    "1j > batch_size",
    "... == model",
    "fits; fits",
    "fits = True",
    "import os",
    "'a' * 1000000000 == model",
    "[0] * 1000000000 == model",
    "'%s' % model == 'x'",
    "'a' + 'b' == model",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_else_is_allowed(text: str) -> None:
    with pytest.raises(ScenarioError) as found:
        rows(text)
    assert (found.value.file, found.value.line, found.value.key) == ("grid.yaml", 7, "where[0]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size ** 2 > 1", "a power is not allowed"),
        ("len(model) > 1", "a call is not allowed"),
        ("model[0] == 'g'", "picking an element is not allowed"),
        ("batchsize > 1", "unknown column 'batchsize' .did you mean 'batch_size'"),
        ("set.hiden_size > 1", "unknown column 'set.hiden_size' .did you mean 'set.hidden_size'"),
        ("class == 'B'", "called class_name here"),
        ("batch_size", "is not a condition"),
        ("batch_size and fits", "'and' joins conditions, not a column of numbers"),
        ("not batch_size", "'not' joins conditions"),
        ("model > 'a'", "expected a number, got a column of texts"),
        ("model == 3", "compares a column of texts with 3"),
        ("batch_size == 'x'", "compares a column of numbers with the text 'x'"),
        ("batch_size > 'x'", "expected a number, got the text 'x'"),
        ("model == batch_size", "are never equal"),
        ("fits > 0", "expected a number, got a condition"),
        ("batch_size in model", "'in' takes a list"),
        ("batch_size in [past]", "a list holds numbers and texts"),
        ("batch_size == [1]", "a list is compared with 'in'"),
        ("batch_size > 1 / 0", "cannot be computed: division by zero"),
        (f"batch_size > {'9' * 400}", "cannot be computed"),
        ("", "is not a condition"),
        ("batch_size >", "is not a condition"),
        ("fits" + " and fits" * 300, "characters long"),
        ("not " * 450 + "fits", "nested too deeply"),
        ("(" * 300 + "fits" + ")" * 300, "is not a condition"),
        ("-" * 1900 + "past > 1", "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        rows(text)


@given(st.text(alphabet="fits model past batch_size'()[]<>=!+-*/%. 0123", max_size=40))
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    with contextlib.suppress(ScenarioError):
        rows(text)


def test_conjunctions_are_split() -> None:
    parts = split_conjunctions(condition("past > 1 and (fits or batch_size == 1) and model == 'a and b'"))
    assert [part.text for part in parts] == ["(past > 1)", "(fits or batch_size == 1)", "(model == 'a and b')"]
    for text in ("past > 1 or fits", "past >", "fits"):
        assert split_conjunctions(condition(text)) == [condition(text)]
