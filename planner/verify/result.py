"""What a verification found: a value that prints, compares and turns into JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from planner.verify.compare import Difference
from planner.workload import Step


def versions() -> dict[str, str]:
    """Of what was compared with."""
    return {name: version(name) for name in ("torch", "transformers", "fvcore")}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, by the planner and by the real model.

    Attributes
    ----------
    expected, actual : int
        Parameters, or FLOPs at 2 a multiply-add.
    """

    expected: int
    actual: int

    @property
    def difference(self) -> int:
        """What the planner counts too little; 0 is the proof."""
        return self.actual - self.expected

    def to_json(self) -> dict[str, int]:
        """The three numbers."""
        return {"expected": self.expected, "actual": self.actual, "difference": self.difference}


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What torch's FlopCounterMode counted, where it could run.

    Attributes
    ----------
    tensors : str or None
        ``real``, or ``fake`` (shapes only, on the CPU's kernels); None where it did not run.
    reason : str or None
        Why it did not.
    forward : Figure or None
        All products. [FLOP]
    backward : Figure or None
        All products of the gradients, where they were asked for. [FLOP]
    fused_attention : int
        Modules whose attention ran in a fused kernel, which computes its scores again in backward. [-]
    """

    tensors: str | None = None
    reason: str | None = None
    forward: Figure | None = None
    backward: Figure | None = None
    fused_attention: int = 0

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Those that were measured."""
        return tuple(figure for figure in (self.forward, self.backward) if figure is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The part of a verification that is about matrix products; see `Verification`."""

    flops: Figure
    modules: int
    witness: Witness
    differences: tuple[Difference, ...]
    apart: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """One real model, built and run in one way, against the planner's tree.

    Attributes
    ----------
    model, class_name : str
        What was asked for, and the class of transformers.
    device, dtype, attention : str
        Where and how it ran.
    experts : str or None
        Implementation of the experts; None where there are none.
    step : Step or None
        What was asked of it; None where inputs of the user's were given to a module of the user's.
    versions : dict of str to str
        Of torch, transformers and fvcore.
    parameters : Figure
        Parameters, tied ones once. [-]
    flops : Figure
        Matrix products of the forward pass, counted by fvcore. [FLOP]
    tensors, modules : int
        Parameter tensors, and modules with products of their own, that were compared one by one. [-]
    witness : Witness
        The second count.
    differences : tuple of Difference
        Paths that do not agree.
    apart : int
        What the real model multiplies in recurrences, which is not compared. [FLOP]
    notes : tuple of str
        What was left out, and why.
    seconds : float
        Building, tracing and counting. [s]
    builder : bool
        The products are the planner's against the real model's. Where there is no builder, they are fvcore's against
        FlopCounterMode's, and the parameters those of the modules that were read off.
    inputs : tuple of tuple of int
        Shapes of the user's inputs, where there is no step. [-]
    """

    model: str
    class_name: str
    device: str
    dtype: str
    attention: str
    experts: str | None
    step: Step | None
    versions: dict[str, str]
    parameters: Figure
    flops: Figure
    tensors: int
    modules: int
    witness: Witness
    differences: tuple[Difference, ...]
    apart: int = 0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    builder: bool = True
    inputs: tuple[tuple[int, ...], ...] = ()

    @property
    def exact(self) -> bool:
        """No path differs, and every total of every witness is the planner's."""
        figures = (self.parameters, self.flops, *self.witness.figures)
        return not self.differences and all(figure.difference == 0 for figure in figures)

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        witness = {
            "tensors": self.witness.tensors,
            "reason": self.witness.reason,
            "forward_flops": self.witness.forward.to_json() if self.witness.forward else None,
            "backward_flops": self.witness.backward.to_json() if self.witness.backward else None,
            "fused_attention": self.witness.fused_attention,
        }
        return {
            "model": self.model,
            "class": self.class_name,
            "device": self.device,
            "dtype": self.dtype,
            "attention": self.attention,
            "experts": self.experts,
            "step": asdict(self.step) if self.step else None,
            "inputs": [list(shape) for shape in self.inputs],
            "versions": self.versions,
            "exact": self.exact,
            "builder": self.builder,
            "parameters": self.parameters.to_json(),
            "forward_flops": self.flops.to_json(),
            "scans_not_compared": self.apart,
            "tensors": self.tensors,
            "modules": self.modules,
            "witness": witness,
            "differences": [asdict(difference) for difference in self.differences],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }
