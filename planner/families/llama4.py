"""Llama 4: experts beside a shared one, attention within chunks in three layers of four, and an image tower.

An image is a square of `image_size` pixels; a larger picture is cut into such tiles, and each counts as an image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from planner.families.blocks import (
    gated_mlp,
    layer_norm,
    layer_stack,
    layers,
    linear,
    plain_mlp,
    rms_norm,
    with_children,
)
from planner.families.composed import ImageTextConfig, image_tower
from planner.families.config import LARGEST_LAYER_COUNT, Count, Dimension, LayerCount, Names, require, require_divides
from planner.families.decoder import (
    FULL,
    AttentionBiasConfig,
    decoder,
    decoder_classes,
    require_kinds,
    self_attention,
)
from planner.families.family import Family
from planner.families.moe import check_top_k, router
from planner.families.vision import Side, VisionConfig, encoder_block
from planner.nodes import Attention, Experts, Linear, Module, Node, Parameter, Stream
from planner.numeric import Num

Layers = Annotated[list[Count], Field(max_length=LARGEST_LAYER_COUNT)]

CHUNKED = "chunked_attention"
"""Kind of a layer whose tokens see their own chunk of the sequence."""


class Llama4TextConfig(AttentionBiasConfig):
    """The decoder. Which layers have rotary positions decides which attend within chunks."""

    # How positions are scaled, and keys that no class reads.
    accepted_keys: ClassVar[frozenset[str]] = AttentionBiasConfig.accepted_keys | {
        "attn_scale",
        "attn_temperature_tuning",
        "floor_scale",
        "for_llm_compressor",
        "nope_layer_interval",
        "use_qk_norm",  # it divides by the length of a vector, with nothing learned
    }
    column_free_keys: ClassVar[frozenset[str]] = frozenset(
        {"num_hidden_layers", "interleave_moe_layer_step", "no_rope_layer_interval"}
    )

    vocab_size: Dimension = 202048
    hidden_size: Dimension = 5120
    intermediate_size: Dimension = 8192
    intermediate_size_mlp: Dimension = 16384
    num_hidden_layers: LayerCount = 48
    num_attention_heads: Dimension = 40
    num_key_value_heads: Dimension | None = 8
    head_dim: Dimension | None = 128
    num_experts_per_tok: Dimension = 1
    num_local_experts: Dimension = 16
    moe_layers: Layers | None = None
    interleave_moe_layer_step: Dimension = 1
    no_rope_layers: Layers | None = None
    no_rope_layer_interval: Dimension = 4
    attention_chunk_size: Dimension | None = 8192
    layer_types: Names | None = None

    def has_experts(self, layer: int) -> bool:
        """Whether the MLP of a layer is routed: every so many layers, or those that are listed."""
        if self.moe_layers is not None:
            return layer in self.moe_layers
        return (layer + 1) % self.interleave_moe_layer_step == 0

    def kinds(self) -> list[str]:
        """Kind of attention of each layer."""
        if self.layer_types is not None:
            return self.layer_types
        has_rope = self.no_rope_layers or [
            (layer + 1) % self.no_rope_layer_interval for layer in range(self.num_hidden_layers)
        ]
        return [CHUNKED if rope and self.attention_chunk_size is not None else FULL for rope in has_rope]

    def check(self) -> None:
        """Besides the heads, the lists must fit the layers, and the experts that a token visits must exist."""
        super().check()
        require_kinds("layer_types", self.kinds(), self.num_hidden_layers, (CHUNKED, FULL))
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)


class Llama4VisionConfig(VisionConfig):
    """The image tower, which merges neighbouring positions before its last two matrices."""

    # The projector's own width, which the decoder sets, and what a released class no longer asks for.
    accepted_keys: ClassVar[frozenset[str]] = VisionConfig.accepted_keys | {
        "multi_modal_projector_bias",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    }

    intermediate_size: Dimension = 5632
    num_hidden_layers: LayerCount = 34
    num_attention_heads: Dimension = 16
    image_size: Side = 448
    patch_size: Side = 14
    vision_output_dim: Dimension = 7680
    pixel_shuffle_ratio: float = 0.5
    projector_input_dim: Dimension = 4096
    projector_output_dim: Dimension = 4096

    @property
    def num_positions(self) -> Num:
        """Patches and the class token."""
        return self.num_patches + 1

    @property
    def merged_side(self) -> int:
        """Patches side by side that become one: the inverse of `pixel_shuffle_ratio`."""
        return round(1 / self.pixel_shuffle_ratio)

    @property
    def num_tokens(self) -> Num:
        """Positions after merging."""
        return (self.image_size // self.patch_size // self.merged_side) ** 2

    def check(self) -> None:
        """Besides the tower, patches must merge evenly.

        Whether they merge into what the next matrix takes is not asked: the class's own defaults do not.
        """
        super().check()
        require(
            0 < self.pixel_shuffle_ratio <= 1 and self.merged_side * self.pixel_shuffle_ratio == 1,
            "pixel_shuffle_ratio",
            f"expected one over a whole number, got {self.pixel_shuffle_ratio}",
        )
        require_divides("pixel_shuffle_ratio", self.merged_side, "image_size", self.image_size // self.patch_size)


class Llama4Config(ImageTextConfig):
    """Tower and decoder."""

    text_config: Llama4TextConfig = Llama4TextConfig()
    vision_config: Llama4VisionConfig = Llama4VisionConfig()

    @property
    def image_tokens(self) -> Num:
        """What merging leaves of the patches of one tile. [token]"""
        return self.vision_config.num_tokens


def _experts(config: Llama4TextConfig) -> Module:
    hidden, inner = config.hidden_size, config.intermediate_size
    return Module(
        children={
            "experts": Experts(
                num_experts=config.num_local_experts,
                top_k=config.num_experts_per_tok,
                hidden_size=hidden,
                intermediate_size=inner,
                transposed=True,
                visits_all=True,
            ),
            "router": router(hidden, config.num_local_experts),
            "shared_expert": gated_mlp(hidden, inner, bucket="experts.shared"),
        }
    )


def _attention(config: Llama4TextConfig, kind: str) -> Module:
    if kind == FULL:
        return self_attention(config, None)
    chunked = self_attention(config, config.attention_chunk_size)
    scores = chunked.children[""]
    assert isinstance(scores, Attention)  # noqa: S101 - the products of every attention
    return with_children(chunked, {"": replace(scores, chunked=True)})


def llama4_text(config: Llama4TextConfig) -> Node:
    """Pre-norm decoder whose layers differ in attention and in their MLP."""
    dense = gated_mlp(config.hidden_size, config.intermediate_size_mlp)

    def block(kind: tuple[str, bool]) -> Node:
        attention, routed = kind
        return Module(
            children={
                "self_attn": _attention(config, attention),
                "feed_forward": _experts(config) if routed else dense,
                "input_layernorm": rms_norm(config.hidden_size),
                "post_attention_layernorm": rms_norm(config.hidden_size),
            }
        )

    kinds = [(kind, config.has_experts(layer)) for layer, kind in enumerate(config.kinds())]
    return decoder(config, layer_stack(kinds, block))


def llama4_vision(config: Llama4VisionConfig) -> Module:
    """Patches and a class token through an encoder, and four patches (or as the config says) to a token."""
    hidden, patch = config.hidden_size, config.patch_size
    patches = Stream(kind="sample", per_sample=config.num_patches)
    mlp = plain_mlp(hidden, config.intermediate_size)
    block = encoder_block(config, mlp, norms=("input_layernorm", "post_attention_layernorm"), out_name="o_proj")
    adapter = {
        "fc1": linear(config.intermediate_size, config.projector_input_dim),
        "fc2": linear(config.projector_output_dim, config.projector_output_dim),
    }
    return Module(
        children={
            "class_embedding": Parameter(shape=(hidden,), bucket="embeddings.other"),
            "positional_embedding_vlm": Parameter(shape=(config.num_positions, hidden), bucket="embeddings.position"),
            "patch_embedding.linear": Linear(
                in_features=config.num_channels * patch * patch,
                out_features=hidden,
                input_needs_grad=False,
                bucket="embeddings.other",
                stream=patches,
            ),
            "layernorm_pre": layer_norm(hidden),
            "layernorm_post": layer_norm(hidden),
            "model.layers": layers(block, config.num_hidden_layers),
            "vision_adapter.mlp": Module(
                children=adapter, bucket="mlp", stream=Stream(kind="sample", per_sample=config.num_tokens)
            ),
        },
        stream=Stream(kind="sample", per_sample=config.num_positions),
    )


TEXT_CLASSES = decoder_classes("Llama4", llama4_text)


def _conditional_generation(config: Llama4Config) -> Node:
    projector = linear(config.vision_config.vision_output_dim, config.text_config.hidden_size)
    return Module(
        children={
            "vision_model": image_tower(llama4_vision(config.vision_config)),
            "multi_modal_projector": Module(
                children={"linear_1": projector},
                bucket="projector",
                stream=Stream(kind="image", per_sample=config.image_tokens),
            ),
            "language_model": TEXT_CLASSES["Llama4ForCausalLM"](config.text_config),
        }
    )


FAMILIES = (
    Family(
        model_type="llama4",
        config=Llama4Config,
        classes={"Llama4ForConditionalGeneration": _conditional_generation},
        default_class="Llama4ForConditionalGeneration",
    ),
    Family(
        model_type="llama4_text",
        config=Llama4TextConfig,
        classes={"Llama4TextModel": llama4_text, "Llama4ForCausalLM": TEXT_CLASSES["Llama4ForCausalLM"]},
        default_class="Llama4ForCausalLM",
    ),
)
