"""The caches of transformers as the real model fills them, byte for byte against the fold.

What is measured is the tensors that the cache objects hold between two steps, layer by layer. A sliced tensor may hold
on to the storage of a longer one: that is measured beside it, for all layers together.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.cache import Requests, Storage, cache_groups, group_bytes, row_groups, storage
from planner.errors import UnsupportedError
from planner.models import Model
from planner.nodes import Row, walk
from planner.numeric import Num
from planner.real.build import DTYPES, quiet, real_class
from planner.verify.call import CACHE_KEYWORDS, arguments, no_padding
from planner.verify.choices import Implementation, usual
from planner.verify.execute import runtime_errors
from planner.verify.real import build
from planner.workload import Step

CacheClass: TypeAlias = Literal["dynamic", "static"]
"""``dynamic`` grows with the sequence; ``static`` is allocated for its whole length at once."""

TensorKind: TypeAlias = Literal["real", "fake"]
"""Fake tensors have shapes and types and no values, so that a model of any size can be measured."""

Layer: TypeAlias = tuple[Literal["self", "cross"], int]
"""Of the tokens' own cache or of that of an encoder's tokens, and its position there."""

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Types that a model computes in, as the catalog calls them."""

USUAL: dict[TensorKind, torch.dtype] = {"fake": DTYPES["meta"], "real": DTYPES["cpu"]}
"""Type of the weights where nobody says."""

OWN_STATES = ("state",)
"""Outputs of classes that keep a state and take no cache: one tensor for all layers, its last dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCache:
    """What a real model keeps after a step.

    Attributes
    ----------
    layers : mapping of Layer to int
        Bytes of the tensors of each layer that keeps any. [B]
    held_bytes : int
        Of the storages behind them, each once, which a slice may keep longer than it is itself. [B]
    """

    layers: Mapping[Layer, int]
    held_bytes: int


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
    expected = _expected(model, real, step, storage(NAMES[chosen], activations=NAMES[chosen]), cache)
    return CacheCheck(expected=expected, measured=measured.layers, held_bytes=measured.held_bytes)


def _measure(
    model: Model,
    step: Step,
    implementation: Implementation | None,
    *,
    cache: CacheClass,
    tensors: TensorKind,
    dtype: torch.dtype,
) -> tuple[MeasuredCache, nn.Module]:
    if not cache_groups(model.tree):
        raise UnsupportedError(f"{model.class_name} keeps no cache", hint="choose a model that generates")
    chosen = implementation or usual(model, real_class(model.class_name), device="meta" if tensors == "fake" else "cpu")
    # modes are entered once only
    mode: AbstractContextManager[Any] = FakeTensorMode() if tensors == "fake" else nullcontext()
    with quiet(), torch.no_grad(), mode, runtime_errors("cpu", model.class_name):
        real = build(model, chosen, dtype=dtype, device="cpu", fake=tensors == "fake")
        run = _Run(model, real, step, cache, dtype, symbolic=tensors == "fake")
        return run.measured(), real


class _Run:
    """One model and one cache."""

    def __init__(
        self, model: Model, real: Any, step: Step, cache: CacheClass, dtype: torch.dtype, *, symbolic: bool
    ) -> None:
        self._model, self._real, self._step = model, real, step
        self._dtype, self._symbolic = dtype, symbolic
        # A head adds nothing to the cache, and some ask for the place of the last token.
        self._trunk, self._takes = _trunk(real)
        self._keyword = next((name for name in CACHE_KEYWORDS if name in self._takes), None)
        self._own_state = next((name for name in OWN_STATES if name in self._takes), None)
        if self._keyword is None and (self._own_state is None or cache == "static"):
            raise UnsupportedError(f"{type(real).__name__} takes no {cache} cache")
        self._cache = None if self._keyword is None else self._empty(cache)

    def _empty(self, kind: CacheClass) -> Any:
        """Cache as `generate` makes it, but for an encoder's tokens, which no layer sees through a window."""
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

        text = self._real.config.get_text_config(decoder=True)
        encoded = "decoder_input_ids" in self._takes
        if kind == "dynamic":
            if not encoded:
                return DynamicCache(config=text)
            # T5's config states the layers of its encoder, so that a cache made by it may be too short.
            kept = {"config": text} if hasattr(self._real.config, "decoder") else {}
            return EncoderDecoderCache(DynamicCache(**kept), DynamicCache())
        own = StaticCache(config=text, max_cache_len=_tokens(self._step))
        if not encoded:
            return own
        source = getattr(self._real.config, "max_source_positions", None) or int(self._step.source)
        return EncoderDecoderCache(own, StaticCache(config=text, max_cache_len=source))

    def measured(self) -> MeasuredCache:
        """Fill the cache and weigh it."""
        before = {id(tensor) for _, tensor in _plain_tensors(self._trunk)}
        step = self._step
        output: Any = None
        with no_padding(self._trunk.config):
            for tokens in (int(step.past), int(step.sequence_length)):
                if tokens:
                    # What images yield comes first and stays.
                    output = self._call(tokens, output, images=step.images if output is None else 0)
        found = list(self._cached())
        found += [(layer, tensor) for layer, tensor in _plain_tensors(self._trunk) if id(tensor) not in before]
        if self._own_state is not None and self._keyword is None:
            found += _of_all_layers(output[self._own_state])
        return _weighed(found)

    def _call(self, tokens: int, output: Any, *, images: Num) -> Any:
        step = self._step
        part = Step(batch_size=step.batch_size, sequence_length=tokens, source_length=int(step.source), images=images)
        keywords = arguments(
            self._real, self._model.config, part, device="cpu", dtype=self._dtype, symbolic=self._symbolic
        )
        if self._keyword is not None:
            keywords[self._keyword] = self._cache
        elif output is not None:
            keywords[self._own_state or ""] = output[self._own_state]
        if "use_cache" in self._takes:
            keywords["use_cache"] = True
        return self._trunk(**keywords)

    def _cached(self) -> Iterator[tuple[Layer, Tensor]]:
        cache = self._cache
        if cache is None:
            return
        own = getattr(cache, "self_attention_cache", cache)
        cross = getattr(cache, "cross_attention_cache", None)
        for index, layer in enumerate(own.layers):
            yield from ((("self", index), tensor) for tensor in _tensors(vars(layer)))
        for index, layer in enumerate([] if cross is None else cross.layers):
            yield from ((("cross", index), tensor) for tensor in _tensors(vars(layer)))


def _trunk(real: Any) -> tuple[Any, Mapping[str, inspect.Parameter]]:
    """The model without its head, and what it takes; the whole where that is a wrapper which does not say."""
    takes = inspect.signature(real.base_model.forward).parameters
    if any(name in takes for name in (*CACHE_KEYWORDS, *OWN_STATES)):
        return real.base_model, takes
    return real, inspect.signature(real.forward).parameters


def _tokens(step: Step) -> int:
    return int(step.past + step.sequence_length)


def _tensors(value: object) -> Iterator[Tensor]:
    """Tensors of numbers in attributes, lists and mappings; those of whole numbers are places and lengths."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _plain_tensors(trunk: nn.Module) -> Iterator[tuple[Layer, Tensor]]:
    """Tensors that modules of layers keep as attributes, neither parameters nor buffers, as RecurrentGemma's do."""
    for name, module in trunk.named_modules():
        index = _first_number(name)
        if index is not None:
            for value in vars(module).values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    yield ("self", index), value


def _first_number(path: str) -> int | None:
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return None if found is None else int(found.group(1))


def _of_all_layers(states: list[Tensor]) -> Iterator[tuple[Layer, Tensor]]:
    for state in states:
        for index in range(state.shape[-1]):
            yield ("self", index), state[..., index]


def _weighed(found: list[tuple[Layer, Tensor]]) -> MeasuredCache:
    layers: dict[Layer, int] = {}
    seen: set[int] = set()
    storages: dict[int, int] = {}
    for layer, tensor in found:
        # One tensor may go by two names, as keys that are the values do.
        if id(tensor) in seen or tensor.numel() == 0:
            continue
        seen.add(id(tensor))
        layers[layer] = layers.get(layer, 0) + tensor.numel() * tensor.element_size()
        held = tensor.untyped_storage()
        storages[held._cdata] = held.nbytes()  # noqa: SLF001 - what tells storages apart, of fake tensors too
    return MeasuredCache(layers=layers, held_bytes=sum(storages.values()))


def _expected(model: Model, real: nn.Module, step: Step, kept_in: Storage, cache: CacheClass) -> dict[Layer, int]:
    requests = Requests(sequences=step.batch_size, tokens=_tokens(step), source_tokens=step.source, images=step.images)
    expected: dict[Layer, int] = {}
    for row in walk(model.tree):
        for group in row_groups(row, cache):
            size = int(group_bytes(group, requests, kept_in, layout=cache))
            if size == 0 or int(row.runs) == 0:
                continue
            name: Literal["self", "cross"] = "cross" if group.kind == "cross" else "self"
            for path in row.real_paths():
                layer = (name, _layer_of(real, row, path))
                expected[layer] = expected.get(layer, 0) + int(row.runs) * size
    return expected


def _layer_of(real: nn.Module, row: Row, path: str) -> int:
    """Position in the cache that a module says it has, or that of its block where it does not say."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        index = getattr(real.get_submodule(".".join(parts[:end])), "layer_idx", None)
        if isinstance(index, int):
            return index
    index = _first_number(path)
    if index is None:
        raise UnsupportedError(f"{row.path} stands in no layer")
    return index
