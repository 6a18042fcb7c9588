"""OLMoE and FlexOlmo: experts in every layer, norms over the queries and keys of all heads together."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from planner.families.blocks import rms_norm, with_children
from planner.families.config import Dimension, LayerCount
from planner.families.decoder import (
    NO_LABELS,
    PRE_NORMS,
    AttentionBiasConfig,
    block_with_norms,
    decoder,
    decoder_family,
    full_width_norms,
    self_attention,
    windowed_layers,
)
from planner.families.moe import check_top_k, routed_mlp
from planner.families.olmo import POST_NORMS
from planner.nodes import Node


class OlmoeConfig(AttentionBiasConfig):
    """OLMoE: an expert is as wide as `intermediate_size`."""

    vocab_size: Dimension = 50304
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 2048
    num_hidden_layers: LayerCount = 16
    num_attention_heads: Dimension = 16
    num_experts: Dimension = Field(64, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 8

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)


class FlexOlmoConfig(OlmoeConfig):
    """FlexOlmo: OLMo 2 with experts that were trained apart."""

    vocab_size: Dimension = 100352
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 11008
    num_hidden_layers: LayerCount = 32
    num_attention_heads: Dimension = 32
    num_experts: Dimension = Field(7, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 5


def _model(config: OlmoeConfig, norms: tuple[str, str]) -> Node:
    mlp = routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
    )
    qk_norms, norm = full_width_norms(config), rms_norm(config.hidden_size)
    blocks = windowed_layers(
        config,
        lambda window: block_with_norms(with_children(self_attention(config, window), qk_norms), mlp, norm, norms),
    )
    return decoder(config, blocks)


def olmoe_model(config: OlmoeConfig) -> Node:
    """Norms before the sublayers."""
    return _model(config, PRE_NORMS)


def flex_olmo_model(config: FlexOlmoConfig) -> Node:
    """Norms behind the sublayers."""
    return _model(config, POST_NORMS)


FAMILIES = (
    decoder_family("flex_olmo", "FlexOlmo", FlexOlmoConfig, flex_olmo_model, omit=NO_LABELS),
    decoder_family("olmoe", "Olmoe", OlmoeConfig, olmoe_model, omit=NO_LABELS),
)
