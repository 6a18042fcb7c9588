"""Gemma 1 to 3: heads of a fixed width, tied head; from Gemma 2 on four norms a layer and windows, from 3 on images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from planner.families.blocks import gated_mlp, rms_norm
from planner.families.composed import ImageTextConfig, image_tower, text_head
from planner.families.config import Dimension, LayerCount, require
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    SlidingConfig,
    decoder,
    decoder_classes,
    decoder_family,
    dense_block,
    self_attention,
    windowed_layers,
)
from planner.families.family import Builder, Family
from planner.families.siglip import SiglipVisionConfig, siglip_vision
from planner.nodes import Linear, Module, Node, Norm, Stream
from planner.numeric import Num, all_true


class GemmaConfig(AttentionBiasConfig):
    """Gemma 1."""

    vocab_size: Dimension = 256000
    hidden_size: Dimension = 3072
    intermediate_size: Dimension = 24576
    num_hidden_layers: LayerCount = 28
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 16
    head_dim: Dimension | None = 256
    tie_word_embeddings: bool = True


class Gemma2Config(GemmaConfig, SlidingConfig):
    """Gemma 2: every other layer sees a window."""

    # Its config.json states the window a second time, under a name that no class reads.
    accepted_keys: ClassVar[frozenset[str]] = GemmaConfig.accepted_keys | {"sliding_window_size"}

    hidden_size: Dimension = 2304
    intermediate_size: Dimension = 9216
    num_hidden_layers: LayerCount = 26
    num_attention_heads: Dimension = 8
    num_key_value_heads: Dimension | None = 4
    sliding_window: Dimension | None = 4096

    def default_layer_types(self) -> list[str]:
        """Window and full in turn, the window first."""
        return [SLIDING if layer % 2 == 0 else FULL for layer in range(self.num_hidden_layers)]


class Gemma3TextConfig(Gemma2Config):
    """Gemma 3: five layers with a window to one without, norms on queries and keys."""

    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {"sliding_window_pattern"}

    vocab_size: Dimension = 262208
    sliding_window_pattern: Dimension = 6

    def default_layer_types(self) -> list[str]:
        """Every `sliding_window_pattern`-th layer is full."""
        return [
            FULL if (layer + 1) % self.sliding_window_pattern == 0 else SLIDING
            for layer in range(self.num_hidden_layers)
        ]


class Gemma3Config(ImageTextConfig):
    """Gemma 3 with its image tower."""

    text_config: Gemma3TextConfig = Gemma3TextConfig()
    vision_config: SiglipVisionConfig = SiglipVisionConfig()
    mm_tokens_per_image: Dimension = 256
    tie_word_embeddings: bool = True

    @property
    def image_tokens(self) -> Num:
        """What the projector leaves of the patches. [token]"""
        return self.mm_tokens_per_image

    def check(self) -> None:
        """Each part must hold, and there cannot be more image tokens than patches."""
        super().check()
        require(
            all_true(self.mm_tokens_per_image <= self.vision_config.num_patches),
            "mm_tokens_per_image",
            f"{self.mm_tokens_per_image} tokens an image, but it has {self.vision_config.num_patches} patches",
        )


def gemma_model(config: GemmaConfig) -> Node:
    """Llama's decoder with wide heads."""
    return decoder(config, windowed_layers(config, lambda window: dense_block(config, window)))


def _four_norm_block(config: Gemma2Config, window: Num | None, *, qk_norm: bool) -> Module:
    hidden = config.hidden_size
    return Module(
        children={
            "self_attn": self_attention(config, window, qk_norm=qk_norm),
            "mlp": gated_mlp(hidden, config.intermediate_size),
            "input_layernorm": rms_norm(hidden),
            "post_attention_layernorm": rms_norm(hidden),
            "pre_feedforward_layernorm": rms_norm(hidden),
            "post_feedforward_layernorm": rms_norm(hidden),
        }
    )


def gemma2_model(config: Gemma2Config) -> Node:
    """A norm before and after each sublayer."""
    return decoder(config, windowed_layers(config, lambda window: _four_norm_block(config, window, qk_norm=False)))


def gemma3_text_model(config: Gemma3TextConfig) -> Node:
    """Gemma 2's decoder with query and key norms."""
    return decoder(config, windowed_layers(config, lambda window: _four_norm_block(config, window, qk_norm=True)))


def gemma3_model(config: Gemma3Config) -> Node:
    """Image tower, projector and decoder."""
    image, text = config.vision_config, config.text_config
    projection = Linear(
        in_features=image.hidden_size,
        out_features=text.hidden_size,
        transposed=True,
        weight_name="mm_input_projection_weight",
    )
    projector = Module(
        children={"": projection, "mm_soft_emb_norm": Norm(dim=image.hidden_size, bucket="projector")},
        bucket="projector",
        stream=Stream(kind="image", per_sample=config.mm_tokens_per_image),
    )
    return Module(
        children={
            "vision_tower": image_tower(siglip_vision(image)),
            "multi_modal_projector": projector,
            "language_model": gemma3_text_model(text),
        }
    )


def _gemma3_conditional_generation(config: Gemma3Config) -> Node:
    return text_head(gemma3_model(config), config.text_config, tied=config.tie_word_embeddings)


def _gemma3_text_classes() -> Mapping[str, Builder]:
    """The text-only classes; the Model is called TextModel, the rest follows the rule."""
    named = decoder_classes("Gemma3", gemma3_text_model)
    return {
        "Gemma3TextModel": gemma3_text_model,
        "Gemma3ForCausalLM": named["Gemma3ForCausalLM"],
        "Gemma3TextForSequenceClassification": named["Gemma3ForSequenceClassification"],
    }


NO_SPANS = ("ForQuestionAnswering",)

FAMILIES = (
    decoder_family("gemma", "Gemma", GemmaConfig, gemma_model, omit=NO_SPANS),
    decoder_family("gemma2", "Gemma2", Gemma2Config, gemma2_model, omit=NO_SPANS),
    Family(
        model_type="gemma3",
        config=Gemma3Config,
        classes={"Gemma3Model": gemma3_model, "Gemma3ForConditionalGeneration": _gemma3_conditional_generation},
        default_class="Gemma3ForConditionalGeneration",
    ),
    Family(
        model_type="gemma3_text",
        config=Gemma3TextConfig,
        classes=_gemma3_text_classes(),
        default_class="Gemma3ForCausalLM",
    ),
)
