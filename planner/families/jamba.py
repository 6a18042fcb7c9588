"""Jamba: Mamba layers with attention in every eighth, experts in every second.

FLOPs of the recurrence: those of Mamba's selective scan, 9 for a token and a number of the state.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layer_stack, rms_norm
from planner.families.config import Count, Dimension, require
from planner.families.decoder import DecoderConfig, decoder, decoder_family, self_attention
from planner.families.moe import check_top_k, routed_mlp
from planner.families.recurrence import Rank, mamba_mixer, step_rank
from planner.nodes import Module, Node


class JambaConfig(DecoderConfig):
    """Keys of Jamba 1 to 1.7."""

    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {
        "use_mamba_kernels",
        "use_mambapy",
        "use_associative_scan",
        "num_logits_to_keep",
    }
    column_free_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "num_hidden_layers",
            "num_experts",
            "attn_layer_period",
            "attn_layer_offset",
            "expert_layer_period",
            "expert_layer_offset",
        }
    )

    vocab_size: Dimension = 65536
    intermediate_size: Dimension = 14336
    num_key_value_heads: Dimension | None = 8
    num_experts: Dimension = Field(16, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 2
    attn_layer_period: Dimension = 8
    attn_layer_offset: Count = 4
    expert_layer_period: Dimension = 2
    expert_layer_offset: Count = 1
    mamba_d_state: Dimension = 16
    mamba_d_conv: Dimension = 4
    mamba_expand: Dimension = 2
    mamba_dt_rank: Rank = None
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False

    def kind(self, layer: int) -> tuple[bool, bool]:
        """Whether a layer has attention, and whether it has experts."""
        return (
            layer % self.attn_layer_period == self.attn_layer_offset,
            self.num_experts > 1 and layer % self.expert_layer_period == self.expert_layer_offset,
        )

    def check(self) -> None:
        """Besides the heads, an offset must lie inside its period, and no more experts a token than there are."""
        super().check()
        for what in ("attn_layer", "expert_layer"):
            offset, period = getattr(self, f"{what}_offset"), getattr(self, f"{what}_period")
            require(offset < period, f"{what}_offset", f"{offset}, but {what}_period is {period}")
        if any(self.kind(layer)[1] for layer in range(self.num_hidden_layers)):
            check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)


def jamba_model(config: JambaConfig) -> Node:
    """A mixer and an MLP or experts in each layer, each behind a norm."""
    hidden = config.hidden_size
    rank = step_rank(config.mamba_dt_rank, hidden)
    mamba = mamba_mixer(
        hidden_size=hidden,
        inner_size=config.mamba_expand * hidden,
        state_size=config.mamba_d_state,
        rank=rank,
        kernel_size=config.mamba_d_conv,
        bias=config.mamba_proj_bias,
        conv_bias=config.mamba_conv_bias,
        norms={
            "dt_layernorm": rms_norm(rank),
            "b_layernorm": rms_norm(config.mamba_d_state),
            "c_layernorm": rms_norm(config.mamba_d_state),
        },
    )
    experts = routed_mlp(
        hidden_size=hidden,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
        router_name="router",
    )
    dense = gated_mlp(hidden, config.intermediate_size)

    def block(kind: tuple[bool, bool]) -> Node:
        attends, routed = kind
        mixer = {"self_attn": self_attention(config, None)} if attends else {"mamba": mamba}
        return Module(
            children={
                **mixer,
                "feed_forward": experts if routed else dense,
                "input_layernorm": rms_norm(hidden),
                "pre_ff_layernorm": rms_norm(hidden),
            }
        )

    blocks = layer_stack([config.kind(layer) for layer in range(config.num_hidden_layers)], block)
    return decoder(config, blocks, {"final_layernorm": rms_norm(hidden)})


FAMILIES = (
    decoder_family("jamba", "Jamba", JambaConfig, jamba_model, omit=("ForTokenClassification", "ForQuestionAnswering")),
)
