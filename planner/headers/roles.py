"""What a quantised checkpoint stores in place of a weight: codes, scales, zero points, and which weight each is of."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast, get_args

from planner.catalog import read_text
from planner.errors import CatalogError
from planner.headers.stored import StoredTensor

FILENAME = "quantised_tensors.csv"

Role = Literal["values", "codes", "scales", "zeros", "order", "codebook", "description", "activation scales"]
"""``values`` are the weight itself; ``codes`` need what stands beside them to be one."""

WEIGHTS: frozenset[Role] = frozenset({"values", "codes"})
"""Roles of what stands for the parameters; the others come on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the catalog.

    Attributes
    ----------
    ending : str
        How the name ends.
    stands_for : str
        What the weight's name has in its place.
    role : str
        What it is to the weight.
    why : str
        What it is, for the reader of a table.
    """

    ending: str
    stands_for: str
    role: Role
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stored tensor as part of a weight."""

    tensor: StoredTensor
    role: Role
    why: str = ""


@cache
def rules() -> tuple[Rule, ...]:
    """Rules of the catalog, the longest ending first.

    Raises
    ------
    CatalogError
        A row with an unknown role, or an ending twice.
    """
    found: dict[str, Rule] = {}
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    for row in reader:
        if row["role"] not in get_args(Role) or row["ending"] in found or not row["source"]:
            raise CatalogError(f"is no rule about '{row['ending']}'", file=FILENAME, line=reader.line_num)
        found[row["ending"]] = Rule(
            ending=row["ending"], stands_for=row["stands_for"], role=cast(Role, row["role"]), why=row["why"]
        )
    return tuple(sorted(found.values(), key=lambda rule: -len(rule.ending)))


def weights_of(tensors: Iterable[StoredTensor], known: frozenset[str] = frozenset()) -> dict[str, tuple[Part, ...]]:
    """Tensors by the weight that they are or belong to.

    Parameters
    ----------
    tensors : iterable of StoredTensor
        Those of a checkpoint.
    known : frozenset of str
        Names of a model's own tensors: one of these is itself, whatever its ending.

    Examples
    --------
    >>> names = ("q.qweight", "q.scales", "norm.weight", "attn_scales")
    >>> made = [StoredTensor(name=name, dtype="F16", shape=(1,), size_bytes=2, file="x") for name in names]
    >>> {weight: [part.role for part in parts] for weight, parts in weights_of(made).items()}
    {'q.weight': ['codes', 'scales'], 'norm.weight': ['values'], 'attn_scales': ['values']}
    """
    held = list(tensors)
    matched = {tensor.name: None if tensor.name in known else _rule(tensor.name) for tensor in held}
    # What is beside a weight says nothing alone: without the weight it is a tensor of its own.
    weights = {tensor.name for tensor in held if matched[tensor.name] is None}
    weights |= {_weight(name, rule) for name, rule in matched.items() if rule is not None and rule.role == "codes"}
    found: dict[str, list[Part]] = {}
    for tensor in held:
        rule = matched[tensor.name]
        weight = None if rule is None else _weight(tensor.name, rule)
        if rule is not None and weight in weights:
            found.setdefault(weight, []).append(Part(tensor=tensor, role=rule.role, why=rule.why))
        else:
            found.setdefault(tensor.name, []).append(Part(tensor=tensor, role="values"))
    return {name: _with_codes(parts) for name, parts in found.items()}


def _with_codes(parts: list[Part]) -> tuple[Part, ...]:
    """Values that have scales beside them are codes."""
    if any(part.role in ("scales", "codebook") for part in parts):
        return tuple(
            Part(tensor=part.tensor, role="codes", why="codes of the weight") if part.role == "values" else part
            for part in parts
        )
    return tuple(parts)


def _rule(name: str) -> Rule | None:
    return next((rule for rule in rules() if name.endswith(rule.ending) and len(name) > len(rule.ending)), None)


def _weight(name: str, rule: Rule) -> str:
    return name.removesuffix(rule.ending) + rule.stands_for
