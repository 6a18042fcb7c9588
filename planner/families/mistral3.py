"""Mistral Small 3 and Ministral 3 with images: Pixtral's tower, a projector that merges patches, Mistral's decoder."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from planner.families.blocks import attention, gated_mlp, layers, linear, rms_norm
from planner.families.composed import ImageTextConfig, image_tower, text_head, trunk
from planner.families.config import ByModelType, Dimension, LayerCount, require
from planner.families.decoder import DecoderConfig
from planner.families.family import Family
from planner.families.llama import MistralConfig
from planner.families.vision import Side, VisionConfig, patch_convolution
from planner.nodes import Module, Node, Norm, Stream
from planner.numeric import Num, all_true, exact_quotient


class PixtralVisionConfig(VisionConfig):
    """The tower; it takes pictures of any shape, and `image_size` is the largest side."""

    # Always the quotient; and a leftover of the decoder's config.
    accepted_keys: ClassVar[frozenset[str]] = frozenset({"head_dim", "vocab_size"})

    hidden_size: Dimension = 1024
    intermediate_size: Dimension = 4096
    num_hidden_layers: LayerCount = 24
    num_attention_heads: Dimension = 16
    image_size: Side = 1024


MISTRAL_SMALL = MistralConfig(
    model_type="mistral",
    vocab_size=131072,
    hidden_size=5120,
    intermediate_size=32768,
    num_hidden_layers=40,
    head_dim=128,
    sliding_window=None,
)
"""The decoder where a config states none."""

PIXTRAL = PixtralVisionConfig(model_type="pixtral", image_size=1540, patch_size=14)
"""The tower where a config states none."""

Text = Annotated[DecoderConfig, BeforeValidator(ByModelType("mistral"))]
Tower = Annotated[VisionConfig, BeforeValidator(ByModelType("pixtral"))]


class Mistral3Config(ImageTextConfig):
    """Keys of the whole, whose own `tie_word_embeddings` decides and not the decoder's."""

    text_config: Text = MISTRAL_SMALL
    vision_config: Tower = PIXTRAL
    # A list is refused: the class can merge the patches of one layer only.
    vision_feature_layer: int = -1
    multimodal_projector_bias: bool = False
    spatial_merge_size: Dimension = 2
    tie_word_embeddings: bool = True

    @property
    def image_tokens(self) -> Num:
        """Squares of patches that a picture of the largest size has room for. [token]"""
        tower = self.vision_config
        return (tower.image_size // tower.patch_size // self.spatial_merge_size) ** 2

    def check(self) -> None:
        """Besides the parts, a picture must have room for a square."""
        super().check()
        tower = self.vision_config
        require(
            all_true(self.spatial_merge_size * tower.patch_size <= tower.image_size),
            "spatial_merge_size",
            f"{self.spatial_merge_size} patches of {tower.patch_size} pixels, but image_size is {tower.image_size}",
        )


def pixtral_vision(config: PixtralVisionConfig) -> Module:
    """Patches through blocks like Llama's, without a causal mask."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    patches = Stream(kind="sample", per_sample=config.num_patches)
    block = Module(
        children={
            "attention_norm": rms_norm(hidden),
            "feed_forward": gated_mlp(hidden, config.intermediate_size),
            "attention": attention(
                hidden_size=hidden,
                num_heads=heads,
                num_kv_heads=heads,
                head_dim=exact_quotient(hidden, heads),
                causal=False,
            ),
            "ffn_norm": rms_norm(hidden),
        }
    )
    return Module(
        children={
            "patch_conv": patch_convolution(config, patches, bias=False),
            "ln_pre": rms_norm(hidden),
            "transformer.layers": layers(block, config.num_hidden_layers),
        },
        stream=patches,
    )


def mistral3_model(config: Mistral3Config) -> Node:
    """Tower, projector and decoder."""
    tower, text = config.vision_config, config.text_config
    bias = config.multimodal_projector_bias
    norm = Norm(dim=tower.hidden_size, bucket="projector", stream=Stream(kind="image", per_sample=tower.num_patches))
    merge = linear(tower.hidden_size * config.spatial_merge_size**2, tower.hidden_size)
    projector = Module(
        children={
            "norm": norm,
            "patch_merger.merging_layer": merge,
            "linear_1": linear(tower.hidden_size, text.hidden_size, bias),
            "linear_2": linear(text.hidden_size, text.hidden_size, bias),
        },
        bucket="projector",
        stream=Stream(kind="image", per_sample=config.image_tokens),
    )
    return Module(
        children={
            "vision_tower": image_tower(trunk(tower)),
            "multi_modal_projector": projector,
            "language_model": trunk(text),
        }
    )


def _conditional_generation(config: Mistral3Config) -> Node:
    return text_head(mistral3_model(config), config.text_config, tied=config.tie_word_embeddings)


FAMILIES = (
    Family(
        model_type="mistral3",
        config=Mistral3Config,
        classes={
            "Mistral3Model": mistral3_model,
            "Mistral3ForConditionalGeneration": _conditional_generation,
        },
        default_class="Mistral3ForConditionalGeneration",
    ),
    Family(
        model_type="pixtral",
        config=PixtralVisionConfig,
        classes={"PixtralVisionModel": pixtral_vision},
        default_class="PixtralVisionModel",
    ),
)
