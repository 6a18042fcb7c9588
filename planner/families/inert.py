"""Config keys that shape no tensor, so that every other unread key can be reported."""

from __future__ import annotations

from functools import cache

from planner.catalog import read_text


@cache
def _patterns() -> tuple[frozenset[str], tuple[str, ...], tuple[str, ...]]:
    """Exact keys, suffixes (written ``*suffix``) and prefixes (written ``prefix*``) of the shipped list."""
    words = [line.split("#")[0].strip() for line in read_text("inert_config_keys.txt").splitlines()]
    exact = frozenset(word for word in words if word and "*" not in word)
    suffixes = tuple(word[1:] for word in words if word.startswith("*"))
    prefixes = tuple(word[:-1] for word in words if word.endswith("*"))
    return exact, suffixes, prefixes


def is_inert(key: str) -> bool:
    """Whether a config key is known to shape no tensor.

    Examples
    --------
    >>> is_inert("attention_probs_dropout_prob"), is_inert("hidden_size")
    (True, False)
    """
    exact, suffixes, prefixes = _patterns()
    return key in exact or key.endswith(suffixes) or key.startswith(prefixes)
