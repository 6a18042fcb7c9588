"""GLM-4: biases on queries, keys and values, a fused gated MLP, and, since 0414, four norms a layer."""

from __future__ import annotations

from collections.abc import Sequence

from planner.families.blocks import fused_gated_mlp, rms_norm
from planner.families.config import Dimension, LayerCount
from planner.families.decoder import (
    NO_SPANS,
    PRE_NORMS,
    DecoderConfig,
    block_with_norms,
    decoder,
    decoder_family,
    self_attention,
    windowed_layers,
)
from planner.nodes import Node


class GlmConfig(DecoderConfig):
    """Keys of GLM-4 in transformers' own format."""

    vocab_size: Dimension = 151552
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 13696
    num_hidden_layers: LayerCount = 40
    num_key_value_heads: Dimension | None = 2
    head_dim: Dimension | None = 128
    attention_bias: bool = True

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says; the output projection has none."""
        return self.attention_bias


class Glm4Config(GlmConfig):
    """Same keys, same defaults."""


def _model(config: GlmConfig, norms: Sequence[str]) -> Node:
    mlp = fused_gated_mlp(config.hidden_size, config.intermediate_size)
    norm = rms_norm(config.hidden_size)
    blocks = windowed_layers(config, lambda window: block_with_norms(self_attention(config, window), mlp, norm, norms))
    return decoder(config, blocks)


def glm_model(config: GlmConfig) -> Node:
    """A norm before each sublayer."""
    return _model(config, PRE_NORMS)


def glm4_model(config: Glm4Config) -> Node:
    """A norm before and after each sublayer."""
    return _model(config, (*PRE_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm"))


FAMILIES = (
    decoder_family("glm", "Glm", GlmConfig, glm_model, omit=NO_SPANS),
    decoder_family("glm4", "Glm4", Glm4Config, glm4_model, omit=NO_SPANS),
)
