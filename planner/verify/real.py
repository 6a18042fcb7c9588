"""The real model of a `Model`."""

from __future__ import annotations

import torch
from torch import nn

from planner.models import Model
from planner.real.build import build as build_class
from planner.verify.choices import Implementation


def build(
    model: Model, implementation: Implementation, *, dtype: torch.dtype, device: str, fake: bool = False
) -> nn.Module:
    """Real class of a model, running as `implementation` says; see `planner.real.build.build`."""
    return build_class(
        model.raw,
        model.class_name,
        model.origin,
        attention=implementation.attention,
        experts=implementation.experts,
        dtype=dtype,
        device=device,
        fake=fake,
    )
