"""Idefics3 and SmolVLM: SigLIP's tower without a head, neighbouring patches merged by one matrix, and any decoder.

An image is a square of `image_size` pixels; a larger picture is cut into such tiles, and each counts as an image.
"""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import linear
from planner.families.composed import AnyText, ImageTextConfig, image_tower, text_head, trunk
from planner.families.config import Dimension, LayerCount
from planner.families.family import Family
from planner.families.llama import LlamaConfig
from planner.families.siglip import SiglipVisionConfig, siglip_vision
from planner.families.vision import Side, VisionConfig
from planner.nodes import Module, Node, Stream
from planner.numeric import Num


class Idefics3VisionConfig(VisionConfig):
    """The tower, which has no pooling head."""

    # Released configs dump what the processor does with a picture.
    accepted_keys: ClassVar[frozenset[str]] = VisionConfig.accepted_keys | {
        "max_image_size",
        "size",
        "use_base_siglip",
    }

    hidden_size: Dimension = 1152
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 16
    patch_size: Side = 32


class Idefics3Config(ImageTextConfig):
    """Tower, connector and decoder."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"image_seq_len", "vocab_size"})

    text_config: AnyText = LlamaConfig(model_type="llama")
    vision_config: Idefics3VisionConfig = Idefics3VisionConfig()
    scale_factor: Dimension = 2

    @property
    def image_tokens(self) -> Num:
        """Squares of `scale_factor` patches a side that fit. [token]"""
        return (self.vision_config.image_size // self.vision_config.patch_size // self.scale_factor) ** 2


def idefics3_model(config: Idefics3Config) -> Module:
    """The decoder is called `text_model` here."""
    tower, text = config.vision_config, config.text_config
    siglip = SiglipVisionConfig(vision_use_head=False).model_copy(
        update={name: getattr(tower, name) for name in VisionConfig.model_fields}
    )
    projection = linear(tower.hidden_size * config.scale_factor**2, text.hidden_size)
    return Module(
        children={
            "vision_model": image_tower(siglip_vision(siglip)),
            "connector": Module(
                children={"modality_projection.proj": projection},
                bucket="projector",
                stream=Stream(kind="image", per_sample=config.image_tokens),
            ),
            "text_model": trunk(text),
        }
    )


def _conditional_generation(config: Idefics3Config) -> Node:
    return text_head(idefics3_model(config), config.text_config, tied=config.tie_word_embeddings, decoder="text_model")


FAMILIES = tuple(
    Family(
        model_type=model_type,
        config=Idefics3Config,
        classes={f"{prefix}Model": idefics3_model, f"{prefix}ForConditionalGeneration": _conditional_generation},
        default_class=f"{prefix}ForConditionalGeneration",
    )
    for model_type, prefix in (("idefics3", "Idefics3"), ("smolvlm", "SmolVLM"))
)
