"""Decoders that are Llama but for a default, a bias or a norm."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layer_norm, layers, rms_norm, with_children
from planner.families.config import Dimension, LayerCount, require
from planner.families.decoder import (
    FULL,
    NO_SPANS,
    PRE_NORMS,
    SLIDING,
    AttentionBiasConfig,
    DecoderConfig,
    Heads,
    SlidingConfig,
    UseBiasConfig,
    block_with_norms,
    decoder,
    decoder_family,
    pre_norm_block,
    self_attention,
    windowed_layers,
)
from planner.families.llama import LlamaConfig, MistralConfig, llama_model
from planner.families.moe import LayerList
from planner.nodes import Module, Node, Norm
from planner.numeric import Num, all_true


class GraniteConfig(LlamaConfig):
    """Granite 3: Llama's shapes and keys; its multipliers scale values."""


class ExaoneConfig(LlamaConfig):
    """EXAONE 3: Llama under a type of its own, which transformers builds with Llama's classes."""

    vocab_size: Dimension = 102400
    intermediate_size: Dimension = 14336
    num_hidden_layers: LayerCount = Field(32, validation_alias=AliasChoices("num_hidden_layers", "num_layers"))
    num_key_value_heads: Dimension | None = 8


class SmolLM3Config(LlamaConfig, SlidingConfig):
    """SmolLM3: some layers have no rotary positions, and only those may have a window."""

    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {"no_rope_layer_interval"}

    vocab_size: Dimension = 128256
    hidden_size: Dimension = 2048
    num_hidden_layers: LayerCount = 36
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 4
    use_sliding_window: bool = False
    no_rope_layers: LayerList | None = None
    no_rope_layer_interval: Dimension = 4
    tie_word_embeddings: bool = True

    def default_layer_types(self) -> list[str]:
        """A window where it is used at all and the layer has no rotary positions (0 in `no_rope_layers`)."""
        if not self.use_sliding_window or self.sliding_window is None:
            return [FULL] * self.num_hidden_layers
        rotary = self.no_rope_layers or [
            (layer + 1) % self.no_rope_layer_interval for layer in range(self.num_hidden_layers)
        ]
        return [FULL if has_rope else SLIDING for has_rope in rotary]

    def layer_windows(self) -> list[Num | None]:
        """Sliding window of each layer, if windows are used at all. [token]"""
        kinds = self.default_layer_types() if self.layer_types is None else self.layer_types
        return [self.sliding_window if self.use_sliding_window and kind == SLIDING else None for kind in kinds]

    def check(self) -> None:
        """Besides the kinds of layers, one flag a layer."""
        super().check()
        if self.no_rope_layers is not None:
            require(
                len(self.no_rope_layers) == self.num_hidden_layers,
                "no_rope_layers",
                f"lists {len(self.no_rope_layers)} layers, but num_hidden_layers is {self.num_hidden_layers}",
            )


class HeliumConfig(LlamaConfig):
    """Helium: the output projection is square and has no bias."""

    vocab_size: Dimension = 48000
    hidden_size: Dimension = 2560
    intermediate_size: Dimension = 7040
    num_hidden_layers: LayerCount = 24
    num_attention_heads: Dimension = 20
    num_key_value_heads: Dimension | None = 20
    head_dim: Dimension | None = 128

    @property
    def out_bias(self) -> bool:
        """Never."""
        return False

    def check(self) -> None:
        """Besides the heads, they must fill the width."""
        super().check()
        width = self.num_attention_heads * self.head_width
        # Two symbols are equal in form only, so that == would refuse them.
        fills = all_true(width <= self.hidden_size) and all_true(width >= self.hidden_size)
        require(fills, "head_dim", "heads must fill hidden_size in this class")


class Ministral3Config(MistralConfig):
    """Ministral 3, the decoder alone."""

    vocab_size: Dimension = 131072
    num_hidden_layers: LayerCount = 34
    head_dim: Dimension | None = 128
    sliding_window: Dimension | None = None


class Ernie45Config(UseBiasConfig):
    """ERNIE 4.5, the dense ones."""

    vocab_size: Dimension = 103424
    hidden_size: Dimension = 1024
    intermediate_size: Dimension = 3072
    num_hidden_layers: LayerCount = 18
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 2
    head_dim: Dimension | None = 128
    tie_word_embeddings: bool = True


class SeedOssConfig(LlamaConfig):
    """Seed-OSS: biases on queries, keys and values."""

    vocab_size: Dimension = 155136
    intermediate_size: Dimension = 27648
    num_hidden_layers: LayerCount = 64
    num_attention_heads: Dimension = 80
    num_key_value_heads: Dimension | None = 8
    head_dim: Dimension | None = 128
    attention_bias: bool = True
    attention_out_bias: bool = False

    @property
    def out_bias(self) -> bool:
        """As `attention_out_bias` says."""
        return self.attention_out_bias


class HunYuanDenseConfig(AttentionBiasConfig):
    """Hunyuan's dense models: norms on each head's queries and keys, under other names."""

    # The framework's own word for the same, and switches that the class does not have.
    accepted_keys: ClassVar[frozenset[str]] = AttentionBiasConfig.accepted_keys | {
        "attention_head_dim",
        "mlp_bias",
        "org_vocab_size",
        "use_cla",
        "use_qk_norm",
    }

    vocab_size: Dimension = 290943


class StableLmConfig(DecoderConfig):
    """StableLM 2: LayerNorm, the second of which parallel sublayers do without."""

    vocab_size: Dimension = 50304
    hidden_size: Dimension = 2560
    intermediate_size: Dimension = 6912
    num_key_value_heads: Dimension | None = 32
    use_qkv_bias: bool = False
    qk_layernorm: bool = False
    use_parallel_residual: bool = False

    @property
    def qkv_bias(self) -> bool:
        """As `use_qkv_bias` says; the output projection has none."""
        return self.use_qkv_bias


def hunyuan_model(config: HunYuanDenseConfig) -> Node:
    """Llama's decoder with query and key norms."""
    norm = rms_norm(config.head_width)
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)

    def block(window: Num | None) -> Module:
        attention = with_children(self_attention(config, window), {"query_layernorm": norm, "key_layernorm": norm})
        return pre_norm_block(config.hidden_size, attention, mlp)

    return decoder(config, windowed_layers(config, block))


def stablelm_model(config: StableLmConfig) -> Node:
    """Llama's decoder with LayerNorm; each head may have a norm of its own for its queries or keys."""
    norm = layer_norm(config.hidden_size)
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)
    qk_norms: dict[str, Node] = {}
    if config.qk_layernorm:
        # a LayerNorm without a bias
        head_norm = Norm(dim=config.head_width)
        qk_norms = {
            "q_layernorm.norms": layers(head_norm, config.num_attention_heads),
            "k_layernorm.norms": layers(head_norm, config.kv_heads),
        }

    def block(window: Num | None) -> Module:
        names = PRE_NORMS[:1] if config.use_parallel_residual else PRE_NORMS
        return block_with_norms(with_children(self_attention(config, window), qk_norms), mlp, norm, names)

    return decoder(config, windowed_layers(config, block), {"norm": norm})


NO_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
NO_LABELS = ("ForTokenClassification", "ForQuestionAnswering")

FAMILIES = (
    decoder_family("granite", "Granite", GraniteConfig, llama_model, omit=NO_HEADS),
    decoder_family("exaone", "Exaone", ExaoneConfig, llama_model),
    decoder_family("smollm3", "SmolLM3", SmolLM3Config, llama_model),
    decoder_family("helium", "Helium", HeliumConfig, llama_model, omit=NO_SPANS),
    replace(
        decoder_family("ministral3", "Ministral3", Ministral3Config, llama_model, heads=Heads()), composed="mistral3"
    ),
    decoder_family("ernie4_5", "Ernie4_5", Ernie45Config, llama_model, omit=NO_HEADS),
    decoder_family("seed_oss", "SeedOss", SeedOssConfig, llama_model),
    decoder_family("hunyuan_v1_dense", "HunYuanDenseV1", HunYuanDenseConfig, hunyuan_model, omit=NO_LABELS),
    decoder_family("stablelm", "StableLm", StableLmConfig, stablelm_model, omit=NO_SPANS),
)
