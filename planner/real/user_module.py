"""A user's own torch module, from the name of what makes it: ``package.module:factory``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from planner.errors import PlannerError, UnknownNameError, near_miss
from planner.nodes import Node
from planner.real.build import SEED
from planner.real.module_tree import module_tree

EXAMPLE = "example_inputs"
"""Attribute of a module, or of its factory, that holds the inputs of one call, or returns them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserModule:
    """What a factory made.

    Attributes
    ----------
    name : str
        ``package.module:factory``.
    origin : str
        File of the Python module.
    module : nn.Module
        In evaluation mode.
    inputs : tuple of Tensor or None
        Positional arguments of one call, where the factory gives them.
    assumptions : tuple of str
        What a reader of its counts must know.
    """

    name: str
    origin: str
    module: nn.Module
    inputs: tuple[Tensor, ...] | None
    assumptions: tuple[str, ...]

    @property
    def class_name(self) -> str:
        """Class of the module."""
        return type(self.module).__name__

    @property
    def tree(self) -> Node:
        """Its parameters as a tree."""
        return module_tree(self.module)


def user_module(name: str, *, with_values: bool) -> UserModule:
    """Module that a factory makes.

    Parameters
    ----------
    name : str
        ``package.module:factory``, imported with the current directory on the path. The factory takes no arguments
        and returns a module, or a module and its inputs; a class is a factory, and a module is taken as it is.
    with_values : bool
        Whether it is going to run. Where it is not, it is made on ``meta``, and nothing is allocated if it can be.

    Raises
    ------
    UnknownNameError
        No such Python module, or nothing of that name in it.
    PlannerError
        What was found makes no torch module, or fails.
    """
    path, colon, attribute = name.partition(":")
    if not (path and colon and attribute):
        raise PlannerError(f"expected package.module:factory, got '{name}'", key="--module")
    with _current_directory_on_path():
        source = _imported(path, name)
        factory = _attribute(source, attribute, name)
        made, allocated = _made(factory, name, with_values=with_values)
    module, inputs = _parts(made, factory, name)
    _check(module, name)
    assumptions = ["no builder: counted on the module itself, whose experts, if it has any, all count as active"]
    if allocated and not with_values:
        assumptions.append("its factory cannot run on the meta device, so its weights were allocated")
    return UserModule(
        name=name,
        origin=getattr(source, "__file__", None) or path,
        module=module.eval(),
        inputs=inputs,
        assumptions=tuple(assumptions),
    )


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # what was imported may have changed the path itself
        if here in sys.path:
            sys.path.remove(here)


def _imported(path: str, name: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if path != missing and not path.startswith(f"{missing}."):
            raise PlannerError(
                f"'{path}' imports '{missing}', which is not installed", file=name, key="--module"
            ) from error
        raise UnknownNameError(
            f"no Python module '{missing}'", file=name, key="--module", hint=near_miss(missing, _neighbours(missing))
        ) from error
    except Exception as error:  # code of the user's, which may raise anything
        raise PlannerError(f"importing '{path}' failed: {_said(error)}", file=name, key="--module") from error


def _neighbours(missing: str) -> list[str]:
    """Python modules of the same package, or of the current directory."""
    parent, dot, _ = missing.rpartition(".")
    package = sys.modules.get(parent)
    where = list(getattr(package, "__path__", ())) if parent else [str(Path.cwd())]
    return [f"{parent}{dot}{found.name}" for found in pkgutil.iter_modules(where)]


def _attribute(source: ModuleType, attribute: str, name: str) -> Any:
    found: Any = source
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [known for known in vars(found) if not known.startswith("_")]
            raise UnknownNameError(
                f"'{source.__name__}' has no '{attribute}'", file=name, key="--module", hint=near_miss(part, public)
            )
        found = getattr(found, part)
    return found


def _made(factory: Any, name: str, *, with_values: bool) -> tuple[Any, bool]:
    """What the factory returns, and whether its tensors have values."""
    if isinstance(factory, nn.Module):
        return factory, True
    if not callable(factory):
        raise PlannerError(
            f"expected a callable that returns a torch module, found {type(factory).__name__}",
            file=name,
            key="--module",
        )
    if not with_values:
        try:
            with torch.device("meta"):
                return factory(), False
        except Exception:  # noqa: S110 - the plain attempt below says what is wrong, if anything is
            pass
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return factory(), True
    except Exception as error:  # code of the user's, which may raise anything
        raise PlannerError(
            f"the factory failed: {_said(error)}", file=name, key="--module", hint="it is called without arguments"
        ) from error


def _parts(made: Any, factory: Any, name: str) -> tuple[nn.Module, tuple[Tensor, ...] | None]:
    """Module and inputs of what a factory returned."""
    module, given = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise PlannerError(
            f"expected a torch.nn.Module, or one and its inputs, and the factory returned {type(made).__name__}",
            file=name,
            key="--module",
        )
    if given is None:
        given = next((getattr(holder, EXAMPLE) for holder in (module, factory) if hasattr(holder, EXAMPLE)), None)
        given = given() if callable(given) and not isinstance(given, Tensor) else given
    if given is None:
        return module, None
    inputs = (given,) if isinstance(given, Tensor) else given
    if not isinstance(inputs, (tuple, list)) or not inputs or not all(isinstance(one, Tensor) for one in inputs):
        raise PlannerError("expected a tensor or a tuple of tensors as inputs", file=name, key="--module")
    return module, tuple(inputs)


def _check(module: nn.Module, name: str) -> None:
    parameters = list(module.parameters())
    if not parameters:
        raise PlannerError(f"{type(module).__name__} has no parameters", file=name, key="--module")
    if any(is_lazy(parameter) for parameter in parameters):
        raise PlannerError(
            f"{type(module).__name__} has lazy parameters, whose shapes are known after its first call only",
            file=name,
            key="--module",
            hint="let the factory call it once",
        )


def _said(error: Exception) -> str:
    words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
