"""CLIP: an image tower and a causal text encoder, whose pooled vectors are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from planner.families.beside import IMAGE_POSITION_IDS, POSITION_IDS, tensor
from planner.families.blocks import layer_norm, linear, position_embedding, token_embedding
from planner.families.composed import image_tower
from planner.families.config import ComposedConfig, Dimension
from planner.families.family import Family
from planner.families.heads import head
from planner.families.siglip import similarity
from planner.families.vision import EncoderConfig, Side, VisionConfig, encoder_layers, patch_convolution
from planner.nodes import ONCE, Module, Node, Parameter, Stack, Stream
from planner.numeric import Num


class CLIPVisionConfig(VisionConfig):
    """The image tower: a class token before the patches, and a norm before the first layer."""

    # LLaVA's tower states the vocabulary of its text.
    accepted_keys: ClassVar[frozenset[str]] = VisionConfig.accepted_keys | {"vocab_size"}

    patch_size: Side = 32
    projection_dim: Dimension = 512

    @property
    def num_positions(self) -> Num:
        """Patches and the class token."""
        return self.num_patches + 1


class CLIPTextConfig(EncoderConfig):
    """The text encoder."""

    vocab_size: Dimension = 49408
    hidden_size: Dimension = 512
    intermediate_size: Dimension = 2048
    num_attention_heads: Dimension = 8
    max_position_embeddings: Dimension = 77
    projection_dim: Dimension = 512


class CLIPConfig(ComposedConfig):
    """Both towers, whose vectors are projected to one width."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"text_config_dict", "vision_config_dict"})

    text_config: CLIPTextConfig = CLIPTextConfig()
    vision_config: CLIPVisionConfig = CLIPVisionConfig()
    projection_dim: Dimension = 512

    @model_validator(mode="before")
    @classmethod
    def _second_statement(cls, raw: Any) -> Any:
        """Older files state each tower a second time, and the class lets that statement win."""
        if not isinstance(raw, Mapping):
            return raw
        again = {key: raw.get(f"{key}_dict") for key in ("text_config", "vision_config")}
        return {**raw, **{key: value for key, value in again.items() if value is not None}}


def clip_vision(config: CLIPVisionConfig) -> Module:
    """Class token and patches through an encoder; the class token alone passes the last norm."""
    hidden, positions = config.hidden_size, config.num_positions
    patches = Stream(kind="sample", per_sample=config.num_patches)
    return Module(
        children={
            "embeddings.class_embedding": Parameter(shape=(hidden,), bucket="embeddings.other"),
            "embeddings.patch_embedding": patch_convolution(config, patches, bias=False),
            "embeddings.position_embedding": position_embedding(positions, hidden),
            "pre_layrnorm": layer_norm(hidden),
            "encoder.layers": encoder_layers(config),
            "post_layernorm": Module(children={"": layer_norm(hidden)}, stream=ONCE),
        },
        stream=Stream(kind="sample", per_sample=positions),
    )


def clip_text(config: CLIPTextConfig) -> Module:
    """Encoder whose tokens see only what came before them."""
    hidden = config.hidden_size
    return Module(
        children={
            "embeddings.token_embedding": token_embedding(config.vocab_size, hidden),
            "embeddings.position_embedding": position_embedding(config.max_position_embeddings, hidden),
            "encoder.layers": encoder_layers(config, causal=True),
            "final_layer_norm": layer_norm(hidden),
        }
    )


def _projection(width: Num, projection_dim: Num) -> Module:
    return Module(children={"": linear(width, projection_dim)}, bucket="projector", stream=ONCE)


def _clip_model(config: CLIPConfig) -> Node:
    text, image = config.text_config, config.vision_config
    # One vector an image, where the projection alone would be one a sample.
    visual = _projection(image.hidden_size, config.projection_dim)
    return Module(
        children={
            "text_model": clip_text(text),
            "vision_model": image_tower(clip_vision(image)),
            "visual_projection": image_tower(visual, prefix=""),
            "text_projection": _projection(text.hidden_size, config.projection_dim),
            "logit_scale": Parameter(shape=()),
            "": similarity(config.projection_dim),
        }
    )


def _image_classification(config: CLIPConfig) -> Node:
    tower = config.vision_config
    classifier = head(tower.hidden_size, config.num_labels, once=True)
    return Module(children={"vision_model": clip_vision(tower), "classifier": classifier})


def _text_with_projection(config: CLIPTextConfig) -> Node:
    projection = _projection(config.hidden_size, config.projection_dim)
    return Module(children={"text_model": clip_text(config), "text_projection": projection})


def _vision_with_projection(config: CLIPVisionConfig) -> Node:
    projection = _projection(config.hidden_size, config.projection_dim)
    return Module(children={"vision_model": clip_vision(config), "visual_projection": projection})


def _text_positions(config: CLIPTextConfig, _: Mapping[str, Any]) -> Node:
    ids = tensor(POSITION_IDS, 1, config.max_position_embeddings)
    return Module(children={"text_model.embeddings.position_ids": ids})


def _image_positions(config: CLIPVisionConfig, _: Mapping[str, Any]) -> Node:
    ids = tensor(IMAGE_POSITION_IDS, 1, config.num_positions)
    return Module(children={"vision_model.embeddings.position_ids": ids})


def _positions(config: CLIPConfig, raw: Mapping[str, Any]) -> Node:
    parts = (_text_positions(config.text_config, raw), _image_positions(config.vision_config, raw))
    return Stack(parts=parts)


FAMILIES = (
    Family(
        model_type="clip",
        config=CLIPConfig,
        classes={"CLIPModel": _clip_model, "CLIPForImageClassification": _image_classification},
        default_class="CLIPModel",
        beside=_positions,
    ),
    Family(
        model_type="clip_text_model",
        config=CLIPTextConfig,
        classes={"CLIPTextModel": clip_text, "CLIPTextModelWithProjection": _text_with_projection},
        default_class="CLIPTextModel",
        beside=_text_positions,
    ),
    Family(
        model_type="clip_vision_model",
        config=CLIPVisionConfig,
        classes={"CLIPVisionModel": clip_vision, "CLIPVisionModelWithProjection": _vision_with_projection},
        default_class="CLIPVisionModel",
        beside=_image_positions,
    ),
)
