"""Qwen3-Next: a gated delta net in three layers of four, gated attention in the fourth, experts beside a shared one.

FLOPs of the recurrence: those of the gated delta rule, 7 for a token and a number of the state.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import AliasChoices, Field

from planner.families.beside import prediction_module
from planner.families.blocks import attention, gated_mlp, layer_stack, linear, rms_norm, with_children
from planner.families.config import Count, Dimension, LayerCount, require, require_divides
from planner.families.decoder import FULL, PRE_NORMS, AttentionBiasConfig, block_with_norms, decoder, decoder_family
from planner.families.family import Prediction
from planner.families.moe import LayerList, check_top_k, gated_shared_expert, routed_mlp
from planner.families.recurrence import LINEAR, Kinds, causal_convolution
from planner.formulas.flops import GATED_DELTA_RULE_FLOPS
from planner.nodes import Module, Node, Parameter, Scan
from planner.numeric import Num


class DeltaNetConfig(AttentionBiasConfig):
    """Keys of a decoder some of whose layers have a gated delta net in place of attention."""

    # The window is in no layer; MTP layers are in the checkpoint and not in the class; the gate is not optional.
    accepted_keys: ClassVar[frozenset[str]] = AttentionBiasConfig.accepted_keys | {
        "attn_output_gate",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
    }
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers", "full_attention_interval"})

    head_dim: Dimension | None = 256
    attention_bias: bool = False
    layer_types: Kinds | None = None
    full_attention_interval: Dimension = 4
    linear_num_key_heads: Dimension = 16
    linear_num_value_heads: Dimension = 32
    linear_key_head_dim: Dimension = 128
    linear_value_head_dim: Dimension = 128
    linear_conv_kernel_dim: Dimension = 4

    @property
    def key_width(self) -> Num:
        """Keys of a delta net, and its queries, over all heads."""
        return self.linear_num_key_heads * self.linear_key_head_dim

    @property
    def value_width(self) -> Num:
        """Values of a delta net over all heads."""
        return self.linear_num_value_heads * self.linear_value_head_dim

    def kinds(self) -> list[str]:
        """Kind of each layer."""
        if self.layer_types is not None:
            return self.layer_types
        return [
            LINEAR if (layer + 1) % self.full_attention_interval else FULL for layer in range(self.num_hidden_layers)
        ]

    def check(self) -> None:
        """Besides the heads, key heads must divide value heads, and the list of layers must fit and be known."""
        super().check()
        require_divides(
            "linear_num_key_heads", self.linear_num_key_heads, "linear_num_value_heads", self.linear_num_value_heads
        )
        kinds = self.kinds()
        require(
            len(kinds) == self.num_hidden_layers,
            "layer_types",
            f"lists {len(kinds)} layers, but num_hidden_layers is {self.num_hidden_layers}",
        )
        for kind in kinds:
            require(kind in (LINEAR, FULL), "layer_types", f"expected {LINEAR} or {FULL}, got {kind!r}")


class Qwen3NextConfig(DeltaNetConfig):
    """Qwen3-Next: some layers may keep a dense MLP."""

    column_free_keys: ClassVar[frozenset[str]] = DeltaNetConfig.column_free_keys | {
        "decoder_sparse_step",
        "num_experts",
    }

    vocab_size: Dimension = 151936
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 5632
    num_hidden_layers: LayerCount = 48
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 2
    decoder_sparse_step: Dimension = 1
    mlp_only_layers: LayerList | None = None
    moe_intermediate_size: Dimension = 512
    shared_expert_intermediate_size: Dimension = 512
    num_experts: Count = Field(512, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 10

    def has_experts(self, layer: int) -> bool:
        """Whether the MLP of a layer is routed."""
        dense = layer in (self.mlp_only_layers or ()) or self.num_experts == 0
        return not dense and (layer + 1) % self.decoder_sparse_step == 0

    def check(self) -> None:
        """Besides the layers, no more experts a token than there are."""
        super().check()
        if any(self.has_experts(layer) for layer in range(self.num_hidden_layers)):
            check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)


def gated_delta_net(config: DeltaNetConfig, projections: Mapping[str, Num]) -> Module:
    """Linear attention whose state is corrected by what it holds already, and decays; every value head has one.

    Parameters
    ----------
    config : DeltaNetConfig
        Dimensions.
    projections : mapping of str to Num
        Outputs of each projection of the input: queries, keys and values, the output's gate, and two numbers for each
        value head, all in matrices that differ between classes.
    """
    hidden, heads = config.hidden_size, config.linear_num_value_heads
    state = heads * config.linear_key_head_dim * config.linear_value_head_dim
    conv_width = 2 * config.key_width + config.value_width
    children: dict[str, Node] = {
        "dt_bias": Parameter(shape=(heads,)),
        "A_log": Parameter(shape=(heads,)),
        "conv1d": causal_convolution(conv_width, config.linear_conv_kernel_dim, bias=False),
        **{name: linear(hidden, width) for name, width in projections.items()},
        "norm": rms_norm(config.linear_value_head_dim),
        "out_proj": linear(config.value_width, hidden),
        "": Scan(state_elements=state, flops_per_element=GATED_DELTA_RULE_FLOPS),
    }
    return Module(children=children, bucket="ssm")


def gated_attention(config: DeltaNetConfig) -> Module:
    """Attention whose query projection yields a gate for the output as well."""
    hidden, heads, head_dim = config.hidden_size, config.num_attention_heads, config.head_width
    ungated = attention(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=config.kv_heads,
        head_dim=head_dim,
        causal=True,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        qk_norm=True,
    )
    return with_children(ungated, {"q_proj": linear(hidden, 2 * heads * head_dim, config.qkv_bias)})


M = TypeVar("M", bound=Hashable)


def delta_net_model(
    config: DeltaNetConfig, projections: Mapping[str, Num], mlp_kinds: list[M], mlps: Mapping[M, Node]
) -> Module:
    """Decoder of a mixer and an MLP in each layer.

    Parameters
    ----------
    config : DeltaNetConfig
        Dimensions.
    projections : mapping of str to Num
        As for `gated_delta_net`.
    mlp_kinds : list
        Kind of the MLP of each layer.
    mlps : mapping
        MLP of a kind.
    """
    norm = rms_norm(config.hidden_size)

    def block(kind: tuple[str, M]) -> Node:
        mixer, mlp = kind
        norms = dict.fromkeys(PRE_NORMS, norm)
        if mixer == FULL:
            return block_with_norms(gated_attention(config), mlps[mlp], norm)
        return Module(children={"linear_attn": gated_delta_net(config, projections), "mlp": mlps[mlp], **norms})

    return decoder(config, layer_stack(list(zip(config.kinds(), mlp_kinds, strict=True)), block))


def delta_net_prediction(config: DeltaNetConfig, mlp: Node) -> Node:
    """Module that predicts one token further: a layer with attention."""
    block = block_with_norms(gated_attention(config), mlp, rms_norm(config.hidden_size))
    return prediction_module(
        {"layers.0": block},
        config.hidden_size,
        joints={"fc": 2 * config.hidden_size},
        norms=("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"),
    )


def _experts(config: Qwen3NextConfig) -> Node:
    return routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        shared=gated_shared_expert(config.hidden_size, config.shared_expert_intermediate_size),
    )


def qwen3_next_model(config: Qwen3NextConfig) -> Node:
    """Delta nets and attention, each with experts or a dense MLP."""
    projections = {
        "in_proj_qkvz": 2 * config.key_width + 2 * config.value_width,
        "in_proj_ba": 2 * config.linear_num_value_heads,
    }
    routed = [config.has_experts(layer) for layer in range(config.num_hidden_layers)]
    mlps: dict[bool, Node] = {
        False: gated_mlp(config.hidden_size, config.intermediate_size),
        True: _experts(config),
    }
    return delta_net_model(config, projections, routed, mlps)


def _prediction(config: Qwen3NextConfig, _: Mapping[str, Any]) -> Node:
    return delta_net_prediction(config, _experts(config))


FAMILIES = (
    decoder_family(
        "qwen3_next",
        "Qwen3Next",
        Qwen3NextConfig,
        qwen3_next_model,
        # Released with one, which its config does not mention.
        prediction=Prediction(module=_prediction, unless_stated=1),
    ),
)
