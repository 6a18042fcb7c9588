"""One call of a real model as a module whose inputs and outputs are all tensors, which is what a trace needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from planner.errors import UnsupportedError
from planner.families.config import ModelConfig
from planner.real.build import SEED
from planner.verify.images import images_of, returned_as_well
from planner.workload import Step

MODEL = "model"
"""Name of the real model inside a `Call`."""

ENCODER_INPUTS = ("input_ids", "input_features")
"""What an encoder-decoder's encoder reads: tokens or sound."""

CACHE_KEYWORDS = ("cache", "past_key_values")
"""What classes call their cache: today, and before transformers 5.24."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """How the keys and values of earlier tokens become the cache that a class takes.

    Attributes
    ----------
    config : Any
        The real config, which says which layers keep a window only.
    keyword : str
        Name of the cache among the arguments of `forward`.
    layers : int
        Layers that keep keys and values of their own tokens.
    encoded : bool
        The layers keep those of an encoder's tokens as well.
    """

    config: Any
    keyword: str
    layers: int
    encoded: bool

    def keywords(self, tensors: tuple[Tensor, ...]) -> dict[str, Any]:
        """Arguments from tensors: keys and values in turn, layer by layer, then the same of the encoder, its output."""
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        pairs = list(zip(tensors[: 4 * self.layers : 2], tensors[1 : 4 * self.layers : 2], strict=True))
        if not self.encoded:
            return {self.keyword: _filled(DynamicCache(config=self.config), pairs)}
        # T5Gemma's decoder has a config of its own, and windows.
        kept = {"config": self.config.decoder} if hasattr(self.config, "decoder") else {}
        own = _filled(DynamicCache(**kept), pairs[: self.layers])
        source = _filled(DynamicCache(), pairs[self.layers :])
        return {
            self.keyword: EncoderDecoderCache(own, source),
            "encoder_outputs": BaseModelOutput(tensors[-1]),
            # or Whisper's decoder looks past it
            "use_cache": True,
        }


def _filled(cache: Any, pairs: list[tuple[Tensor, Tensor]]) -> Any:
    for layer, (keys, values) in enumerate(pairs):
        cache.update(keys, values, layer)
    return cache


class Call(nn.Module):
    """A real model, called with the same keywords every time.

    Parameters
    ----------
    model : nn.Module
        The real model.
    names : tuple of str
        Keywords of the first inputs.
    past : Past, optional
        Where all further inputs go.
    known : mapping of str to Any, optional
        Keywords that are the same in every call, and no inputs.
    """

    def __init__(
        self, model: nn.Module, names: tuple[str, ...], past: Past | None, known: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._names = names
        self._past = past
        self._known = dict(known or {})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Every tensor that the model returns: what is not returned would not be traced."""
        keywords: dict[str, Any] = dict(zip(self._names, inputs, strict=False)) | self._known
        if self._past is not None:
            keywords |= self._past.keywords(inputs[len(self._names) :])
        with returned_as_well(self.model) as dropped:
            output = self.model(**keywords)
        return (*_tensors(output), *dropped)


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)


def prepare(
    model: Any, config: ModelConfig, step: Step, *, device: str, dtype: torch.dtype, symbolic: bool
) -> tuple[Call, tuple[Tensor, ...]]:
    """Call of a real model for a step, and its inputs.

    Parameters
    ----------
    model : PreTrainedModel
        The real model.
    config : ModelConfig
        The planner's config of it.
    step : Step
        How many tokens, and how many before them.
    device : str
        Where it lives.
    dtype : torch.dtype
        Of its weights.
    symbolic : bool
        Its tensors have shapes and no values, so that the inputs need no meaning.

    Raises
    ------
    UnsupportedError
        The class cannot be asked for such a step.
    """
    make = _Maker(model, config, device, dtype, symbolic)
    arguments, known = make.arguments(step)
    names = tuple(arguments)
    if step.past == 0:
        return Call(model, names, None, known), tuple(arguments.values())
    past, tensors = make.past(step)
    # While decoding, the encoder's output stands in for its input.
    kept = {name: tensor for name, tensor in arguments.items() if not (past.encoded and name in ENCODER_INPUTS)}
    return Call(model, tuple(kept), past, known), (*kept.values(), *tensors)


def arguments(
    model: Any, config: ModelConfig, step: Step, *, device: str, dtype: torch.dtype, symbolic: bool
) -> dict[str, Any]:
    """Keywords of one call of a real model without a past; parameters as for `prepare`."""
    inputs, known = _Maker(model, config, device, dtype, symbolic).arguments(step)
    return inputs | known


class _Maker:
    """Inputs of one real model."""

    def __init__(self, model: Any, config: ModelConfig, device: str, dtype: torch.dtype, symbolic: bool) -> None:
        self._model = model
        self._planned = config
        self._config = model.config
        self._options: dict[str, Any] = {"device": device}
        self._dtype = dtype
        self._symbolic = symbolic
        self._takes = inspect.signature(model.forward).parameters
        self._generator = None if symbolic else torch.Generator(device=device).manual_seed(SEED)

    def arguments(self, step: Step) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Inputs, and what is known before."""
        batch, tokens = int(step.batch_size), int(step.sequence_length)
        if self._model.main_input_name == "pixel_values":
            return {"pixel_values": self._pixels(batch)}, {}
        if self._reads_sound():
            text = {"decoder_input_ids": self._ids(batch, tokens)} if "decoder_input_ids" in self._takes else {}
            return {"input_features": self._sound(batch), **text}, {}
        if "decoder_input_ids" in self._takes:
            source = self._ids(batch, int(step.source))
            self._end_with_eos(source, step)
            return {"input_ids": source, "decoder_input_ids": self._ids(batch, tokens)}, {}
        ids = self._ids(batch, tokens)
        if type(self._model).__name__.endswith("ForMultipleChoice"):
            # one choice a sample
            return {"input_ids": ids[:, None]}, {}
        images = images_of(self._model, self._planned, step, frozenset(self._takes), self._random)
        if images.tokens and not self._symbolic:
            ids[:, : images.tokens] = self._config.image_token_id
        return {"input_ids": ids, **images.inputs}, images.known

    def _ids(self, batch: int, tokens: int) -> Tensor:
        if self._symbolic:
            return torch.zeros(batch, tokens, dtype=torch.long, **self._options)
        vocabulary = torch.arange(self._config.get_text_config().vocab_size, **self._options)
        plain = vocabulary[~torch.isin(vocabulary, torch.tensor(self._special_ids(), **self._options))]
        at = torch.randint(len(plain), (batch, tokens), generator=self._generator, **self._options)
        return plain[at]

    def _special_ids(self) -> list[int]:
        """Tokens to which a class pays attention beyond looking them up."""
        keys = ("pad_token_id", "eos_token_id", "image_token_id", "image_token_index")
        found: list[int] = []
        for config in (self._config, self._config.get_text_config()):
            for key in keys:
                value = getattr(config, key, None)
                found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
        return found

    def _end_with_eos(self, source: Tensor, step: Step) -> None:
        """T5's sequence classifier reads the decoder at the place where the source has its end token."""
        if not type(self._model).__name__.endswith("ForSequenceClassification"):
            return
        if step.source != step.sequence_length:
            raise UnsupportedError(
                f"{type(self._model).__name__} reads the decoder where the source ends, so both must be equally long",
                key="source_length",
                hint=f"leave it at {step.sequence_length}",
            )
        source[:, -1] = self._config.eos_token_id

    def _pixels(self, batch: int) -> Tensor:
        # Of the tower, where a class for whole images has the config of a model that reads text as well.
        config = getattr(self._config, "vision_config", self._config)
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return self._random(batch, config.num_channels, height, width)

    def _reads_sound(self) -> bool:
        """Sound in place of text, and not beside it, as in models that need neither."""
        return "input_features" in self._takes and hasattr(self._config, "num_mel_bins")

    def _sound(self, batch: int) -> Tensor:
        """Whisper's encoder takes sound of one length, at two frames a position."""
        return self._random(batch, self._config.num_mel_bins, 2 * self._config.max_source_positions)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator, dtype=self._dtype, **self._options)

    def past(self, step: Step) -> tuple[Past, tuple[Tensor, ...]]:
        """Cache of `step.past` random tokens, shaped like the one that the model itself fills with one token."""
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        keyword = next((name for name in CACHE_KEYWORDS if name in self._takes), None)
        encoded = "decoder_input_ids" in self._takes
        if keyword is None:
            raise UnsupportedError(f"{type(self._model).__name__} takes no cache", key="past", hint="leave it at 0")
        own, source = DynamicCache(), DynamicCache()
        # Where text looks at images in layers of its own, these keep what they saw.
        images = step.images if "aspect_ratio_ids" in self._takes else 0
        few = max(1, int(images))
        one = Step(batch_size=step.batch_size, sequence_length=few, images=images)
        arguments, known = self.arguments(one)
        # A head adds nothing to the cache, and some ask for the place of the last token.
        trunk = self._model.base_model
        with torch.no_grad(), no_padding(trunk.config):
            caches = {keyword: EncoderDecoderCache(own, source), "use_cache": True} if encoded else {keyword: own}
            trunk(**arguments, **known, **caches)
        length = self._config.max_source_positions if self._reads_sound() else int(step.source)
        tensors = [*self._stretched(own, few, int(step.past)), *self._stretched(source, few, length)]
        if encoded:
            width = getattr(self._config, "encoder", self._config).hidden_size
            tensors.append(self._random(int(step.batch_size), length, width))
        past = Past(config=self._config, keyword=keyword, layers=len(own.layers), encoded=encoded)
        return past, tuple(tensors)

    def _stretched(self, cache: Any, few: int, tokens: int) -> Iterator[Tensor]:
        """Keys and values of `tokens` in place of a `few`; what images left in the cache is as long as it is."""
        for layer in cache.layers:
            for tensor in (layer.keys, layer.values):
                if tensor is None:
                    # a layer that looks at images only, of which there are none
                    yield self._random(1, 1, 0, 1)
                    continue
                batch, heads, length, width = tensor.shape
                yield self._random(batch, heads, tokens if length == few else length, width)


@contextmanager
def no_padding(config: Any) -> Iterator[None]:
    """Outside of a trace, a model that knows a padding token looks for it in its input, which meta does not have."""
    token, config.pad_token_id = config.pad_token_id, None
    try:
        yield
    finally:
        config.pad_token_id = token
