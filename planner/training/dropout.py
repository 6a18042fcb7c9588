"""Probabilities of dropout that a model trains with: those of its config, or of its class where it is silent."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from typing import Any

from planner.catalog import read_text

FILENAME = "dropout.csv"

HIDDEN = (
    "hidden_dropout_prob",
    "hidden_dropout",
    "resid_pdrop",
    "residual_dropout",
    "dropout_rate",
    "dropout",
)
"""Keys for what sublayers yield, as classes call them."""

ATTENTION = ("attention_probs_dropout_prob", "attn_pdrop", "attention_dropout", "dropout_rate")
"""Keys for the probabilities of attention."""


def stated_dropout(raw: Mapping[str, Any], model_type: str = "") -> dict[str, float]:
    """Options `hidden_dropout` and `attention_dropout` of a job.

    Parameters
    ----------
    raw : mapping
        Config of the model.
    model_type : str
        Whose class's defaults hold where the config states none; 0 where the catalog knows of none.

    Examples
    --------
    >>> stated_dropout({"resid_pdrop": 0.2}, "gpt2"), stated_dropout({}, "llama")
    ({'hidden_dropout': 0.2, 'attention_dropout': 0.1}, {'hidden_dropout': 0.0, 'attention_dropout': 0.0})
    """
    hidden, attention = _defaults().get(model_type, (0.0, 0.0))
    return {
        "hidden_dropout": _first(raw, HIDDEN, hidden),
        "attention_dropout": _first(raw, ATTENTION, attention),
    }


@cache
def _defaults() -> Mapping[str, tuple[float, float]]:
    rows = csv.DictReader(read_text(FILENAME).splitlines())
    return {row["model_type"]: (float(row["hidden"]), float(row["attention"])) for row in rows}


def _first(raw: Mapping[str, Any], keys: tuple[str, ...], default: float) -> float:
    for key in keys:
        value = raw.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return default
