"""What several test modules share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from planner.families import family
from planner.models import Model, build_model
from planner.sources import ConfigSource

TinyConfig = Callable[..., dict[str, Any]]
TinyModel = Callable[..., Model]


def _load(name: str) -> ModuleType:
    """Module of this folder, which no test can import by name."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TINY = _load("tiny_configs")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the argument `tiny_type` or `tiny_class` for every model type, or every class, that is tiny."""
    types = sorted(TINY.TINY)
    if "tiny_type" in metafunc.fixturenames:
        metafunc.parametrize("tiny_type", types)
    if "tiny_class" in metafunc.fixturenames:
        classes = [(model_type, name) for model_type in types for name in family(model_type).classes]
        metafunc.parametrize("tiny_class", classes, ids=lambda pair: "-".join(pair))


@pytest.fixture(scope="session")
def tiny_config() -> TinyConfig:
    """`tiny_config(model_type, **changes)`: a small config as a config.json would state it."""
    config: TinyConfig = TINY.tiny_config
    return config


@pytest.fixture(scope="session")
def tiny_model(tiny_config: TinyConfig) -> TinyModel:
    """`tiny_model(model_type, class_name=None, **changes)`: the model of a small config."""

    def build(model_type: str, class_name: str | None = None, **changes: object) -> Model:
        config = tiny_config(model_type, **changes)
        return build_model(
            ConfigSource(name=model_type, raw=config, origin=f"tiny {model_type}"), class_name=class_name
        )

    return build
