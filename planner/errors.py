"""What can go wrong, as types.

::

    PlannerError                 anything that the user can put right; the command line prints it and exits 2
    ├── ConfigError              a model's config.json: a key is missing, wrong or contradicts another
    ├── ScenarioError            a scenario file: unknown key, wrong type, empty list, grid too large
    ├── UnknownNameError         a model, GPU, dtype, optimizer ... that no catalog knows
    ├── UnsupportedError         understood, but nothing here can answer it
    ├── CatalogError             a shipped or user-given catalog row is broken
    └── CheckpointError          a file of weights, or the index of several, is broken, cut off or lies

"Does not fit" is a result, never an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class PlannerError(Exception):
    """An error that the user can put right.

    Parameters
    ----------
    message : str
        What is wrong and what was expected, one sentence.
    file : str or Path, optional
        The file that holds the mistake.
    line : int, optional
        Its line, counted from 1.
    key : str, optional
        The key path inside the file, such as ``text_config.num_hidden_layers``.
    hint : str, optional
        What to do about it: the near miss, or the way out.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = message
        self.file = None if file is None else str(file)
        self.line = line
        self.key = key
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}" if place else f"line {self.line}"
        parts = [part for part in (place, self.key) if part]
        text = ": ".join([*parts, self.message])
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(PlannerError):
    """A model's config has a missing, wrong or contradictory key."""


class ScenarioError(PlannerError):
    """A scenario file cannot be understood."""


class UnknownNameError(PlannerError):
    """A name that no catalog knows."""


class UnsupportedError(PlannerError):
    """A well-formed question that nothing here can answer."""


class CatalogError(PlannerError):
    """A catalog row is broken."""


class CheckpointError(PlannerError):
    """A file of weights, or the index of several, cannot be what it says it is."""


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """Hint that names the known words closest to a mistyped one, or None where nothing is close.

    Examples
    --------
    >>> near_miss("batchsize", ["batch_size", "sequence_length"])
    "did you mean 'batch_size'?"
    """
    by_folded = {word.casefold(): word for word in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
    if not close:
        return None
    return "did you mean " + " or ".join(f"'{by_folded[word]}'" for word in close) + "?"
