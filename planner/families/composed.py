"""Models made of models: an image tower, a projector, and a decoder that reads images beside text."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import BeforeValidator

from planner.families import family
from planner.families.blocks import output_head
from planner.families.config import ByModelType, ComposedConfig, ModelConfig
from planner.families.decoder import DecoderConfig
from planner.families.vision import VisionConfig
from planner.nodes import Module, Node, Repeat, Stack, Stream, Tied
from planner.numeric import Num

N = TypeVar("N", bound=Node)

AnyText = Annotated[DecoderConfig, BeforeValidator(ByModelType("llama"))]
"""Config of the decoder, of whichever family; one that states none is a Llama."""

AnyTower = Annotated[VisionConfig, BeforeValidator(ByModelType("clip_vision_model"))]
"""Config of the image tower, of whichever family; one that states none is CLIP's."""


class ImageTextConfig(ComposedConfig):
    """Keys of a model that reads images beside text; each family declares its `text_config` and `vision_config`."""

    @property
    def image_tokens(self) -> Num:
        """Tokens that stand for one image in the text: part of a step's sequence. [token]"""
        raise NotImplementedError


def trunk(config: ModelConfig) -> Module:
    """Model without a head of a nested config, as AutoModel builds it."""
    chosen = family(config.model_type or "")
    name = next(name for name in chosen.classes if name.endswith("Model"))
    tree = chosen.classes[name](config)
    assert isinstance(tree, Module)  # noqa: S101 - no model is a single leaf
    return tree


def image_tower(node: Module, prefix: str = "vision") -> Module:
    """Part of a model that reads images beside text: it runs once an image, and not once a sample.

    Parameters
    ----------
    node : Module
        As it is where the image is the whole input.
    prefix : str
        Of its buckets.
    """
    return replace(_once_an_image(node), tower=prefix)


def _once_an_image(node: N) -> N:
    """Tree with the stream ``image`` in place of ``sample``."""
    if isinstance(node, Repeat):
        return replace(node, child=_once_an_image(node.child))
    if isinstance(node, Stack):
        return replace(node, parts=tuple(_once_an_image(part) for part in node.parts))
    if isinstance(node, Tied):
        return replace(node, module=_once_an_image(node.module))
    if node.stream is not None and node.stream.kind == "sample":
        node = replace(node, stream=Stream(kind="image", per_sample=node.stream.per_sample))
    if isinstance(node, Module):
        return replace(node, children={name: _once_an_image(child) for name, child in node.children.items()})
    return node


def text_head(model: Node, text: DecoderConfig, *, tied: bool, decoder: str = "language_model") -> Module:
    """Model with a head over the vocabulary.

    Parameters
    ----------
    model : Node
        The model without a head.
    text : DecoderConfig
        Of that decoder.
    tied : bool
        The head runs with the input table's matrix.
    decoder : str
        What the model calls its decoder.
    """
    tied_to = f"model.{decoder}.embed_tokens" if tied else None
    return Module(children={"model": model, "lm_head": output_head(text.hidden_size, text.vocab_size, tied_to)})
