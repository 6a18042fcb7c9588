"""Whether an engine starts, in words: what is missing, by how much, and which flags would make it start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from planner.devices import Device
from planner.engines import Engine
from planner.errors import PlannerError
from planner.models import Model
from planner.numeric import Num
from planner.serving.ask import allowed_degrees, first_that_starts, longest_context
from planner.serving.options import Limits, ServeOptions, changed
from planner.serving.peak import images_are_unbounded
from planner.serving.serve import Serving, serve_on
from planner.units import format_gib

FEWER_SEQUENCES = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
FEWER_TOKENS = (8192, 4096, 2048, 1024, 512)
HIGHER_SHARES = (0.92, 0.94, 0.95, 0.96, 0.97, 0.98)
OFFLOADED = tuple(range(1, 513))
QUANTISED = (("fp8", "fp8"), ("awq", "awq-int4"))
"""Flags of weights that are stored in less, and the formats that they mean."""

SHORTEST_USEFUL = 1024
"""A context below this is no remedy. [token]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change that makes an engine start, evaluated.

    Attributes
    ----------
    flags : str
        As they are typed.
    options : ServeOptions
        With the change.
    serving : Serving
        What follows from it.
    effect : str
        In words: concurrency and pool.
    """

    flags: str
    options: ServeOptions
    serving: Serving
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an engine starts.

    Attributes
    ----------
    starts : bool
        Whether one request at full length fits.
    reasons : tuple of str
        What is missing, and by how many GiB; empty where it starts.
    suggestions : tuple of Suggestion
        Changes that make it start, each evaluated; empty where it starts.
    warnings : tuple of str
        What may still go wrong outside of the engine's own budget.
    """

    starts: bool
    reasons: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    warnings: tuple[str, ...]


def verdict(
    model: Model,
    engine: Engine,
    memory_bytes: Num,
    options: ServeOptions,
    serving: Serving,
    device: Device | None = None,
) -> Verdict:
    """Verdict on single numbers.

    Parameters
    ----------
    model, engine, memory_bytes, options, device
        What `serving` was asked with.
    serving : Serving
        Its answer.
    """
    starts = bool(serving.starts)
    case = _Case(model, engine, memory_bytes, device, serving.limits)
    suggestions = () if starts else tuple(case.suggestions(options))
    return Verdict(
        starts=starts,
        reasons=() if starts else tuple(_reasons(serving)),
        suggestions=suggestions,
        warnings=tuple(_warnings(model, serving, options)),
    )


def _reasons(serving: Serving) -> Iterator[str]:
    stage, limits = serving.worst, serving.limits
    if serving.longest is not None and limits.max_model_len > serving.longest:
        yield (
            f"max_model_len {int(limits.max_model_len):,} is beyond the {serving.longest:,} positions of the model, "
            f"which {serving.engine.kind} refuses"
        )
        if serving.concurrency >= 1:
            return
    where = "" if len(serving.stages) == 1 else f" on pipeline stage {stage.stage.index}"
    left, needed = stage.pool_bytes, stage.pool.request_bytes
    if left < 0:
        taken = stage.weights_bytes + stage.peak_bytes + stage.non_torch_bytes
        yield (
            f"no room for a cache{where}: weights {format_gib(stage.weights_bytes)}, "
            f"peak {format_gib(stage.peak_bytes)} and non-torch {format_gib(stage.non_torch_bytes)} GiB "
            f"take {format_gib(taken)} GiB, {format_gib(-left)} GiB more than "
            f"gpu_memory_utilization {limits.gpu_memory_utilization:g} of {format_gib(serving.memory_bytes)} GiB allows"
        )
        return
    yield (
        f"one request of max_model_len {int(limits.max_model_len):,} needs {format_gib(needed)} GiB of cache{where}, "
        f"and {format_gib(left)} GiB are left: {format_gib(max(needed - left, 0))} GiB are missing, "
        f"the pool holds {int(stage.tokens):,} tokens"
    )


def _warnings(model: Model, serving: Serving, options: ServeOptions) -> Iterator[str]:
    if serving.engine.kind == "vllm" and images_are_unbounded(model.raw):
        yield (
            "the profile run encodes the largest image that the model reads, whose size stands in "
            "preprocessor_config.json: here images fill a step, and larger ones leave less for the cache"
        )
    outside = serving.device_bytes - serving.memory_bytes
    if serving.starts and outside > 0:
        way_out = "" if options.enforce_eager else " or --enforce-eager"
        yield (
            f"CUDA's context and graphs lie outside of the budget and need about {format_gib(outside)} GiB "
            f"more than the device has: a lower --gpu-memory-utilization{way_out} leaves room for them"
        )


@dataclass(frozen=True, slots=True)
class _Case:
    """What stays the same while flags change."""

    model: Model
    engine: Engine
    memory_bytes: Num
    device: Device | None
    limits: Limits

    def suggestions(self, options: ServeOptions) -> Iterator[Suggestion]:
        """Single changes that suffice; where none does, single changes beside one that is made already."""
        for base, prefix in self._bases(options):
            found = list(self._single(base, prefix))
            yield from found
            if found:
                return

    def _bases(self, options: ServeOptions) -> Iterator[tuple[ServeOptions, str]]:
        yield options, ""
        if options.kv_cache_dtype == "auto":
            yield changed(options, kv_cache_dtype="fp8"), "--kv-cache-dtype fp8 "
        if options.quantization is None:
            flag, name = QUANTISED[0]
            both = changed(options, quantization=name, kv_cache_dtype="fp8")
            yield both, f"--quantization {flag} --kv-cache-dtype fp8 "

    def _single(self, base: ServeOptions, prefix: str) -> Iterator[Suggestion]:
        limits, vllm = self.limits, self.engine.kind == "vllm"
        length = longest_context(
            self.model, self.engine, self.memory_bytes, base, self.device, most=int(limits.max_model_len)
        ).value
        if isinstance(length, int) and SHORTEST_USEFUL <= length < limits.max_model_len:
            yield from self._made(base, prefix, "max_model_len", length)
        if vllm:
            yield from self._first(base, prefix, "max_num_seqs", below(limits.max_num_seqs, FEWER_SEQUENCES))
            fewer = below(limits.max_num_batched_tokens, FEWER_TOKENS)
            yield from self._first(base, prefix, "max_num_batched_tokens", fewer)
        shares = tuple(share for share in HIGHER_SHARES if share > limits.gpu_memory_utilization)
        yield from self._first(base, prefix, "gpu_memory_utilization", shares)
        if base.kv_cache_dtype == "auto":
            yield from self._made(base, prefix, "kv_cache_dtype", "fp8")
        degrees = tuple(ranks for ranks in allowed_degrees(self.model) if ranks > base.tensor_parallel_size)
        yield from self._first(base, prefix, "tensor_parallel_size", degrees)
        if base.quantization is None:
            for flag, name in QUANTISED:
                yield from self._made(base, prefix, "quantization", name, flag)
        if vllm and base.cpu_offload_gb == 0:
            yield from self._first(base, prefix, "cpu_offload_gb", OFFLOADED)

    def _first(self, base: ServeOptions, prefix: str, name: str, candidates: tuple[float, ...]) -> Iterator[Suggestion]:
        found = first_that_starts(self.model, self.engine, self.memory_bytes, base, self.device, name, candidates)
        if found is not None:
            yield from self._made(base, prefix, name, found.value)

    def _made(
        self, base: ServeOptions, prefix: str, name: str, value: object, typed: str | None = None
    ) -> Iterator[Suggestion]:
        """The change, if it suffices: every suggestion is evaluated, and its graphs must fit beside it."""
        options = changed(base, **{name: value})
        try:
            answer = serve_on(self.model, self.engine, self.memory_bytes, options, device=self.device)
        except PlannerError:
            return  # the model or the engine cannot do it
        # Graphs and context lie outside of the budget: a share that leaves them no room is no remedy.
        if answer.starts and answer.device_bytes <= self.memory_bytes:
            flag = self._flag(name)
            yield Suggestion(
                flags=f"{prefix}{flag} {value if typed is None else typed}",
                options=options,
                serving=answer,
                effect=_effect(answer),
            )

    def _flag(self, name: str) -> str:
        if name == "gpu_memory_utilization":
            return self.engine.word("utilization_flag", "--gpu-memory-utilization")
        return f"--{name.replace('_', '-')}"


def below(limit: Num, candidates: tuple[int, ...]) -> tuple[int, ...]:
    """Candidates that are smaller than a limit."""
    return tuple(number for number in candidates if number < limit)


def _effect(serving: Serving) -> str:
    return (
        f"pool {format_gib(serving.worst.pool_bytes)} GiB, {int(serving.kv_tokens):,} tokens, "
        f"{float(serving.concurrency):.2f} requests of {int(serving.limits.max_model_len):,} tokens"
    )
