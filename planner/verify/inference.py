"""A prefill and a decode step of the real model: what its cache holds, layer by layer, and what is held in all."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import chain
from typing import Any, get_args

import torch

from planner.cache import Kind, Requests, cache_bytes
from planner.counts import count
from planner.errors import UnsupportedError
from planner.models import BUILDER, Model
from planner.real.build import quiet, real_class
from planner.verify.cache import expected_kinds, refuse_without_cache, stored_as
from planner.verify.cache_run import CacheClass, CacheRun, Layer, MeasuredCache, all_tokens
from planner.verify.choices import ALL, AUTO, DEVICES, Implementation, check_choice, implementations
from planner.verify.execute import Progress, runtime_errors
from planner.verify.fake import fake_tensors
from planner.verify.free_memory import needed_bytes, refuse_what_does_not_fit
from planner.verify.inference_result import InferencePhase, InferenceVerification, LayerKind
from planner.verify.peak import Counter, CudaCounter, StorageCounter
from planner.verify.real import build
from planner.verify.result import Figure, versions
from planner.workload import Step

CACHES: tuple[str, ...] = get_args(CacheClass)

INFERENCE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

UNFORESEEN = "not foreseen"
"""Layers that keep something although the tree has nothing to keep there."""


def verify_inference(
    model: Model,
    *,
    step: Step,
    cache: str = "dynamic",
    device: str = "meta",
    attention: str = ALL,
    experts: str = AUTO,
    dtype: str = "bf16",
    progress: Progress | None = None,
) -> list[InferenceVerification]:
    """Let the real model read a prompt and go on, and compare its cache with the fold over its tree.

    Parameters
    ----------
    model : Model
        What to verify; it must have a builder, and keep a cache.
    step : Step
        With a past, that many tokens are the prompt, and the new ones go on; else the new ones are the prompt, and one
        token goes on.
    cache : str
        Class of transformers: ``dynamic`` or ``static``, which has room for all tokens of the step.
    device : str
        ``meta`` runs on fake tensors with the kernels of a CPU; ``cpu``, ``cuda``.
    attention, experts : str
        As `planner.verify.verify` has them.
    dtype : str
        ``fp32`` or ``bf16`` weights.
    progress : callable, optional
        Told in a few words what is being done.

    Raises
    ------
    UnknownNameError
        A word that is no choice.
    UnsupportedError
        It cannot run.
    """
    check_choice("cache", cache, CACHES)
    check_choice("device", device, DEVICES)
    check_choice("dtype", dtype, tuple(INFERENCE_DTYPES))
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("this torch sees no CUDA device", key="device", hint="choose meta or cpu")
    if model.method != BUILDER:
        raise UnsupportedError(f"{model.class_name} has no builder, so nothing predicts its cache", key="cache")
    refuse_without_cache(model)
    chosen, _ = implementations(
        model, real_class(model.class_name), device=device, attention=attention, experts=experts
    )
    tell = progress or (lambda _: None)
    return [_Inference(model, step, cache, device, how, dtype).verification(tell) for how in chosen]


class _Inference:
    """One implementation."""

    def __init__(
        self, model: Model, step: Step, cache: Any, device: str, implementation: Implementation, dtype: str
    ) -> None:
        self._model, self._device, self._how, self._dtype = model, device, implementation, dtype
        self._cache: CacheClass = cache
        self._asked = step
        prompt, new = (step.past, step.sequence_length) if step.past else (step.sequence_length, 1)
        self._calls = {"prefill": int(prompt), "decode": int(new)}
        self._step = Step(
            batch_size=step.batch_size,
            sequence_length=int(new),
            past=int(prompt),
            source_length=step.source,
            images=step.images,
        )
        self._weights = INFERENCE_DTYPES[dtype]
        self._kept_in = stored_as(self._weights)

    def verification(self, tell: Progress) -> InferenceVerification:
        fake = self._device == "meta"
        if not fake:
            refuse_what_does_not_fit(self._needed(), self._device)
        tell(f"running {self._model.class_name} with attention {self._how.attention} and a {self._cache} cache")
        device = "cpu" if fake else self._device
        # what was run before is no part of what is held
        gc.collect()
        with (
            quiet(),
            torch.no_grad(),
            runtime_errors(self._device, self._model.class_name),
            fake_tensors() if fake else nullcontext(),
        ):
            real: Any = build(self._model, self._how, dtype=self._weights, device=device, fake=fake)
            run = CacheRun(
                self._model,
                real,
                self._step,
                self._cache,
                self._weights,
                device=device,
                symbolic=fake,
                whole=True,
            )
            held = chain(real.parameters(), real.buffers())
            counter: Counter = CudaCounter() if device == "cuda" else StorageCounter(held)
            phases = tuple(self._phases(run, real, counter))
        allocator: dict[str, int] = {}
        if device == "cuda":
            free, whole = torch.cuda.mem_get_info()
            allocator = {"reserved_bytes": torch.cuda.max_memory_reserved(), "device_bytes": whole - free}
        return InferenceVerification(
            model=self._model.name,
            class_name=self._model.class_name,
            device=self._device,
            dtype=self._dtype,
            attention=self._how.attention,
            experts=self._how.experts,
            tensors="fake" if fake else "real",
            cache=self._cache,
            has_head=run.has_head,
            step=self._asked,
            versions={name: found for name, found in versions().items() if name != "fvcore"},
            phases=phases,
            **allocator,
        )

    def _phases(self, run: CacheRun, real: Any, counter: Counter) -> list[InferencePhase]:
        seen, phases = 0, []
        with counter.running():
            for name, tokens in self._calls.items():
                counter.restart()
                run.call(tokens)
                peak, held = counter.held()
                seen += tokens
                room = all_tokens(self._step) if self._cache == "static" else seen
                expected = expected_kinds(self._model, real, self._step, room, kept_in=self._kept_in, cache=self._cache)
                measured = run.weighed()
                kinds = tuple(layer_kinds(expected, measured))
                resident = self._weights_bytes() + sum(kind.kept.expected for kind in kinds)
                phases.append(
                    InferencePhase(
                        name=name,
                        tokens=tokens,
                        kinds=kinds,
                        storages_bytes=measured.held_bytes,
                        held=Figure(resident, held),
                        peak=Figure(resident, peak),
                    )
                )
        return phases

    def _weights_bytes(self) -> int:
        return int(count(self._model.tree).total) * self._weights.itemsize

    def _needed(self) -> int:
        """Rough memory of the longer call, and of the cache. [B]"""
        step = self._step
        longest = Step(
            batch_size=step.batch_size,
            sequence_length=max(self._calls.values()),
            source_length=step.source,
            images=step.images,
        )
        requests = Requests(
            sequences=step.batch_size, tokens=all_tokens(step), source_tokens=step.source, images=step.images
        )
        cached = cache_bytes(self._model.tree, requests, self._kept_in, layout=self._cache).total_bytes
        return int(cached) + needed_bytes(
            self._model.tree, longest, self._weights.itemsize, experts=self._how.experts, backward=False
        )


def layer_kinds(expected: Mapping[Layer, Mapping[Kind, int]], measured: MeasuredCache) -> Iterator[LayerKind]:
    """Layers that keep the same kinds, side by side with what the real cache holds of them."""
    groups: dict[str, list[Figure]] = {}
    for layer in dict.fromkeys((*expected, *measured.layers)):
        sizes = expected.get(layer, {})
        figure = Figure(sum(sizes.values()), measured.layers.get(layer, 0))
        groups.setdefault(" + ".join(sizes) or UNFORESEEN, []).append(figure)
    for name, figures in groups.items():
        yield LayerKind(
            name=name,
            layers=len(figures),
            kept=Figure(sum(one.expected for one in figures), sum(one.actual for one in figures)),
            different=sum(one.difference != 0 for one in figures),
        )
