"""What a comparison of memory found: values that print, compare and turn into JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from planner.verify.peak import Phase
from planner.verify.result import Figure
from planner.workload import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Kept bytes of one part of a model.

    Attributes
    ----------
    name : str
        Path of a block's copies, with ``*`` for the index, or a part outside of them.
    copies : int
        Blocks of that path that keep as much as each other. [-]
    kept : Figure
        Of all of them. [B]
    """

    name: str
    copies: int
    kept: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Most that a whole training step holds at a time.

    Attributes
    ----------
    phases : tuple of Phase
        As counted, for the second step.
    reserved_bytes, device_bytes : int or None
        On CUDA: what its allocator holds, and what is used of the device. [B]
    predicted : dict of str to int
        What is held at the end of forward, while the loss flows back through the logits, while the fullest block and
        the embedding run backward, and in the optimizer's step, as sums of weights, states, gradients and kept tensors.
        The names of moments of backward begin with it. [B]
    """

    phases: tuple[Phase, ...]
    predicted: dict[str, int]
    reserved_bytes: int | None = None
    device_bytes: int | None = None

    def of_phase(self, phase: Phase) -> int | None:
        """Largest predicted sum of a phase; None of forward, where only what it ends with is predicted. [B]"""
        sums = [size for name, size in self.predicted.items() if name.startswith(phase.name)]
        return max(sums, default=None)

    @property
    def figure(self) -> Figure:
        """Largest of the predicted sums, and of the counted peaks. [B]"""
        return Figure(max(self.predicted.values()), max(phase.peak_bytes for phase in self.phases))


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryVerification:
    """One real model in one implementation, trained for a step.

    Attributes
    ----------
    model, class_name, device, dtype, attention : str
        What ran, and how.
    experts : str or None
        Implementation of the experts.
    tensors : str
        ``fake`` or ``real``.
    step : Step
        What was asked of it.
    checkpointing : bool
        Whether blocks are computed again.
    versions : dict of str to str
        Of torch and transformers.
    parts : tuple of Part
        Where kept bytes lie.
    peak : Peak or None
        Of a whole step, where it was asked for.
    """

    model: str
    class_name: str
    device: str
    dtype: str
    attention: str
    experts: str | None
    tensors: str
    step: Step
    checkpointing: bool
    versions: dict[str, str]
    parts: tuple[Part, ...]
    peak: Peak | None

    @property
    def total(self) -> Figure:
        """Over all parts. [B]"""
        return Figure(sum(part.kept.expected for part in self.parts), sum(part.kept.actual for part in self.parts))

    @property
    def exact(self) -> bool:
        """Every part keeps what was predicted."""
        return all(part.kept.difference == 0 for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        peak = self.peak
        return {
            "model": self.model,
            "class": self.class_name,
            "device": self.device,
            "dtype": self.dtype,
            "attention": self.attention,
            "experts": self.experts,
            "tensors": self.tensors,
            "checkpointing": self.checkpointing,
            "versions": self.versions,
            "step": asdict(self.step),
            "exact": self.exact,
            "total": self.total.to_json(),
            "parts": [{"name": part.name, "copies": part.copies, **part.kept.to_json()} for part in self.parts],
            "peak": None if peak is None else {**asdict(peak), **peak.figure.to_json()},
        }
