"""A real model that fills a cache call by call, and the bytes that the cache holds, layer by layer."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from planner.errors import UnsupportedError
from planner.models import Model
from planner.verify.call import CACHE_KEYWORDS, ENCODER_INPUTS, arguments, no_padding
from planner.workload import Step

CacheClass: TypeAlias = Literal["dynamic", "static"]
"""``dynamic`` grows with the sequence; ``static`` is allocated for its whole length at once."""

Layer: TypeAlias = tuple[Literal["self", "cross"], int]
"""Of the tokens' own cache or of that of an encoder's tokens, and its position there."""

OWN_STATES = ("state",)
"""Outputs of classes that keep a state and take no cache: one tensor for all layers, its last dimension."""

LAST_LOGITS = "logits_to_keep"
"""What classes that generate call the number of positions whose logits are computed."""


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


class CacheRun:
    """One model and one cache, which is empty at first.

    Parameters
    ----------
    model : Model
        The planner's.
    real : PreTrainedModel
        The real one.
    step : Step
        Samples, and all of their tokens, of which a static cache has room for.
    cache : str
        See `CacheClass`.
    dtype : torch.dtype
        Of the weights.
    device : str
        Where they lie.
    symbolic : bool
        Tensors have no values.
    whole : bool
        Run the head as well, for the last token, where the class can; else what lies below it, which fills the cache.

    Raises
    ------
    UnsupportedError
        The class takes no such cache.
    """

    def __init__(
        self,
        model: Model,
        real: Any,
        step: Step,
        cache: CacheClass,
        dtype: torch.dtype,
        *,
        device: str = "cpu",
        symbolic: bool,
        whole: bool = False,
    ) -> None:
        self._model, self._real, self._step = model, real, step
        self._dtype, self._device, self._symbolic = dtype, device, symbolic
        self._runs, self._takes = _runnable(real, whole=whole)
        self._keyword = next((name for name in CACHE_KEYWORDS if name in self._takes), None)
        self._own_state = next((name for name in OWN_STATES if name in self._takes), None)
        if self._keyword is None and (self._own_state is None or cache == "static"):
            raise UnsupportedError(f"{type(real).__name__} takes no {cache} cache")
        self._cache = None if self._keyword is None else self._empty(cache)
        self._before = {id(tensor) for _, tensor in _plain_tensors(self._runs)}
        self._handed_on: dict[str, Any] = {}
        self._begun = False

    @property
    def has_head(self) -> bool:
        """Whether a call computes logits."""
        return LAST_LOGITS in self._takes

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
        own = StaticCache(config=text, max_cache_len=all_tokens(self._step))
        if not encoded:
            return own
        source = getattr(self._real.config, "max_source_positions", None) or int(self._step.source)
        return EncoderDecoderCache(own, StaticCache(config=text, max_cache_len=source))

    def call(self, tokens: int) -> None:
        """Process some tokens of every sample; what images and an encoder yield comes with the first ones."""
        keywords = self.keywords(tokens)
        with no_padding(self._runs.config):
            output = self._runs(**keywords)
        self._begun = True
        if self._keyword is None:
            self._handed_on = {self._own_state or "": output[self._own_state]}
        elif (
            encoded := getattr(output, "encoder_last_hidden_state", None)
        ) is not None and "encoder_outputs" in self._takes:
            from transformers.modeling_outputs import BaseModelOutput

            self._handed_on = {"encoder_outputs": BaseModelOutput(encoded)}

    def keywords(self, tokens: int) -> dict[str, Any]:
        """What the next call is made with."""
        step, images = self._step, 0 if self._begun else self._step.images
        part = Step(batch_size=step.batch_size, sequence_length=tokens, source_length=int(step.source), images=images)
        found = arguments(
            self._real, self._model.config, part, device=self._device, dtype=self._dtype, symbolic=self._symbolic
        )
        if "encoder_outputs" in self._handed_on:
            # they stand in for what the encoder read
            found = {name: value for name, value in found.items() if name not in ENCODER_INPUTS}
        found |= self._handed_on
        if self._keyword is not None:
            found[self._keyword] = self._cache
        if "use_cache" in self._takes:
            found["use_cache"] = True
        if self.has_head:
            found[LAST_LOGITS] = 1
        return found

    def weighed(self) -> MeasuredCache:
        """What is kept now."""
        found = list(self._cached())
        found += [(layer, tensor) for layer, tensor in _plain_tensors(self._runs) if id(tensor) not in self._before]
        if self._keyword is None:
            found += _of_all_layers(self._handed_on.get(self._own_state or "", []))
        return _weighed(found)

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


def all_tokens(step: Step) -> int:
    """Tokens of a sample at the end of a step."""
    return int(step.past + step.sequence_length)


def first_number(path: str) -> int | None:
    """First part of a dotted path that is a number."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return None if found is None else int(found.group(1))


def _runnable(real: Any, *, whole: bool) -> tuple[Any, Mapping[str, inspect.Parameter]]:
    """The model without its head, and what it takes; the whole where that is a wrapper which does not say.

    A head adds nothing to the cache, and some ask for the place of the last token.
    """
    all_of_it = inspect.signature(real.forward).parameters
    if whole and LAST_LOGITS in all_of_it:
        return real, all_of_it
    below = inspect.signature(real.base_model.forward).parameters
    if any(name in below for name in (*CACHE_KEYWORDS, *OWN_STATES)):
        return real.base_model, below
    # its head, where it has one, is run for all tokens
    return real, {name: kind for name, kind in all_of_it.items() if name != LAST_LOGITS}


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


def _plain_tensors(model: nn.Module) -> Iterator[tuple[Layer, Tensor]]:
    """Tensors that modules of layers keep as attributes, neither parameters nor buffers, as RecurrentGemma's do."""
    for name, module in model.named_modules():
        index = first_number(name)
        if index is not None:
            for value in vars(module).values():
                if isinstance(value, Tensor) and value.is_floating_point():
                    yield ("self", index), value


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
