"""Those that put Mixtral's experts into another decoder: Granite MoE and Phi-3.5-MoE."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import layer_norm, layers, linear, rms_norm, with_children
from planner.families.config import Count, Dimension
from planner.families.decoder import (
    NO_LABELS,
    NO_SPANS,
    PRE_NORMS,
    AttentionBiasConfig,
    Heads,
    block_with_norms,
    decoder,
    decoder_family,
    self_attention,
    windowed_layers,
)
from planner.families.moe import MixtralConfig, check_top_k, routed_mlp
from planner.nodes import Module, Node


class GraniteMoeConfig(AttentionBiasConfig):
    """Granite 3.0 MoE: an expert is as wide as `intermediate_size`."""

    accepted_keys: ClassVar[frozenset[str]] = AttentionBiasConfig.accepted_keys | {"logits_scaling"}

    num_local_experts: Dimension = 8
    num_experts_per_tok: Dimension = 2

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)


class GraniteMoeSharedConfig(GraniteMoeConfig):
    """Granite MoE with an MLP that every token passes through, unless it is of width 0."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset({"shared_intermediate_size"})

    shared_intermediate_size: Count = 0


class PhimoeConfig(MixtralConfig, AttentionBiasConfig):
    """Phi-3.5-MoE: Mixtral's keys, norms with biases, and a bias on the head by a key of its own."""

    vocab_size: Dimension = 32064
    intermediate_size: Dimension = 6400
    num_local_experts: Dimension = 16
    lm_head_bias: bool = False


def _experts(config: GraniteMoeConfig | PhimoeConfig) -> Module:
    return routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
        router_name="router",
    )


def granitemoe_model(config: GraniteMoeConfig) -> Node:
    """Llama's decoder with experts in place of the MLP."""
    return decoder(config, layers(_granite_block(config), config.num_hidden_layers))


def granitemoeshared_model(config: GraniteMoeSharedConfig) -> Node:
    """One more MLP beside the experts, its gate and up matrices in one."""
    block, width = _granite_block(config), config.shared_intermediate_size
    if width:
        matrices = {
            "input_linear": linear(config.hidden_size, 2 * width),
            "output_linear": linear(width, config.hidden_size),
        }
        block = with_children(block, {"shared_mlp": Module(children=matrices, bucket="experts.shared")})
    return decoder(config, layers(block, config.num_hidden_layers))


def _granite_block(config: GraniteMoeConfig) -> Module:
    norm = rms_norm(config.hidden_size)
    return Module(
        children={
            "self_attn": self_attention(config, None),
            **dict.fromkeys(PRE_NORMS, norm),
            "block_sparse_moe": _experts(config),
        }
    )


def phimoe_model(config: PhimoeConfig) -> Node:
    """LayerNorms throughout."""
    norm = layer_norm(config.hidden_size)
    blocks = windowed_layers(
        config, lambda window: block_with_norms(self_attention(config, window), _experts(config), norm)
    )
    return decoder(config, blocks, {"norm": norm})


FAMILIES = (
    decoder_family("granitemoe", "GraniteMoe", GraniteMoeConfig, granitemoe_model, omit=NO_LABELS),
    decoder_family(
        "granitemoeshared", "GraniteMoeShared", GraniteMoeSharedConfig, granitemoeshared_model, omit=NO_LABELS
    ),
    decoder_family(
        "phimoe",
        "Phimoe",
        PhimoeConfig,
        phimoe_model,
        omit=(*NO_SPANS, "ForTokenClassification"),
        heads=Heads(lm_bias=lambda config: config.lm_head_bias),
    ),
)
