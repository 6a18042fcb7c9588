"""LLaVA and VipLLaVA: any image tower, a projector of two matrices, and any decoder."""

from __future__ import annotations

from typing import ClassVar, Literal

from planner.families.blocks import linear
from planner.families.clip import CLIPVisionConfig
from planner.families.composed import AnyText, AnyTower, ImageTextConfig, image_tower, text_head, trunk
from planner.families.config import require
from planner.families.family import Family
from planner.families.llama import LlamaConfig
from planner.nodes import Module, Node, Norm, Stream
from planner.numeric import Num

CLIP_LARGE = CLIPVisionConfig(
    model_type="clip_vision_model",
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
    projection_dim=768,
)
"""The tower where a config states none."""


class LlavaConfig(ImageTextConfig):
    """Keys of LLaVA 1.5. The class token is dropped unless `vision_feature_select_strategy` is ``full``."""

    # The vocabulary of the decoder, and the length of an image, which follow from the nested configs.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"ignore_index", "image_seq_length", "projector_layernorm_eps", "vocab_size"}
    )

    text_config: AnyText = LlamaConfig(model_type="llama")
    vision_config: AnyTower = CLIP_LARGE
    vision_feature_layer: int | list[int] = -2
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    multimodal_projector_bias: bool = True

    @property
    def feature_layers(self) -> int:
        """Layers of the tower whose outputs the projector sees side by side."""
        return 1 if isinstance(self.vision_feature_layer, int) else len(self.vision_feature_layer)

    @property
    def image_tokens(self) -> Num:
        """Positions of the tower, without its first one in the default strategy. [token]"""
        dropped = 1 if self.vision_feature_select_strategy == "default" else 0
        return self.vision_config.num_positions - dropped

    @property
    def ties_head(self) -> bool:
        """Whether the head runs with the input table's matrix: as this config says, or the decoder's."""
        return self.tie_word_embeddings or self.text_config.tie_word_embeddings

    def check(self) -> None:
        """Besides the parts, the projector needs a layer to read."""
        super().check()
        require(self.feature_layers > 0, "vision_feature_layer", "expected a layer or a list of layers, got none")


class VipLlavaConfig(LlavaConfig):
    """Keys of VipLLaVA, whose projector reads several layers and norms them; it always drops the class token."""

    vision_feature_layer: int | list[int] = [-2, -5, -8, -11, 6]  # noqa: RUF012 - pydantic copies it


def _model(config: LlavaConfig, *, norm: bool) -> Module:
    tower, text = config.vision_config, config.text_config
    inputs = config.feature_layers * tower.hidden_size
    bias = True if norm else config.multimodal_projector_bias
    children: dict[str, Node] = {
        "linear_1": linear(inputs, text.hidden_size, bias),
        "linear_2": linear(text.hidden_size, text.hidden_size, bias),
    }
    if norm:
        children["projector_layernorm"] = Norm(dim=inputs, bias=True, bucket="projector")
    projector = Module(
        children=children, bucket="projector", stream=Stream(kind="image", per_sample=config.image_tokens)
    )
    return Module(
        children={
            "vision_tower": image_tower(trunk(tower)),
            "multi_modal_projector": projector,
            "language_model": trunk(text),
        }
    )


def _family(model_type: str, prefix: str, config: type[LlavaConfig], *, norm: bool) -> Family:
    def model(config: LlavaConfig) -> Node:
        return _model(config, norm=norm)

    def conditional_generation(config: LlavaConfig) -> Node:
        return text_head(model(config), config.text_config, tied=config.ties_head)

    return Family(
        model_type=model_type,
        config=config,
        classes={f"{prefix}Model": model, f"{prefix}ForConditionalGeneration": conditional_generation},
        default_class=f"{prefix}ForConditionalGeneration",
    )


FAMILIES = (
    _family("llava", "Llava", LlavaConfig, norm=False),
    _family("vipllava", "VipLlava", VipLlavaConfig, norm=True),
)
