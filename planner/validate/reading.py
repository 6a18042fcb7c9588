"""What a measured row says, as the planner's own types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from planner.nodes import Node
from planner.training.job import TrainingJob

Rank: TypeAlias = Literal["fullest", "first", "last"]
"""Pipeline stage that a measurement shows: the fullest of all, the first or the last one."""

Counter: TypeAlias = Literal["allocated", "reserved", "device"]
"""What was read: bytes of tensors, bytes that the allocator holds, or what the driver reports."""


MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a field of the wrong kind raises: rows are untrusted, and one of them must not stop the others."""


class Skipped(Exception):  # noqa: N818 - a result, not a mistake
    """A row that cannot be predicted, and why; it is reported and never raised to a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One measured training step.

    Attributes
    ----------
    tree : Node
        The model.
    job : TrainingJob
        What was done with it, and how.
    rank : str
        See `Rank`.
    peak_counter : str
        See `Counter`.
    """

    tree: Node
    job: TrainingJob
    rank: Rank = "fullest"
    peak_counter: Counter = "allocated"
