"""The caches of transformers as the real model fills them, byte for byte against the fold.

What is measured is the tensors that the cache objects hold between two steps, layer by layer. A sliced tensor may hold
on to the storage of a longer one: that is measured beside it, for all layers together.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.cache import Kind, Requests, Storage, cache_groups, group_bytes, row_groups, storage
from planner.errors import UnsupportedError
from planner.models import Model
from planner.nodes import Row, walk
from planner.real.build import DTYPES, quiet, real_class
from planner.verify.cache_run import CacheClass, CacheRun, Layer, MeasuredCache, all_tokens, first_number
from planner.verify.choices import Implementation, usual
from planner.verify.execute import runtime_errors
from planner.verify.real import build
from planner.workload import Step

TensorKind: TypeAlias = Literal["real", "fake"]
"""Fake tensors have shapes and types and no values, so that a model of any size can be measured."""

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Types that a model computes in, as the catalog calls them."""

USUAL: dict[TensorKind, torch.dtype] = {"fake": DTYPES["meta"], "real": DTYPES["cpu"]}
"""Type of the weights where nobody says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCheck:
    """A measured cache beside the fold.

    Attributes
    ----------
    expected, measured : mapping of Layer to int
        Bytes of each layer, by the tree and in the real model. [B]
    held_bytes : int
        As for `MeasuredCache`. [B]
    """

    expected: Mapping[Layer, int]
    measured: Mapping[Layer, int]
    held_bytes: int

    @property
    def exact(self) -> bool:
        """Whether every layer keeps what the fold says, to the byte."""
        return dict(self.expected) == dict(self.measured)

    @property
    def differences(self) -> list[str]:
        """One line for each layer that does not."""
        return [
            f"{name} layer {index}: {self.expected.get((name, index), 0):,} B expected, "
            f"{self.measured.get((name, index), 0):,} B in the real cache"
            for name, index in sorted(self.expected.keys() | self.measured.keys())
            if self.expected.get((name, index), 0) != self.measured.get((name, index), 0)
        ]


def measure_cache(
    model: Model,
    step: Step,
    implementation: Implementation | None = None,
    *,
    cache: CacheClass = "dynamic",
    tensors: TensorKind = "real",
    dtype: torch.dtype | None = None,
) -> MeasuredCache:
    """Bytes that the real model keeps after a step, layer by layer.

    Parameters
    ----------
    model : Model
        Its tree and its class.
    step : Step
        With a past, that many tokens are processed first, and the new ones afterwards.
    implementation : Implementation, optional
        How transformers runs it; its own choice where it is left out.
    cache : str
        See `CacheClass`.
    tensors : str
        See `TensorKind`.
    dtype : torch.dtype, optional
        Of the weights, and so of what is cached: bf16, or fp32 for real tensors, where it is left out.

    Raises
    ------
    UnsupportedError
        The class keeps no cache, or cannot run so.
    """
    measured, _ = _measure(model, step, implementation, cache=cache, tensors=tensors, dtype=dtype or USUAL[tensors])
    return measured


def check_cache(
    model: Model,
    step: Step,
    implementation: Implementation | None = None,
    *,
    cache: CacheClass = "dynamic",
    tensors: TensorKind = "real",
    dtype: torch.dtype | None = None,
) -> CacheCheck:
    """The same, beside what `planner.cache` says of the tree; parameters and errors as for `measure_cache`."""
    chosen = dtype or USUAL[tensors]
    measured, real = _measure(model, step, implementation, cache=cache, tensors=tensors, dtype=chosen)
    kinds = expected_kinds(model, real, step, all_tokens(step), kept_in=stored_as(chosen), cache=cache)
    expected = {layer: sum(sizes.values()) for layer, sizes in kinds.items()}
    return CacheCheck(expected=expected, measured=measured.layers, held_bytes=measured.held_bytes)


def refuse_without_cache(model: Model) -> None:
    """Raise `UnsupportedError` for a model that keeps nothing between steps."""
    if not cache_groups(model.tree):
        raise UnsupportedError(f"{model.class_name} keeps no cache", hint="choose a model that generates")


def stored_as(dtype: torch.dtype) -> Storage:
    """In what the caches of transformers store what a model of a dtype computes."""
    return storage(NAMES[dtype], activations=NAMES[dtype])


def _measure(
    model: Model,
    step: Step,
    implementation: Implementation | None,
    *,
    cache: CacheClass,
    tensors: TensorKind,
    dtype: torch.dtype,
) -> tuple[MeasuredCache, nn.Module]:
    refuse_without_cache(model)
    chosen = implementation or usual(model, real_class(model.class_name), device="meta" if tensors == "fake" else "cpu")
    # modes are entered once only
    mode: AbstractContextManager[Any] = FakeTensorMode() if tensors == "fake" else nullcontext()
    with quiet(), torch.no_grad(), mode, runtime_errors("cpu", model.class_name):
        real = build(model, chosen, dtype=dtype, device="cpu", fake=tensors == "fake")
        run = CacheRun(model, real, step, cache, dtype, symbolic=tensors == "fake")
        for tokens in (int(step.past), int(step.sequence_length)):
            if tokens:
                run.call(tokens)
        return run.weighed(), real


def expected_kinds(
    model: Model, real: nn.Module, step: Step, tokens: int, *, kept_in: Storage, cache: CacheClass
) -> dict[Layer, dict[Kind, int]]:
    """What every layer keeps by the tree, kind by kind.

    Parameters
    ----------
    model : Model
        Its tree.
    real : nn.Module
        The real model, which says what layer of the cache a module fills.
    step : Step
        Samples, and what they read besides text.
    tokens : int
        Of each sample that the cache has seen, or has room for where it is static. [token]
    kept_in : Storage
        Types.
    cache : str
        See `CacheClass`.

    Returns
    -------
    dict of Layer to dict of Kind to int
        A layer that keeps nothing is left out. [B]
    """
    requests = Requests(sequences=step.batch_size, tokens=tokens, source_tokens=step.source, images=step.images)
    expected: dict[Layer, dict[Kind, int]] = {}
    for row in walk(model.tree):
        for group in row_groups(row, cache):
            size = int(group_bytes(group, requests, kept_in, layout=cache))
            if size == 0 or int(row.runs) == 0:
                continue
            name: Literal["self", "cross"] = "cross" if group.kind == "cross" else "self"
            for path in row.real_paths():
                sizes = expected.setdefault((name, _layer_of(real, row, path)), {})
                sizes[group.kind] = sizes.get(group.kind, 0) + int(row.runs) * size
    return expected


def _layer_of(real: nn.Module, row: Row, path: str) -> int:
    """Position in the cache that a module says it has, or that of its block where it does not say."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        index = getattr(real.get_submodule(".".join(parts[:end])), "layer_idx", None)
        if isinstance(index, int):
            return index
    index = first_number(path)
    if index is None:
        raise UnsupportedError(f"{row.path} stands in no layer")
    return index
