"""Facts of engines by version."""

import pytest

from planner.engines import COLUMNS, LAST_RELEASE, SPELLINGS, UNITS, engine_names, find_engine, parse_version
from planner.errors import CatalogError, UnknownNameError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.19.0", (0, 19, 0)),
        ("v0.6.3", (0, 6, 3)),
        ("0.7.x/0.8.x", (0, 8, LAST_RELEASE)),
        ("0.6.x", (0, 6, LAST_RELEASE)),
        ("~0.8.5 (V1)", (0, 8, 5)),
        ("main 2025-01-16 (~0.6.6)", (0, 6, 6)),
        ("2025-07 (0.9.x, LMCache connector)", (0, 9, LAST_RELEASE)),
        ("0.2.4 + PR 2031", (0, 2, 4)),
        ("0.10.1.1", (0, 10, 1)),
        ("0.5.8.post1-rocm720", (0, 5, 8)),
        ("0.11.0 (image in the how-to)", (0, 11, 0)),
        ("2026", None),
        ("2026-08 nightly", None),
        ("PR #18263", None),
        ("", None),
        (None, None),
    ],
)
def test_versions_as_logs_print_them(text: str | None, version: tuple[int, ...] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "label", "sampler"),
    [("0.5.3", "vllm <0.6", 36), ("0.16.0", "vllm 0.6-0.16", 36), ("0.17.0", "vllm 0.17-0.20", 12)],
)
def test_a_fact_holds_until_a_later_one_replaces_it(version: str, label: str, sampler: int) -> None:
    engine = find_engine("vllm", version)
    assert engine.label == label
    assert engine.size("sampler_bytes") == sampler


def test_a_version_that_is_not_known_is_the_newest() -> None:
    assert find_engine("vllm").label == find_engine("vllm", "2026-08 nightly").label == "vllm >=0.21"


@pytest.mark.parametrize("spelling", ["vllm 0.19", "vLLM==0.19.0", "vllm:v0.19.0", "vllm-0.19"])
def test_a_name_may_hold_the_version(spelling: str) -> None:
    engine = find_engine(spelling)
    assert (engine.kind, engine.version is not None and engine.version[:2]) == ("vllm", (0, 19))


def test_an_unknown_engine_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown engine 'vlm', expected one of .*did you mean 'vllm'"):
        find_engine("vlm")


@pytest.mark.parametrize("name", ["vllm 0.abc", "vllm 99", "vllm latest", "sglang==2026"])
def test_what_stands_behind_a_name_is_a_version(name: str) -> None:
    with pytest.raises(UnknownNameError, match="is no version of (vllm|sglang), expected one such as 0.19"):
        find_engine(name)


@pytest.mark.parametrize("name", ["sglang 0.5.8.post1-rocm720", "llama.cpp b6325", "vllm 0.7.x", "vllm v0.8.5.post1"])
def test_releases_and_builds_are_versions(name: str) -> None:
    assert find_engine(name).kind == name.split()[0]


def test_every_spelling_has_its_file_and_every_file_a_spelling() -> None:
    assert set(SPELLINGS.values()) == set(engine_names())


@pytest.mark.parametrize("name", engine_names())
def test_every_fact_has_a_source_and_a_unit_of_its_kind(name: str) -> None:
    engine = find_engine(name)
    assert engine.word("weights_counter") in ("allocated", "free memory", "tensors")
    for parameter, fact in engine.facts.items():
        assert fact.source
        assert fact.unit in (*UNITS, "-")
        if fact.unit in UNITS:
            assert engine.size(parameter) >= 0


def test_what_is_missing_names_the_file() -> None:
    with pytest.raises(CatalogError, match=r"engines/vllm\.csv: the engine 'vllm' states no 'wings'"):
        find_engine("vllm").word("wings")
    with pytest.raises(CatalogError, match="'label' is in '-', expected one of B"):
        find_engine("vllm").size("label")


def test_a_broken_file_is_named_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner import engines

    texts = {
        "engines/no_header.csv": "a,b\n",
        "engines/empty.csv": f"{','.join(COLUMNS)}\n0,label,,-,somewhere\n",
        "engines/twice.csv": f"{','.join(COLUMNS)}\n0,label,a,-,x\n0,label,b,-,x\n",
        "engines/no_version.csv": f"{','.join(COLUMNS)}\nsoon,label,a,-,x\n",
    }
    monkeypatch.setattr(engines, "read_text", lambda name: texts[name])
    read = engines._rows.__wrapped__
    for name, words in (
        ("no_header", "no_header.csv:1: the header must be"),
        ("empty", "empty.csv:2: the cell 'value' is empty"),
        ("twice", "twice.csv:3: 'label' of 0 is given twice"),
        ("no_version", "no_version.csv:2: 'soon' is no version"),
    ):
        with pytest.raises(CatalogError, match=words):
            read(name)
