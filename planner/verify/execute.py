"""One implementation of a real model, built and counted by both witnesses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.errors import UnsupportedError
from planner.models import Model
from planner.real.build import DTYPES, quiet
from planner.verify.call import MODEL, Call, prepare
from planner.verify.choices import Implementation
from planner.verify.real import build
from planner.verify.trace import traced_flops
from planner.verify.watched import watched_calls
from planner.verify.witness import Kernels, counted
from planner.workload import Step

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """What both witnesses saw.

    Attributes
    ----------
    real : nn.Module
        The model that was traced.
    traced : dict of str to int
        Forward FLOPs of each module's own products by fvcore, by path. [FLOP]
    tensors : str or None
        ``real`` or ``fake``: on what FlopCounterMode ran; None where it could not.
    kernels : Kernels or None
        What it saw.
    by_module : bool
        Both charge a product to the same module.
    reason : str or None
        Why FlopCounterMode could not run.
    """

    real: nn.Module
    traced: dict[str, int]
    tensors: str | None = None
    kernels: Kernels | None = None
    by_module: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A request, apart from the implementations.

    Attributes
    ----------
    model : Model
        What to run.
    step : Step
        What is asked of it.
    device : str
        ``meta``, ``cpu`` or ``cuda``.
    backward : bool
        Run backward as well, for the second witness.
    tell : callable
        Told in a few words what is being done.
    """

    model: Model
    step: Step
    device: str
    backward: bool
    tell: Progress

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return DTYPES[self.device]

    def run(self, implementation: Implementation) -> Executed:
        """Build the model in one way and count it twice."""
        with runtime_errors(self.device, self.model.class_name):
            call, inputs, traced = self.trace(implementation)
        self.tell(f"counting again {self._how(implementation)}")
        if self.device == "meta":
            return self._counted_on_fakes(implementation, call.model, traced)
        with quiet(), runtime_errors(self.device, self.model.class_name):
            kernels, by_module = watched(call, inputs, backward=self.backward)
        return Executed(real=call.model, traced=traced, tensors="real", kernels=kernels, by_module=by_module)

    def trace(self, implementation: Implementation) -> tuple[Call, tuple[Tensor, ...], dict[str, int]]:
        """The model as a call, its inputs, and the FLOPs of each module's own products by fvcore, by path. [FLOP]"""
        self.tell(f"building {self._how(implementation)}")
        with quiet():
            real = build(self.model, implementation, dtype=self.dtype, device=self.device)
            call, inputs = self._prepared(real, self.device, symbolic=self.device == "meta")
            self.tell(f"tracing {self._how(implementation)}")
            return call, inputs, without_wrapper(traced_flops(call, inputs))

    def _how(self, implementation: Implementation) -> str:
        experts = f", experts {implementation.experts}" if implementation.experts else ""
        return f"{self.model.class_name} on {self.device}, attention {implementation.attention}{experts}"

    def _counted_on_fakes(self, implementation: Implementation, real: nn.Module, traced: dict[str, int]) -> Executed:
        """Meta tensors stop FlopCounterMode, so the model is built again of fake ones, which have shapes only too."""
        try:
            with quiet(), FakeTensorMode():
                fake = build(self.model, implementation, dtype=self.dtype, device="cpu", fake=True)
                call, inputs = self._prepared(fake, "cpu", symbolic=True)
                kernels, by_module = watched(call, inputs, backward=self.backward)
        except (RuntimeError, UnsupportedError) as error:
            reason = f"FlopCounterMode cannot run on fake tensors: {first_line(error)}"
            return Executed(real=real, traced=traced, reason=reason)
        return Executed(real=real, traced=traced, tensors="fake", kernels=kernels, by_module=by_module)

    def _prepared(self, real: nn.Module, device: str, *, symbolic: bool) -> tuple[Call, tuple[Tensor, ...]]:
        return prepare(real, self.model.config, self.step, device=device, dtype=self.dtype, symbolic=symbolic)


def watched(call: Call, inputs: tuple[Tensor, ...], *, backward: bool) -> tuple[Kernels, bool]:
    """What FlopCounterMode counts, and whether it charges each module to the one that fvcore does."""
    with watched_calls(call.model) as foreign:
        return counted(call, inputs, backward=backward), not foreign


def without_wrapper(traced: dict[str, int]) -> dict[str, int]:
    """FLOPs of a traced `Call` by the paths of the model inside it; what the call itself multiplies is the model's."""
    outside = traced[""]
    inside = {path.removeprefix(MODEL).removeprefix("."): flops for path, flops in traced.items() if path}
    return inside | {"": inside[""] + outside}


@contextmanager
def runtime_errors(device: str, class_name: str) -> Iterator[None]:
    """What torch and transformers raise where a model cannot run, as an error that the user can put right."""
    try:
        yield
    except (AssertionError, RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnsupportedError(
            f"{class_name} cannot run so on {device}: {first_line(error)}",
            hint="where a model asks for values, which meta tensors do not have, --device cpu can run it"
            if device == "meta"
            else None,
        ) from error


def first_line(error: Exception) -> str:
    """First line of what an error says, or its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
