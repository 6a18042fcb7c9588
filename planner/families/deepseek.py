"""DeepSeek-V3 and Kimi-K2: latent attention (MLA), dense layers first, then routed experts beside shared ones."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layers, linear, rms_norm
from planner.families.config import Count, Dimension, LayerCount, require
from planner.families.decoder import DecoderConfig, decoder, decoder_family, pre_norm_block
from planner.families.moe import check_top_k, router
from planner.nodes import Attention, Experts, Module, Node, Stack
from planner.numeric import all_true


class DeepseekV3Config(DecoderConfig):
    """Keys of DeepSeek-V3, R1 and Kimi-K2."""

    # A latent replaces key/value heads; MTP layers are in the checkpoint and not in the class.
    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {
        "head_dim",
        "num_key_value_heads",
        "qk_head_dim",
        "num_nextn_predict_layers",
        "num_mtp_layers",
        "moe_layer_freq",
        "ep_size",
    }

    vocab_size: Dimension = 129280
    hidden_size: Dimension = 7168
    intermediate_size: Dimension = 18432
    moe_intermediate_size: Dimension = 2048
    num_hidden_layers: LayerCount = 61
    num_attention_heads: Dimension = 128
    num_key_value_heads: Dimension | None = None
    n_shared_experts: Count = 1
    n_routed_experts: Dimension = Field(256, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 8
    first_k_dense_replace: Count = 3
    kv_lora_rank: Dimension = 512
    q_lora_rank: Dimension | None = 1536
    qk_nope_head_dim: Dimension = 128
    qk_rope_head_dim: Dimension = 64
    v_head_dim: Dimension = 128
    attention_bias: bool = False

    def check(self) -> None:
        """No more dense layers than layers, no more experts a token than there are."""
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.n_routed_experts)
        require(
            all_true(self.first_k_dense_replace <= self.num_hidden_layers),
            "first_k_dense_replace",
            f"{self.first_k_dense_replace} dense layers, but num_hidden_layers is {self.num_hidden_layers}",
        )


def latent_attention(config: DeepseekV3Config) -> Module:
    """MLA: queries and keys/values each through a low-rank latent with a norm; the rope part of a key has no latent."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    qk_head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
    bias = config.attention_bias
    children: dict[str, Node]
    if config.q_lora_rank is None:
        children = {"q_proj": linear(hidden, heads * qk_head_dim)}
    else:
        children = {
            "q_a_proj": linear(hidden, config.q_lora_rank, bias),
            "q_a_layernorm": rms_norm(config.q_lora_rank),
            "q_b_proj": linear(config.q_lora_rank, heads * qk_head_dim),
        }
    children |= {
        "kv_a_proj_with_mqa": linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim, bias),
        "kv_a_layernorm": rms_norm(config.kv_lora_rank),
        "kv_b_proj": linear(config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim)),
        "o_proj": linear(heads * config.v_head_dim, hidden, bias),
        "": Attention(num_heads=heads, qk_head_dim=qk_head_dim, v_head_dim=config.v_head_dim, causal=True),
    }
    return Module(children=children, bucket="attention")


def deepseek_model(config: DeepseekV3Config) -> Node:
    """`first_k_dense_replace` dense layers, then layers with experts."""
    hidden = config.hidden_size
    shared_width = config.moe_intermediate_size * config.n_shared_experts
    experts = Module(
        children={
            "experts": Experts(
                num_experts=config.n_routed_experts,
                top_k=config.num_experts_per_tok,
                hidden_size=hidden,
                intermediate_size=config.moe_intermediate_size,
            ),
            "gate": router(hidden, config.n_routed_experts),
            "shared_experts": gated_mlp(hidden, shared_width, bucket="experts.shared"),
        }
    )
    dense = gated_mlp(hidden, config.intermediate_size)
    dense_layers = config.first_k_dense_replace
    parts = (
        layers(pre_norm_block(hidden, latent_attention(config), dense), dense_layers),
        layers(
            pre_norm_block(hidden, latent_attention(config), experts),
            config.num_hidden_layers - dense_layers,
            start=dense_layers,
        ),
    )
    return decoder(config, Stack(parts=parts))


OMITTED = ("ForQuestionAnswering",)

FAMILIES = (
    decoder_family("deepseek_v3", "DeepseekV3", DeepseekV3Config, deepseek_model, omit=OMITTED),
    # Kimi-K2 states a model type of its own and the class of DeepSeek-V3.
    decoder_family("kimi_k2", "DeepseekV3", DeepseekV3Config, deepseek_model, omit=OMITTED),
)
