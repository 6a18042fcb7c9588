"""Conditions over whole columns: the expressions of `simpleeval`, restricted to comparisons, logic and sums.

Nothing is called, no attribute is read and no element is picked: a name is a column, a dot is part of its name, and
everything that is not listed here is refused by the word that Python's grammar has for it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import simpleeval

from planner.errors import ScenarioError, near_miss
from planner.sweep.axes import Condition
from planner.sweep.columns import Coded, Mask

LONGEST_CONDITION = 2000
"""Characters; a longer one is not written by a person."""

ALIASES: Mapping[str, str] = {"class_name": "class"}
"""Columns whose name is a word of Python."""

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

_GRAMMAR = (
    *(ast.Name, ast.Attribute, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp),
    *(ast.Not, ast.USub, ast.UAdd, ast.BinOp, *_ARITHMETIC, ast.Compare, *_ORDER, ast.Eq, ast.NotEq, ast.In, ast.NotIn),
)
"""Everything that a condition may be made of."""

_WORDS = {
    "Call": "a call",
    "Subscript": "picking an element",
    "Attribute": "an attribute",
    "Pow": "a power",
    "Lambda": "a function",
    "ListComp": "a comprehension",
    "GeneratorExp": "a comprehension",
    "IfExp": "a choice",
    "JoinedStr": "a formatted text",
    "Is": "'is' (write ==)",
    "IsNot": "'is not' (write !=)",
    "Assign": "an assignment (write ==)",
}


class Filter:
    """One condition, parsed.

    Parameters
    ----------
    condition : Condition
        Text and place.

    Attributes
    ----------
    names : frozenset of str
        Columns that it reads.

    Raises
    ------
    ScenarioError
        It is not an expression, or uses something that is not allowed.
    """

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        text = _one_line(condition)
        if len(text) > LONGEST_CONDITION:
            raise self._error(f"is {len(text):,} characters long, expected at most {LONGEST_CONDITION:,}")
        try:
            self._tree = ast.parse(text, mode="eval").body
            # Refused before anything is looked up, so that an error names the deed and not a column.
            _check_grammar(self._tree)
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
            hint = "the column 'class' is called class_name here" if re.search(r"\bclass\b", text) else None
            raise self._error(f"is not a condition: {reason}", hint) from None
        except simpleeval.FeatureNotAvailable as error:
            raise self._error(str(error)) from None

    def check_names(self, known: Sequence[str]) -> None:
        """Raise `ScenarioError` for a name that is no column."""
        for name in sorted(self.names):
            if name not in known:
                raise self._error(
                    f"unknown column '{name}'",
                    near_miss(name, [*known, *ALIASES]) or f"columns are {', '.join(known)}",
                )

    def mask(self, columns: Mapping[str, Any], rows: int) -> Mask:
        """Which rows satisfy it.

        Parameters
        ----------
        columns : mapping of str to array or Coded
            Columns by name: numbers and conditions as arrays, words as `Coded`.
        rows : int
            Rows of each column. [-]

        Raises
        ------
        ScenarioError
            It compares what cannot be compared, or is not a condition.
        """
        try:
            with np.errstate(all="ignore"):
                result = _Evaluator(columns).eval(self._condition.text, previously_parsed=self._tree)
        except (_MisuseError, simpleeval.FeatureNotAvailable) as error:
            raise self._error(str(error)) from None
        except (ZeroDivisionError, OverflowError) as error:
            raise self._error(f"cannot be computed: {error}") from None
        except RecursionError:
            raise self._error("is nested too deeply") from None
        if isinstance(result, (bool, np.bool_)):
            return np.full(rows, bool(result))
        if not _is_condition(result):
            raise self._error("is not a condition, expected a comparison such as batch_size >= 8")
        mask: Mask = result
        return mask

    def _error(self, message: str, hint: str | None = None) -> ScenarioError:
        return self._condition.place.error(message, hint)


def split_conjunctions(condition: Condition) -> list[Condition]:
    """Parts of a condition that must all hold, so that those about inputs alone can run before anything is computed."""
    text = _one_line(condition)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [condition]
    if not (isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)):
        return [condition]
    parts = [ast.get_source_segment(text, part) for part in tree.values]
    if any(part is None for part in parts):
        return [condition]
    return [Condition(text=f"({part})", place=condition.place) for part in parts]


def _one_line(condition: Condition) -> str:
    """Text of a condition, which YAML may have folded over several lines."""
    return condition.text.replace("\n", " ").strip()


def _check_grammar(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if not isinstance(node, _GRAMMAR) or (isinstance(node, ast.Attribute) and _dotted(node) is None):
            _refuse(node)


def _names(node: ast.AST) -> Iterator[str]:
    name = _dotted(node)
    if name is not None:
        yield ALIASES.get(name, name)
        return
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def _dotted(node: ast.AST) -> str | None:
    """Name with its dots; None where something else than a name is dotted."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        prefix = _dotted(node.value)
        return None if prefix is None else f"{prefix}.{node.attr}"
    return None


class _MisuseError(Exception):
    """Something that is allowed was used on what it does not work on."""


class _Evaluator(simpleeval.SimpleEval):  # type: ignore[misc]  # the library has no types
    """simpleeval with the columns as its only names and with fewer kinds of nodes."""

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__(operators={}, functions={}, names={})
        self._columns = columns
        # In place of simpleeval's own list: what is not here does not exist.
        self.nodes = {
            ast.Name: self._column,
            ast.Attribute: self._column,
            ast.Constant: self._constant,
            ast.List: self._list,
            ast.Tuple: self._list,
            ast.BoolOp: self._logic,
            ast.UnaryOp: self._unary,
            ast.BinOp: self._arithmetic,
            ast.Compare: self._comparisons,
        }

    def _column(self, node: ast.AST) -> Any:
        name = _dotted(node) or ""
        return self._columns[ALIASES.get(name, name)]

    def _constant(self, node: ast.Constant) -> Any:
        if node.value is None or isinstance(node.value, (bool, int, float, str)):
            return node.value
        raise _MisuseError(f"{node.value!r} is neither a number nor a text")

    def _list(self, node: ast.List | ast.Tuple) -> list[Any]:
        items = [self._eval(item) for item in node.elts]
        if any(_is_column(item) or isinstance(item, list) for item in items):
            raise _MisuseError("a list holds numbers and texts, not columns")
        return items

    def _logic(self, node: ast.BoolOp) -> Any:
        word = "and" if isinstance(node.op, ast.And) else "or"
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        result = self._condition(node.values[0], word)
        for value in node.values[1:]:
            result = combine(result, self._condition(value, word))
        return result

    def _condition(self, node: ast.AST, word: str) -> Any:
        value = self._eval(node)
        if not _is_condition(value):
            raise _MisuseError(f"'{word}' joins conditions, not {_kind(value)}")
        return value

    def _unary(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return np.logical_not(self._condition(node.operand, "not"))
        value = _numeric(self._eval(node.operand))
        return -value if isinstance(node.op, ast.USub) else value

    def _arithmetic(self, node: ast.BinOp) -> Any:
        left, right = _numeric(self._eval(node.left)), _numeric(self._eval(node.right))
        return _ARITHMETIC[type(node.op)](left, right)

    def _comparisons(self, node: ast.Compare) -> Any:
        result: Any = True
        left = self._eval(node.left)
        for comparison, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._eval(right_node)
            result = np.logical_and(result, _compare(comparison, left, right))
            left = right
        return result


def _refuse(node: ast.AST) -> NoReturn:
    kind = type(node).__name__
    raise simpleeval.FeatureNotAvailable(f"{_WORDS.get(kind, kind)} is not allowed in a condition")


def _compare(comparison: ast.cmpop, left: Any, right: Any) -> Any:
    if isinstance(comparison, ast.NotIn):
        return np.logical_not(_contains(left, right))
    if isinstance(comparison, ast.In):
        return _contains(left, right)
    if isinstance(comparison, (ast.Eq, ast.NotEq)):
        same = _equal(left, right)
        return np.logical_not(same) if isinstance(comparison, ast.NotEq) else same
    return _ORDER[type(comparison)](_numeric(left), _numeric(right))


def _contains(item: Any, container: Any) -> Any:
    """Membership in a list, or a text within the texts of a column."""
    if isinstance(container, list):
        result: Any = False
        for member in container:
            result = np.logical_or(result, _equal(item, member))
        return result
    if isinstance(item, str) and isinstance(container, Coded):
        return _on_values(container, lambda value: isinstance(value, str) and item in value)
    if isinstance(item, str) and isinstance(container, str):
        return item in container
    raise _MisuseError("'in' takes a list on its right, or a text on its left and a column of texts on its right")


def _equal(left: Any, right: Any) -> Any:
    if isinstance(right, Coded) and not isinstance(left, Coded):
        left, right = right, left
    if isinstance(left, list) or isinstance(right, list):
        raise _MisuseError("a list is compared with 'in'")
    if isinstance(left, Coded):
        if isinstance(right, Coded):
            return _decoded(left) == _decoded(right)
        if _is_column(right):
            raise _MisuseError("a column of texts and a column of numbers are never equal")
        # A changed config key may hold numbers beside texts, so the rule is that one value at least is of the kind.
        if right is not None and not any(_same_kind(value, right) for value in left.values if value is not None):
            raise _MisuseError(f"compares a column of texts with {right!r}")
        return _on_values(left, lambda value: _same_kind(value, right) and bool(value == right))
    if isinstance(left, str) != isinstance(right, str):
        raise _MisuseError(f"compares {_kind(left)} with {_kind(right)}")
    if left is None or right is None:
        present = right if left is None else left
        return np.isnan(present) if _is_column(present) and present.dtype.kind == "f" else present is None
    return left == right


def _same_kind(value: Any, other: Any) -> bool:
    return (
        value is None
        if other is None
        else isinstance(value, str) == isinstance(other, str) and isinstance(value, bool) == isinstance(other, bool)
    )


def _on_values(column: Coded, test: Callable[[Any], bool]) -> Mask:
    """Answer for each row, found once for each distinct value."""
    return np.array([test(value) for value in column.values], dtype=np.bool_)[column.codes]


def _decoded(column: Coded) -> Any:
    return np.array(column.values, dtype=object)[column.codes]


def _numeric(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number or (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
        return value
    raise _MisuseError(f"expected a number, got {_kind(value)}")


def _is_column(value: Any) -> bool:
    return isinstance(value, (np.ndarray, Coded))


def _is_condition(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, np.ndarray) and value.dtype == np.bool_)


def _kind(value: Any) -> str:
    if _is_condition(value):
        return "a condition"
    if isinstance(value, Coded):
        return "a column of texts"
    if isinstance(value, np.ndarray):
        return "a column of numbers"
    if isinstance(value, list):
        return "a list"
    return f"the text {value!r}" if isinstance(value, str) else repr(value)
