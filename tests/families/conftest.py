"""What tests of families share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.counts import Counts, count
from planner.models import build_model
from planner.sources import ConfigSource


@pytest.fixture(scope="session")
def counts() -> Callable[..., Counts]:
    """`counts(model_type, class_name=None, **keys)`: counts of a config that states these keys."""

    def build(model_type: str, class_name: str | None = None, **keys: object) -> Counts:
        source = ConfigSource(name=model_type, raw={"model_type": model_type, **keys}, origin="config.json")
        return count(build_model(source, class_name=class_name).tree)

    return build
