"""Shapes that nobody published: drawn at random, their tensors are still those of the class of transformers.

Every draw is derandomized: a failure here is a change in the code or in transformers, never the luck of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.counts import count
from planner.errors import PlannerError, UnsupportedError
from planner.families import family_of
from planner.families.config import ModelConfig, dimension_names, field_of, nested_kind
from planner.models import Model, build_model, with_overrides
from planner.nodes import Experts, walk
from planner.sources import ConfigSource
from planner.verify.choices import Implementation
from planner.verify.compare import actual_shapes, expected_shapes, shape_differences
from planner.verify.real import build

TinyConfig = Callable[..., dict[str, Any]]
Raw = Mapping[str, Any]

pytestmark = pytest.mark.slow

LAYERS = frozenset({"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"})
"""Left out where a list describes each layer: a change that contradicts it is refused and so not drawn."""


def _model(raw: Raw) -> Model:
    return build_model(ConfigSource(name="drawn", raw=raw, origin="config.json"))


def _is_valid(raw: Raw) -> bool:
    try:
        _model(raw)
    except PlannerError:
        return False
    return True


def _dimensions(kind: type[ModelConfig], raw: Raw, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Key path and value of every dimension that a config or a config inside it states."""
    for key, value in raw.items():
        name = field_of(kind, key)
        nested = nested_kind(kind, name, value) if name else None
        if nested is not None and isinstance(value, Mapping):
            yield from _dimensions(nested, value, f"{prefix}{key}.")
        elif name in dimension_names(kind) | LAYERS and isinstance(value, int) and not isinstance(value, bool):
            yield f"{prefix}{key}", value


def _drawn(data: st.DataObject, raw: Raw) -> Raw:
    """The config with some dimensions changed, a change that contradicts the others left out."""
    dimensions = list(_dimensions(family_of(raw["model_type"], raw).config, raw))
    # Twice and thrice keep what must divide; what adds a little shows what need not.
    changes = st.tuples(st.sampled_from(dimensions), st.sampled_from([(2, 0), (3, 0), (1, 1), (1, 2), (1, 8)]))
    for (key, value), (factor, more) in data.draw(st.lists(changes, min_size=2, max_size=5)):
        changed = with_overrides(raw, {key: factor * value + more})
        if _is_valid(changed):
            raw = changed
    return raw


@settings(deadline=None, derandomize=True, database=None, max_examples=3)
@given(data=st.data())
def test_a_drawn_shape_has_the_tensors_of_the_real_class(
    tiny_type: str, tiny_config: TinyConfig, data: st.DataObject
) -> None:
    model = _model(_drawn(data, tiny_config(tiny_type)))
    routed = [row.leaf for row in walk(model.tree) if isinstance(row.leaf, Experts)]
    experts = "grouped_mm" if any(not leaf.visits_all for leaf in routed) else None
    try:
        real = build(model, Implementation("eager", experts), dtype=torch.bfloat16, device="meta")
    except UnsupportedError as refusal:
        # Two demands of transformers that shape no tensor, and so are no business of the planner.
        if any(
            demand in str(refusal) for demand in ("even rotary dim", "is not a multiple of the number of attention")
        ):
            return
        raise
    expected = expected_shapes(model.tree)
    actual = actual_shapes(real, [name for name, _ in expected])
    assert [str(difference) for difference in shape_differences(expected, actual)] == []
    assert count(model.tree).total == sum(parameter.numel() for parameter in real.parameters())
