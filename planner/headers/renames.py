"""Parts of names that files and classes of transformers spell differently, from the catalog."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from planner.catalog import read_text
from planner.errors import CatalogError

FILENAME = "stored_names.csv"

AND = " + "
"""Between the names of several tensors of a class that are one in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """One row of the catalog.

    Attributes
    ----------
    in_file : str
        Whole parts of a name, a star standing for an index.
    in_class : tuple of str
        What the class has in their place: one name, or several where the file has their tensors in one.
    """

    in_file: str
    in_class: tuple[str, ...]

    @property
    def regex(self) -> re.Pattern[str]:
        """Where it stands in a name."""
        return re.compile(rf"(?:^|(?<=\.)){re.escape(self.in_file).replace(chr(92) + '*', '([^.]+)')}(?=\.|$)")

    @property
    def states_index(self) -> bool:
        """Whether it is about one index of a list and not about all."""
        return any(part.isdecimal() for part in self.in_file.split("."))

    def applied(self, name: str) -> tuple[str, ...]:
        """Names in the class for one in a file; empty where the rule is about another.

        Examples
        --------
        >>> Rename(in_file="blocks.*.norm0", in_class=("layers.*.norm1",)).applied("tower.blocks.3.norm0.weight")
        ('tower.layers.3.norm1.weight',)
        """
        found = self.regex.search(name)
        if found is None:
            return ()
        indices = list(found.groups())
        made = []
        for written in self.in_class:
            parts = written.split("*")
            middle = parts[0] + "".join(index + part for index, part in zip(indices, parts[1:], strict=True))
            made.append(name[: found.start()] + middle + name[found.end() :])
        return tuple(made)


@cache
def renames() -> tuple[Rename, ...]:
    """Rules of the catalog.

    Raises
    ------
    CatalogError
        An empty cell, the same part of a name twice, or stars that do not correspond.
    """
    found: dict[str, Rename] = {}
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    for row in reader:
        made = Rename(in_file=row["in_file"], in_class=tuple(row["in_class"].split(AND)))
        stars = {name.count("*") for name in (made.in_file, *made.in_class)}
        if not all(row.values()) or made.in_file in found or len(stars) != 1:
            raise CatalogError(f"is no rename of '{made.in_file}'", file=FILENAME, line=reader.line_num)
        found[made.in_file] = made
    return tuple(found.values())


def spellings(name: str) -> list[str]:
    """Name as it stands, by every rule alone, and by all of them one after another."""
    made = [name]
    last = name
    for rule in renames():
        if len(rule.in_class) == 1 and not rule.states_index:
            made.extend(rule.applied(name))
            for changed in rule.applied(last):
                last = changed
                made.append(changed)
    return list(dict.fromkeys(made))


def splits(name: str) -> Iterator[tuple[str, ...]]:
    """Names of the tensors that one of a file may be in the class: several, or one that is told by its index."""
    for rule in renames():
        if (len(rule.in_class) > 1 or rule.states_index) and (made := rule.applied(name)):
            yield made
