"""Gemma 1 to 3: heads of a fixed width, tied head; from Gemma 2 on four norms a layer and windows, from 3 on images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from planner.families.blocks import gated_mlp, layer_norm, output_head, position_embedding, rms_norm
from planner.families.config import Dimension, LayerCount, ModelConfig, require
from planner.families.decoder import (
    FULL,
    SLIDING,
    DecoderConfig,
    SlidingConfig,
    decoder,
    decoder_classes,
    decoder_family,
    dense_block,
    self_attention,
    windowed_layers,
)
from planner.families.family import Builder, Family
from planner.families.vision import VisionConfig, encoder_layers, patch_convolution
from planner.nodes import Linear, Module, Node, Norm, Stream
from planner.numeric import Num, all_true


class GemmaConfig(DecoderConfig):
    """Gemma 1."""

    vocab_size: Dimension = 256000
    hidden_size: Dimension = 3072
    intermediate_size: Dimension = 24576
    num_hidden_layers: LayerCount = 28
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 16
    head_dim: Dimension | None = 256
    attention_bias: bool = False
    tie_word_embeddings: bool = True

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias

    @property
    def out_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias


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


class SiglipVisionConfig(VisionConfig):
    """The image tower of Gemma 3, which has neither class token nor pooling head."""

    vision_use_head: bool = True


class Gemma3Config(ModelConfig):
    """Gemma 3 with its image tower."""

    text_config: Gemma3TextConfig = Gemma3TextConfig()
    vision_config: SiglipVisionConfig = SiglipVisionConfig()
    mm_tokens_per_image: Dimension = 256
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Each tower must hold, and the image tokens must tile the patches."""
        self.text_config.check()
        self.vision_config.check()
        require(
            not self.vision_config.vision_use_head,
            "vision_config.vision_use_head",
            "a pooling head in the image tower is not supported, expected false",
        )
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


def _vision_tower(config: SiglipVisionConfig) -> Module:
    hidden = config.hidden_size
    norms = ("layer_norm1", "layer_norm2")
    patches = Stream(kind="image", per_sample=config.num_patches)
    return Module(
        children={
            "embeddings.patch_embedding": patch_convolution(config, patches),
            "embeddings.position_embedding": position_embedding(config.num_patches, hidden),
            "encoder.layers": encoder_layers(config, norms=norms, attn="self_attn", out_name="out_proj", qkv_bias=True),
            "post_layernorm": layer_norm(hidden),
        },
        stream=patches,
        tower="vision",
    )


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
            "vision_tower": _vision_tower(image),
            "multi_modal_projector": projector,
            "language_model": gemma3_text_model(text),
        }
    )


def _gemma3_conditional_generation(config: Gemma3Config) -> Node:
    text = config.text_config
    tied_to = "model.language_model.embed_tokens" if config.tie_word_embeddings else None
    head = output_head(text.hidden_size, text.vocab_size, tied_to)
    return Module(children={"model": gemma3_model(config), "lm_head": head})


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
