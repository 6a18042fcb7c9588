"""MiniMax-M2 and M3: routed experts; M3 also has dense layers, an indexer that chooses blocks, and an image tower."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import router_biases
from planner.families.blocks import fused_gated_mlp, layer_norm, layer_stack, linear, rms_norm, with_children
from planner.families.composed import ImageTextConfig, image_tower, text_head
from planner.families.config import LARGEST_LAYER_COUNT, Dimension, LayerCount, ModelConfig, Names
from planner.families.decoder import (
    FULL,
    NO_LABELS,
    DecoderConfig,
    decoder,
    decoder_classes,
    decoder_family,
    full_width_norms,
    pre_norm_block,
    require_kinds,
    self_attention,
    windowed_layers,
)
from planner.families.family import Family
from planner.families.moe import DENSE, SPARSE, check_top_k, routed_mlp
from planner.families.vision import VisionConfig, encoder_layers
from planner.nodes import Attention, Cached, Convolution, Module, Node, Stream
from planner.numeric import Num, exact_quotient

MTP_KEYS = frozenset({"num_mtp_modules", "mtp_transformer_layers", "use_mtp", "num_nextn_predict_layers"})
"""MTP layers are in the checkpoint and not in the class."""

FIXED_KEYS = frozenset({"use_qk_norm", "qk_norm_type", "use_routing_bias", "attn_type_list"})
"""What the class always does as the released config says: norms on queries and keys, softmax attention throughout."""


class MiniMaxM2Config(DecoderConfig):
    """MiniMax-M2 to M2.7: an expert is as wide as `intermediate_size`, and none is shared."""

    accepted_keys: ClassVar[frozenset[str]] = (
        DecoderConfig.accepted_keys | MTP_KEYS | FIXED_KEYS | {"shared_intermediate_size"}
    )

    vocab_size: Dimension = 200064
    hidden_size: Dimension = 3072
    intermediate_size: Dimension = 1536
    num_hidden_layers: LayerCount = 62
    num_attention_heads: Dimension = 48
    num_key_value_heads: Dimension | None = 8
    head_dim: Dimension | None = 128
    num_local_experts: Dimension = Field(256, validation_alias=AliasChoices("num_local_experts", "num_experts"))
    num_experts_per_tok: Dimension = 8

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)


Switches = Annotated[list[int], Field(max_length=LARGEST_LAYER_COUNT)]
"""List with 0 or 1 for each layer."""


class SparseAttentionConfig(ModelConfig):
    """Nested keys by which the released config states the indexer."""

    # The first blocks are never fixed, and scores are maxima, in every release; the indexer yields no values.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"use_sparse_attention", "sparse_disable_index_value", "sparse_score_type", "sparse_init_block"}
        | {"sparse_local_block"}
    )

    sparse_attention_freq: Switches | None = None
    sparse_num_index_heads: Dimension | None = None
    sparse_index_dim: Dimension | None = None
    sparse_block_size: Dimension | None = None
    sparse_topk_blocks: Dimension | None = None


INDEXED = "minimax_m3_sparse"


class MiniMaxM3TextConfig(MiniMaxM2Config):
    """The decoder of MiniMax-M3. Without lists, every layer has experts and none an indexer."""

    # The width of an expert is `intermediate_size`; how many are shared follows from `shared_intermediate_size`.
    accepted_keys: ClassVar[frozenset[str]] = (
        DecoderConfig.accepted_keys
        | MTP_KEYS
        | FIXED_KEYS
        | {"moe_intermediate_size", "n_shared_experts", "first_k_dense_replace", "attention_output_gate"}
        | {"use_gemma_norm", "index_local_blocks", "swiglu_alpha"}
    )
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    hidden_size: Dimension = 6144
    intermediate_size: Dimension = 3072
    num_hidden_layers: LayerCount = 60
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension | None = 4
    num_local_experts: Dimension = Field(128, validation_alias=AliasChoices("num_local_experts", "num_experts"))
    num_experts_per_tok: Dimension = 4
    dense_intermediate_size: Dimension = 12288
    shared_intermediate_size: Dimension = 3072
    mlp_layer_types: Names | None = None
    moe_layer_freq: Switches | None = None
    layer_types: Names | None = None
    index_n_heads: Dimension = 4
    index_head_dim: Dimension = 128
    index_block_size: Dimension = 128
    index_topk_blocks: Dimension = 16
    sparse_attention_config: SparseAttentionConfig = SparseAttentionConfig()

    @property
    def index_heads(self) -> Num:
        """Heads of the indexer, under either name."""
        stated = self.sparse_attention_config.sparse_num_index_heads
        return self.index_n_heads if stated is None else stated

    @property
    def index_width(self) -> Num:
        """Width of one of them, under either name."""
        stated = self.sparse_attention_config.sparse_index_dim
        return self.index_head_dim if stated is None else stated

    @property
    def selected_keys(self) -> Num:
        """Keys of the blocks that the indexer leaves to a query, the last one counted whole. [token]"""
        sparse = self.sparse_attention_config
        size = self.index_block_size if sparse.sparse_block_size is None else sparse.sparse_block_size
        return size * (self.index_topk_blocks if sparse.sparse_topk_blocks is None else sparse.sparse_topk_blocks)

    def attention_kinds(self) -> list[str]:
        """Whether each layer has an indexer."""
        switches = self.sparse_attention_config.sparse_attention_freq
        if self.layer_types is not None:
            return self.layer_types
        if switches is not None:
            return [INDEXED if switch else FULL for switch in switches]
        return [FULL] * self.num_hidden_layers

    def mlp_kinds(self) -> list[str]:
        """Whether each layer has experts."""
        if self.mlp_layer_types is not None:
            return self.mlp_layer_types
        if self.moe_layer_freq is not None:
            return [SPARSE if switch else DENSE for switch in self.moe_layer_freq]
        return [SPARSE] * self.num_hidden_layers

    def check(self) -> None:
        """Besides heads and experts, lists must name a kind for each layer."""
        super().check()
        listed = "layer_types" if self.layer_types is not None else "sparse_attention_config.sparse_attention_freq"
        require_kinds(listed, self.attention_kinds(), self.num_hidden_layers, (INDEXED, FULL))
        listed = "mlp_layer_types" if self.mlp_layer_types is not None else "moe_layer_freq"
        require_kinds(listed, self.mlp_kinds(), self.num_hidden_layers, (DENSE, SPARSE))


class MiniMaxM3VisionConfig(VisionConfig):
    """The image tower: rotary positions, and pictures as pairs of frames."""

    # Written for the remote code's CLIP; the class reads how patches are merged and paired from keys of its own.
    accepted_keys: ClassVar[frozenset[str]] = VisionConfig.accepted_keys | {
        "projection_dim",
        "vocab_size",
        "img_token_compression_config",
        "vision_segment_max_frames",
    }

    hidden_size: Dimension = 1280
    intermediate_size: Dimension = 5120
    num_hidden_layers: LayerCount = 32
    num_attention_heads: Dimension = 16
    image_size: Dimension = 2016
    patch_size: Dimension = 14
    temporal_patch_size: Dimension = 2
    spatial_merge_size: Dimension = 2


class MiniMaxM3Config(ImageTextConfig):
    """MiniMax-M3 with its image tower; an image counts as large as `image_size` allows, smaller ones yield less."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "img_token_compression_config",
            "image_grid_pinpoints",
            "image_seq_length",
            "multimodal_projector_bias",
            "num_reward_heads",
            "process_image_mode",
            "vision_feature_layer",
            "vision_feature_select_strategy",
        }
    )

    text_config: MiniMaxM3TextConfig = MiniMaxM3TextConfig()
    vision_config: MiniMaxM3VisionConfig = MiniMaxM3VisionConfig()
    projector_hidden_size: Dimension = 6144

    @property
    def patches_per_token(self) -> Num:
        """Patches that the projector merges into one token."""
        return self.vision_config.spatial_merge_size**2

    @property
    def image_tokens(self) -> Num:
        """Tokens of an image. [token]"""
        return exact_quotient(self.vision_config.num_patches, self.patches_per_token)


def minimax_m2_model(config: MiniMaxM2Config) -> Node:
    """Norms over the queries and keys of all heads together."""
    mlp = routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
    )
    norms = full_width_norms(config)
    blocks = windowed_layers(
        config,
        lambda window: pre_norm_block(config.hidden_size, with_children(self_attention(config, window), norms), mlp),
    )
    return decoder(config, blocks)


def _block_indexer(config: MiniMaxM3TextConfig) -> Module:
    hidden, heads, width = config.hidden_size, config.index_heads, config.index_width
    return Module(
        children={
            "q_proj": linear(hidden, heads * width),
            "k_proj": linear(hidden, width),
            "q_norm": rms_norm(width),
            "k_norm": rms_norm(width),
            # Scores alone: a block's score is the largest of its keys.
            "": Attention(
                num_heads=heads,
                qk_head_dim=width,
                v_head_dim=0,
                causal=True,
                cached=Cached(heads=1, key_width=width, value_width=0, kind="indexer"),
            ),
        },
        backward=False,
    )


def _indexed_attention(config: MiniMaxM3TextConfig) -> Module:
    plain = self_attention(config, None, qk_norm=True)
    products = plain.children[""]
    assert isinstance(products, Attention)  # noqa: S101 - what every attention has
    changes: dict[str, Node] = {"indexer": _block_indexer(config), "": replace(products, selected=config.selected_keys)}
    return with_children(plain, changes)


def minimax_m3_text_model(config: MiniMaxM3TextConfig) -> Node:
    """Norms on each head's queries and keys; blocks of keys are chosen, for the heads that share keys together."""
    hidden = config.hidden_size
    shared = replace(fused_gated_mlp(hidden, config.shared_intermediate_size), bucket="experts.shared")
    experts = routed_mlp(
        hidden_size=hidden,
        num_experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
        shared={"shared_experts": shared},
    )
    mlps = {SPARSE: experts, DENSE: fused_gated_mlp(hidden, config.dense_intermediate_size)}
    attentions = {FULL: self_attention(config, None, qk_norm=True), INDEXED: _indexed_attention(config)}
    blocks = layer_stack(
        list(zip(config.attention_kinds(), config.mlp_kinds(), strict=True)),
        lambda kind: pre_norm_block(hidden, attentions[kind[0]], mlps[kind[1]]),
    )
    return decoder(config, blocks)


def _vision_tower(config: MiniMaxM3VisionConfig) -> Module:
    patches = Stream(kind="sample", per_sample=config.num_patches)
    convolution = Convolution(
        in_channels=config.num_channels,
        out_channels=config.hidden_size,
        kernel_size=(config.temporal_patch_size, config.patch_size, config.patch_size),
        bias=False,
        input_needs_grad=False,
    )
    return Module(
        children={
            "embeddings.proj": convolution,
            "pre_layrnorm": layer_norm(config.hidden_size),
            "layers": encoder_layers(config),
        },
        stream=patches,
    )


def minimax_m3_model(config: MiniMaxM3Config) -> Node:
    """Image tower, projector and decoder; the projector widens patches first and merges them afterwards."""
    image, text = config.vision_config, config.text_config
    inner, outer = config.projector_hidden_size, text.hidden_size
    merged = Stream(kind="image", per_sample=config.image_tokens)
    projector = Module(
        children={
            "linear_1": linear(image.hidden_size, inner, bias=True),
            "linear_2": linear(inner, outer, bias=True),
            "merge_linear_1": replace(linear(outer * config.patches_per_token, inner, bias=True), stream=merged),
            "merge_linear_2": replace(linear(inner, outer, bias=True), stream=merged),
        },
        bucket="projector",
        stream=Stream(kind="image", per_sample=image.num_patches),
    )
    return Module(
        children={
            "vision_tower": image_tower(_vision_tower(image)),
            "multi_modal_projector": projector,
            "language_model": minimax_m3_text_model(text),
        }
    )


def _conditional_generation(config: MiniMaxM3Config) -> Node:
    tied = config.tie_word_embeddings or config.text_config.tie_word_embeddings
    return text_head(minimax_m3_model(config), config.text_config, tied=tied)


def _text_family(model_type: str, *other_names: str) -> Family:
    """The decoder alone, and what other code calls its language model."""
    causal_lm = decoder_classes("MiniMaxM3VL", minimax_m3_text_model)["MiniMaxM3VLForCausalLM"]
    return Family(
        model_type=model_type,
        config=MiniMaxM3TextConfig,
        classes={
            "MiniMaxM3VLTextModel": minimax_m3_text_model,
            **dict.fromkeys(("MiniMaxM3VLForCausalLM", *other_names), causal_lm),
        },
        default_class="MiniMaxM3VLForCausalLM",
        beside=router_biases(minimax_m3_text_model),
    )


FAMILIES = (
    decoder_family(
        "minimax_m2",
        "MiniMaxM2",
        MiniMaxM2Config,
        minimax_m2_model,
        omit=NO_LABELS,
        beside=router_biases(minimax_m2_model),
    ),
    Family(
        model_type="minimax_m3_vl",
        config=MiniMaxM3Config,
        classes={
            "MiniMaxM3VLModel": minimax_m3_model,
            "MiniMaxM3SparseForConditionalGeneration": _conditional_generation,
        },
        default_class="MiniMaxM3SparseForConditionalGeneration",
        beside=router_biases(minimax_m3_model),
    ),
    _text_family("minimax_m3_vl_text"),
    # As configs of the decoder alone call it.
    _text_family("minimax_m3", "MiniMaxM3ForCausalLM", "MiniMaxM3SparseForCausalLM"),
)
