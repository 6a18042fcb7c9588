"""YAML whose every value knows the file, the line and the key path that it stands at, for errors that say so.

YAML 1.2: ``15e12`` is a number, and ``on`` and ``no`` are words. Tags and merge keys are refused; anchors work, but a
file cannot make them multiply without bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from planner.errors import ScenarioError, near_miss

LARGEST_FILE_BYTES = 2**20
"""A scenario states axes, not rows; a million rows are three lines."""

LARGEST_VALUE_COUNT = 250_000
"""Values that one file may hold, every use of an anchor counted."""

DEEPEST_NESTING = 32
"""No scenario comes near it; a deeper file is an attack on the parser."""

_PREFIX = "tag:yaml.org,2002:"

# Dates are not values here, so what looks like one stays the text that it is.
_TEXT_TAGS = frozenset({f"{_PREFIX}str", f"{_PREFIX}timestamp"})
_WORD_TAGS = frozenset({f"{_PREFIX}int", f"{_PREFIX}float", f"{_PREFIX}bool", f"{_PREFIX}null"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something stands in a file.

    Attributes
    ----------
    file : str
        Its name.
    line : int
        Counted from 1.
    key : str
        Key path, such as ``set.num_hidden_layers[1]``; empty for the whole file.
    """

    file: str
    line: int
    key: str

    def error(self, message: str, hint: str | None = None) -> ScenarioError:
        """Error about what stands here."""
        return ScenarioError(message, file=self.file, line=self.line, key=self.key or None, hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A value and its place.

    Attributes
    ----------
    value : str, int, float, bool, None, tuple of Located, or mapping of str to Located
        What stands there.
    place : Place
        Where; the value of a key is placed at its key.
    """

    value: LocatedValue
    place: Place

    def plain(self) -> Any:
        """Value without places: lists and dicts all the way down."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, Mapping):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value


LocatedValue: TypeAlias = "str | int | float | bool | tuple[Located, ...] | Mapping[str, Located] | None"


def read_yaml(path: Path) -> Located:
    """Values of a YAML file.

    Raises
    ------
    ScenarioError
        The file cannot be read, is too large, or is not the YAML that is accepted here.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE_BYTES:
            raise ScenarioError(
                f"is {size:,} bytes, expected at most {LARGEST_FILE_BYTES:,}",
                file=path,
                hint="state axes as ranges, not row by row",
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        hint = near_miss(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise ScenarioError(f"cannot be read: {error.strerror}", file=path, hint=hint) from None
    except UnicodeDecodeError:
        raise ScenarioError("is not text in UTF-8, expected YAML", file=path) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> Located:
    """Values of a YAML text; see `read_yaml`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = YAML(typ="safe", pure=True)
    try:
        root = reader.compose(text)
        if root is None:
            raise ScenarioError("is empty, expected keys such as model and gpu", file=file)
        return _Parser(reader.constructor.construct_object, file).locate(root, _line(root), "", 0)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        raise ScenarioError(f"is not YAML: {error.problem or error.context}", file=file, line=line) from None
    except (YAMLError, ValueError) as error:
        # A control character, or a number with more digits than int() takes
        raise ScenarioError(f"is not YAML: {str(error).splitlines()[0]}", file=file) from None
    except RecursionError:
        raise ScenarioError(f"is nested deeper than {DEEPEST_NESTING} levels", file=file) from None


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


class _Parser:
    """Turns the nodes of one file, for which ruamel.yaml has no one type, into located values."""

    def __init__(self, construct: Any, file: str) -> None:
        self._construct = construct
        self._file = file
        self._count = 0

    def locate(self, node: Any, line: int, key: str, depth: int) -> Located:
        place = Place(file=self._file, line=line, key=key)
        self._count += 1
        if self._count > LARGEST_VALUE_COUNT:
            raise place.error(
                f"more than {LARGEST_VALUE_COUNT:,} values in one file, anchors counted each time they are used",
                hint="state long axes as ranges",
            )
        if depth > DEEPEST_NESTING:
            raise place.error(f"is nested deeper than {DEEPEST_NESTING} levels")
        return Located(value=self._value(node, place, depth), place=place)

    def _value(self, node: Any, place: Place, depth: int) -> LocatedValue:
        kind = node.id
        if kind == "sequence" and node.tag == f"{_PREFIX}seq":
            return tuple(
                self.locate(item, _line(item), f"{place.key}[{position}]", depth + 1)
                for position, item in enumerate(node.value)
            )
        if kind == "mapping" and node.tag == f"{_PREFIX}map":
            return self._mapping(node, place, depth)
        if kind == "scalar" and node.tag in _TEXT_TAGS:
            return str(node.value)
        if kind == "scalar" and node.tag in _WORD_TAGS:
            value: str | int | float | bool | None = self._construct(node)
            if isinstance(value, float) and value - value != 0:
                raise place.error(f"expected a finite number, got {node.value}")
            return value
        raise place.error(f"the tag {node.tag} is not supported", hint="write plain values")

    def _mapping(self, node: Any, place: Place, depth: int) -> Mapping[str, Located]:
        found: dict[str, Located] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            at = Place(file=self._file, line=line, key=place.key)
            if key_node.tag == f"{_PREFIX}merge":
                raise at.error(
                    "the merge key << is not YAML 1.2 and not supported", "repeat the keys, or use an anchor"
                )
            if key_node.id != "scalar" or key_node.tag not in _TEXT_TAGS:
                raise at.error(f"expected a word as key, got {str(key_node.value)[:40]!r}")
            key = str(key_node.value)
            path = f"{place.key}.{key}" if place.key else key
            if key in found:
                first = found[key].place.line
                raise Place(file=self._file, line=line, key=path).error(f"is given twice, first in line {first}")
            found[key] = self.locate(value_node, line, path, depth + 1)
        return found
