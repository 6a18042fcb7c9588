"""Inference engines, from the catalog: what each holds, replicates and reserves, by version.

One file an engine in `catalog/engines/`, one fact a row. A fact holds from the version in its row on, until a later row
of the same parameter replaces it, so that a release that changes one thing adds one row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from planner.catalog import Fact, read_text
from planner.errors import CatalogError, UnknownNameError, near_miss
from planner.units import GIB, KIB, MIB

FOLDER = "engines"

COLUMNS = ("since", "parameter", "value", "unit", "source")

UNITS: Mapping[str, int] = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
"""Units of sizes, and the bytes in each."""

NEWEST = (10**6,)
"""Above every version."""

LAST_RELEASE = 99
"""Stands for the ``x`` of ``0.7.x``."""

SPELLINGS: Mapping[str, str] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "tensorrt-llm": "tensorrt-llm",
    "tensorrt_llm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "trtllm": "tensorrt-llm",
    "llama.cpp": "llama.cpp",
    "llamacpp": "llama.cpp",
    "llama-cpp": "llama.cpp",
    "ik_llama.cpp": "llama.cpp",
    "ollama": "llama.cpp",
    "ollama/llama.cpp": "llama.cpp",
    "transformers": "transformers",
    "transformers.generate": "transformers",
}
"""Names that users and logs give to engines, and the file of the catalog."""

RELEASE = r"v?\d{1,2}\.(\d+|x)(\.(\d+|x))?[\w.+-]*|b\d+"
"""Versions that a user may write behind the name of an engine, llama.cpp's builds among them; logs write more."""

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine at one version.

    Attributes
    ----------
    kind : str
        As the catalog calls the engine, such as ``vllm``.
    version : tuple of int or None
        None where it is not known; the newest facts then hold.
    facts : mapping of str to Fact
        Those that hold for the version.
    """

    kind: str
    version: Version | None
    facts: Mapping[str, Fact]

    @property
    def label(self) -> str:
        """Engine and range of versions, by which errors are known, such as ``vllm 0.6-0.16``."""
        return self.word("label")

    def word(self, parameter: str, default: str | None = None) -> str:
        """A fact that is a word.

        Raises
        ------
        CatalogError
            The catalog does not state it, and there is no default.
        """
        fact = self.facts.get(parameter)
        if fact is not None:
            return fact.value
        if default is None:
            raise CatalogError(f"the engine '{self.kind}' states no '{parameter}'", file=f"{FOLDER}/{self.kind}.csv")
        return default

    def number(self, parameter: str, default: float | None = None) -> int | float:
        """A fact that is a number without a unit, an int where it is whole. [-]"""
        if parameter not in self.facts and default is not None:
            return default
        self.word(parameter)
        return _plain(self.facts[parameter].number("-"))

    def size(self, parameter: str, default: int | None = None) -> int | float:
        """A fact that is a size. [B]"""
        if parameter not in self.facts and default is not None:
            return default
        self.word(parameter)
        fact = self.facts[parameter]
        if fact.unit not in UNITS:
            raise CatalogError(
                f"'{parameter}' is in '{fact.unit}', expected one of {', '.join(UNITS)}",
                file=f"{FOLDER}/{self.kind}.csv",
            )
        return _plain(fact.number(fact.unit) * UNITS[fact.unit])

    def source(self, parameter: str) -> str:
        """Where a fact was read; empty where the engine is silent."""
        fact = self.facts.get(parameter)
        return "" if fact is None else fact.source


def _plain(number: float) -> int | float:
    return int(number) if number == int(number) else number


@cache
def engine_names() -> tuple[str, ...]:
    """Engines of the catalog."""
    folder = files("planner.catalog").joinpath(FOLDER)
    return tuple(sorted(entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv")))


@cache
def engine_labels() -> tuple[str, ...]:
    """Engines and ranges of versions, by which errors are known."""
    return tuple(
        dict.fromkeys(
            fact.value for kind in engine_names() for _, parameter, fact in _rows(kind) if parameter == "label"
        )
    )


def find_engine(name: str, version: str | None = None) -> Engine:
    """Engine by name, and the facts that hold for a version.

    Parameters
    ----------
    name : str
        As in `SPELLINGS`; ``vllm 0.19`` and ``vllm==0.19.0`` state a version as well.
    version : str, optional
        As logs print it; see `parse_version`. The newest where it is left out, or holds no version.

    Raises
    ------
    UnknownNameError
        No engine of that name, or what stands behind the name is no version.

    Examples
    --------
    >>> find_engine("vllm", "0.11.0").label, find_engine("vllm 0.19").label
    ('vllm 0.6-0.16', 'vllm 0.17-0.20')
    """
    stated = name.strip()
    words = re.fullmatch(r"([A-Za-z][\w./-]*?)(?:\s+|==|@|:|-)(\S.*)", stated)
    if words is not None and words[1].lower() in SPELLINGS:
        if re.fullmatch(RELEASE, words[2]) is None:
            raise UnknownNameError(f"'{words[2]}' is no version of {words[1]}, expected one such as 0.19 or 0.19.1")
        stated, version = words[1], version or words[2]
    kind = SPELLINGS.get(stated.lower())
    if kind is None:
        raise UnknownNameError(
            f"unknown engine '{name}', expected one of {', '.join(engine_names())}", hint=near_miss(stated, SPELLINGS)
        )
    return _at(kind, parse_version(version))


def parse_version(text: str | None) -> Version | None:
    """Version in a text, such as ``main 2025-01-16 (~0.6.6)``; the later of two; None where there is none.

    ``0.7.x`` is the last of its series.

    Examples
    --------
    >>> parse_version("0.7.x/0.8.x"), parse_version("2025-07 (0.9.x, fork)"), parse_version("2026-08 nightly")
    ((0, 8, 99), (0, 9, 99), None)
    """
    if text is None:
        return None
    number = r"v?(\d{1,2})\.(\d+)(?:\.(\d+|x))?"
    found = re.search(rf"(?<![\d.-]){number}(?:[\w.]*/{number})?", text)
    if found is None:
        return None
    first, second = found.groups()[:3], found.groups()[3:]
    chosen = first if second[0] is None else second
    return tuple(LAST_RELEASE if part == "x" else int(part) for part in chosen if part is not None)


@cache
def _at(kind: str, version: Version | None) -> Engine:
    newest = NEWEST if version is None else version
    facts: dict[str, tuple[Version, Fact]] = {}
    for since, parameter, fact in _rows(kind):
        if since <= newest and (parameter not in facts or facts[parameter][0] <= since):
            facts[parameter] = (since, fact)
    return Engine(kind=kind, version=version, facts={name: fact for name, (_, fact) in facts.items()})


@cache
def _rows(kind: str) -> tuple[tuple[Version, str, Fact], ...]:
    filename = f"{FOLDER}/{kind}.csv"
    reader = csv.DictReader(read_text(filename).splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise CatalogError(f"the header must be {','.join(COLUMNS)}", file=filename, line=1)
    rows: list[tuple[Version, str, Fact]] = []
    seen: set[tuple[Version, str]] = set()
    for row in reader:
        for column in COLUMNS:
            if not row.get(column):
                raise CatalogError(f"the cell '{column}' is empty", file=filename, line=reader.line_num)
        since = (0,) if row["since"] == "0" else parse_version(row["since"])
        if since is None:
            raise CatalogError(f"'{row['since']}' is no version", file=filename, line=reader.line_num)
        if (since, row["parameter"]) in seen:
            raise CatalogError(
                f"'{row['parameter']}' of {row['since']} is given twice", file=filename, line=reader.line_num
            )
        seen.add((since, row["parameter"]))
        rows.append(
            (since, row["parameter"], Fact(row["value"], row["unit"], row["source"], filename, reader.line_num))
        )
    return tuple(rows)
