"""What a comparison of caches found: values that print, compare and turn into JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from planner.verify.result import Figure
from planner.workload import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """Layers that keep the same kinds of things.

    Attributes
    ----------
    name : str
        Kinds as `planner.cache` calls them, such as ``full`` or ``state + convolution``.
    layers : int
        How many. [-]
    kept : Figure
        Of all of them. [B]
    different : int
        Layers of them that do not keep what was predicted. [-]
    """

    name: str
    layers: int
    kept: Figure
    different: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InferencePhase:
    """One call of a model with a cache.

    Attributes
    ----------
    name : str
        ``prefill`` or ``decode``.
    tokens : int
        New ones of each sample. [token]
    kinds : tuple of LayerKind
        What the cache holds behind it.
    storages_bytes : int
        Of the storages of the cache, which may be longer than what is cut from them. [B]
    held : Figure
        Weights and cache, against all that is held behind the call. [B]
    peak : Figure
        The same sum, against the most that was held at a time. [B]
    """

    name: str
    tokens: int
    kinds: tuple[LayerKind, ...]
    storages_bytes: int
    held: Figure
    peak: Figure

    @property
    def total(self) -> Figure:
        """Over all layers. [B]"""
        return Figure(sum(kind.kept.expected for kind in self.kinds), sum(kind.kept.actual for kind in self.kinds))

    @property
    def exact(self) -> bool:
        """Every layer keeps what was predicted."""
        return all(kind.different == 0 for kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        kinds = [
            {"name": kind.name, "layers": kind.layers, "different": kind.different, **kind.kept.to_json()}
            for kind in self.kinds
        ]
        return {
            "name": self.name,
            "tokens": self.tokens,
            "exact": self.exact,
            "total": self.total.to_json(),
            "kinds": kinds,
            "storages_bytes": self.storages_bytes,
            "held": self.held.to_json(),
            "peak": self.peak.to_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceVerification:
    """One real model in one implementation, which reads a prompt and goes on.

    Attributes
    ----------
    model, class_name : str
        What ran.
    device, dtype, attention : str
        How.
    experts : str or None
        Implementation of the experts.
    tensors : str
        ``fake`` or ``real``.
    cache : str
        ``dynamic`` or ``static``.
    has_head : bool
        Logits of the last token were computed as well.
    step : Step
        What was asked of it.
    versions : dict of str to str
        Of torch and transformers.
    phases : tuple of InferencePhase
        Prefill and decode.
    reserved_bytes, device_bytes : int or None
        On CUDA: what its allocator holds, and what is used of the device. [B]
    """

    model: str
    class_name: str
    device: str
    dtype: str
    attention: str
    experts: str | None
    tensors: str
    cache: str
    has_head: bool
    step: Step
    versions: dict[str, str]
    phases: tuple[InferencePhase, ...]
    reserved_bytes: int | None = None
    device_bytes: int | None = None

    @property
    def exact(self) -> bool:
        """Every layer keeps what was predicted, behind every call."""
        return all(phase.exact for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        return {
            "model": self.model,
            "class": self.class_name,
            "device": self.device,
            "dtype": self.dtype,
            "attention": self.attention,
            "experts": self.experts,
            "tensors": self.tensors,
            "cache": self.cache,
            "has_head": self.has_head,
            "versions": self.versions,
            "step": asdict(self.step),
            "exact": self.exact,
            "phases": [phase.to_json() for phase in self.phases],
            "reserved_bytes": self.reserved_bytes,
            "device_bytes": self.device_bytes,
        }
