"""Heads that several families put on the same trunk."""

from __future__ import annotations

from planner.families.blocks import linear
from planner.nodes import ONCE, Linear, Module
from planner.numeric import Num


def head(in_features: Num, out_features: Num, *, bias: bool = True, once: bool = False) -> Linear:
    """Classifier over every position, or once a sample.

    Parameters
    ----------
    in_features, out_features : Num
        Width of the trunk, number of labels.
    bias : bool
        Whether it has one.
    once : bool
        It sees a pooled sample and not every position.
    """
    return Linear(
        in_features=in_features,
        out_features=out_features,
        bias=bias,
        bucket="other.lm_head",
        stream=ONCE if once else None,
    )


def pooler(hidden_size: Num, width: Num | None = None) -> Module:
    """Dense layer over the first position."""
    return Module(
        children={"dense": linear(hidden_size, hidden_size if width is None else width, bias=True)},
        bucket="other.pooler",
        stream=ONCE,
    )
