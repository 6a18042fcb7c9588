"""PaliGemma 1 and 2: SigLIP's tower, one matrix, and a decoder of Gemma or Gemma 2."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from planner.families.blocks import linear
from planner.families.composed import ImageTextConfig, image_tower, text_head, trunk
from planner.families.config import ByModelType, Dimension, require
from planner.families.decoder import DecoderConfig
from planner.families.family import Family
from planner.families.gemma import GemmaConfig
from planner.families.siglip import SiglipVisionConfig
from planner.families.vision import VisionConfig
from planner.nodes import Module, Node, Stream
from planner.numeric import Num, all_true

GEMMA_2B = GemmaConfig(
    model_type="gemma",
    vocab_size=257152,
    hidden_size=2048,
    intermediate_size=16384,
    num_hidden_layers=18,
    num_attention_heads=8,
    num_key_value_heads=1,
)
"""The decoder where a config states none."""

SO400M = SiglipVisionConfig(
    model_type="siglip_vision_model",
    hidden_size=1152,
    intermediate_size=4096,
    num_hidden_layers=27,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    vision_use_head=False,
)
"""The tower where a config states none."""


class PaliGemmaConfig(ImageTextConfig):
    """Keys of the whole, whose own `tie_word_embeddings` decides and not the decoder's."""

    # What follows from the nested configs.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"hidden_size", "ignore_index", "num_hidden_layers", "vocab_size"}
    )

    text_config: Annotated[DecoderConfig, BeforeValidator(ByModelType("gemma"))] = GEMMA_2B
    vision_config: Annotated[VisionConfig, BeforeValidator(ByModelType("siglip_vision_model"))] = SO400M
    projection_dim: Dimension = 2048
    tie_word_embeddings: bool = True

    @property
    def image_tokens(self) -> Num:
        """Every position of the tower. [token]"""
        return self.vision_config.num_positions

    def check(self) -> None:
        """Besides the parts, images must become as wide as text."""
        super().check()
        require(
            all_true(self.projection_dim <= self.text_config.hidden_size)
            and all_true(self.projection_dim >= self.text_config.hidden_size),
            "projection_dim",
            f"{self.projection_dim}, but text_config.hidden_size is {self.text_config.hidden_size}",
        )


def paligemma_model(config: PaliGemmaConfig) -> Module:
    """Tower, projector and decoder."""
    tower = config.vision_config
    projector = Module(
        children={"linear": linear(tower.hidden_size, config.projection_dim, bias=True)},
        bucket="projector",
        stream=Stream(kind="image", per_sample=config.image_tokens),
    )
    return Module(
        children={
            "vision_tower": image_tower(trunk(tower)),
            "multi_modal_projector": projector,
            "language_model": trunk(config.text_config),
        }
    )


def _conditional_generation(config: PaliGemmaConfig) -> Node:
    return text_head(paligemma_model(config), config.text_config, tied=config.tie_word_embeddings)


FAMILIES = (
    Family(
        model_type="paligemma",
        config=PaliGemmaConfig,
        classes={"PaliGemmaModel": paligemma_model, "PaliGemmaForConditionalGeneration": _conditional_generation},
        default_class="PaliGemmaForConditionalGeneration",
    ),
)
