import pytest

from planner.catalog import Fact, read_facts
from planner.catalog.models import CatalogModel, catalog_models, find_catalog_model
from planner.counts import count
from planner.errors import CatalogError
from planner.models import BUILDER, build_model
from planner.sources import ConfigSource

PUBLISHED = [model for model in catalog_models() if model.published_total is not None]
EXACT = [model for model in PUBLISHED if not model.published_extras]
"""Where the published total is that of a class; `tests/test_checkpoint.py` explains the others."""


def _source(model: CatalogModel) -> ConfigSource:
    return ConfigSource(name=model.id, raw=model.config, origin=model.source)


@pytest.mark.parametrize("model", EXACT, ids=lambda model: model.id)
def test_the_count_equals_the_published_total(model: CatalogModel) -> None:
    built = build_model(_source(model), class_name=model.published_class)
    assert count(built.tree).total == model.published_total


@pytest.mark.parametrize("model", catalog_models(), ids=lambda model: model.id)
def test_components_sum_to_the_total_and_no_key_is_unread(model: CatalogModel) -> None:
    built = build_model(_source(model))
    assert built.method == BUILDER
    counts = count(built.tree)
    assert sum(counts.breakdown.values()) == counts.total
    assert 0 < counts.active_excl_input_embedding <= counts.active <= counts.total <= counts.total_with_untied_head
    assert not [line for line in built.assumptions if "not read" in line]


def test_most_models_have_a_published_total() -> None:
    assert len(catalog_models()) >= 230
    assert len(PUBLISHED) >= 200
    assert len(EXACT) >= 165


def test_every_model_and_total_says_where_it_was_read() -> None:
    for model in catalog_models():
        assert model.source
        assert (model.published_total is None) == (model.published_source is None)
        if model.published_total is None:
            assert model.published_class is None
            assert not model.published_extras


def test_models_are_sorted_and_no_source_is_a_note_to_oneself() -> None:
    ids = [model.id for model in catalog_models()]
    assert ids == sorted(ids, key=str.casefold)
    for model in catalog_models():
        for source in (model.source, model.published_source or ""):
            assert not [word for word in ("by hand", "exact-string", "index id", "recalled") if word in source]


def test_names_and_aliases_find_one_model_each() -> None:
    names = [name.casefold() for model in catalog_models() for name in model.names]
    assert len(names) == len(set(names))
    found = find_catalog_model("BERT-base-uncased")
    assert found is not None
    assert found.id == "google-bert/bert-base-uncased"
    assert find_catalog_model("no-such-model") is None


def test_facts_are_read_by_name_and_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    _ship(monkeypatch, "name,parameter,value,unit,source\nx,power,7,W,sheet\n")
    fact = read_facts("test.csv")["x"]["power"]
    assert (fact.value, fact.unit, fact.source) == ("7", "W", "sheet")
    assert fact.number("W") == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,value\nx,7\n", "test.csv:1: the header must be"),
        ("name,parameter,value,unit,source\nx,power,7,W,\n", "test.csv:2: the cell 'source' is empty"),
        ("name,parameter,value,unit,source\nx,p,7,W,s\nx,p,8,W,s\n", "test.csv:3: 'p' of 'x' is given twice"),
    ],
)
def test_a_broken_table_names_its_line(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    _ship(monkeypatch, text)
    with pytest.raises(CatalogError, match=message):
        read_facts("test.csv")


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [("7", "MW", "expected the unit 'W'"), ("x", "W", "'x' is not a number"), ("nan", "W", "not a finite number")],
)
def test_a_value_in_another_unit_is_refused(value: str, unit: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        Fact(value, unit, "sheet", "test.csv", 2).number("W")


def test_a_fraction_is_not_a_whole_number() -> None:
    with pytest.raises(CatalogError, match="not a whole number"):
        Fact("1.5", "W", "sheet", "test.csv", 2).integer("W")


def _ship(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("planner.catalog.read_text", lambda _: text)
    read_facts.cache_clear()
    monkeypatch.setattr("planner.catalog.read_facts", read_facts)


@pytest.fixture(autouse=True)
def _forget_broken_tables() -> None:
    read_facts.cache_clear()
