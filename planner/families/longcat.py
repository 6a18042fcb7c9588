"""LongCat-Flash: two latent attentions and two MLPs a layer, and experts of which some do nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import router_biases
from planner.families.blocks import gated_mlp, layers, rms_norm
from planner.families.config import Count, Dimension, LayerCount, require
from planner.families.decoder import NO_LABELS, decoder, decoder_family
from planner.families.deepseek import LatentAttentionConfig, latent_attention
from planner.families.moe import check_top_k
from planner.nodes import Experts, Linear, Module, Node
from planner.numeric import all_true, exact_quotient


class LongcatFlashConfig(LatentAttentionConfig):
    """Keys of LongCat-Flash; a layer is a pair of what other models call layers."""

    accepted_keys: ClassVar[frozenset[str]] = LatentAttentionConfig.accepted_keys | {
        "num_nextn_predict_layers",
        "mla_scale_q_lora",
        "mla_scale_kv_lora",
        "zero_expert_type",
        "norm_topk_prob",
    }

    vocab_size: Dimension = 131072
    hidden_size: Dimension = 6144
    intermediate_size: Dimension = Field(12288, validation_alias=AliasChoices("ffn_hidden_size", "intermediate_size"))
    num_layers: LayerCount = 28
    # Written by transformers as twice the number of layers.
    num_hidden_layers: LayerCount | None = None  # type: ignore[assignment]
    num_attention_heads: Dimension = 64
    q_lora_rank: Dimension = 1536
    moe_topk: Dimension = Field(12, validation_alias=AliasChoices("moe_topk", "num_experts_per_tok"))
    n_routed_experts: Dimension = Field(512, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    zero_expert_num: Count = 256
    moe_intermediate_size: Dimension = Field(
        2048, validation_alias=AliasChoices("expert_ffn_hidden_size", "moe_intermediate_size")
    )
    router_bias: bool = False

    def check(self) -> None:
        """No more experts a token than there are, those that do nothing included; two sublayers a layer."""
        check_top_k("moe_topk", self.moe_topk, self.n_routed_experts + self.zero_expert_num)
        if self.num_hidden_layers is not None:
            require(
                all_true(self.num_hidden_layers == 2 * self.num_layers),
                "num_hidden_layers",
                f"expected twice num_layers ({self.num_layers}), got {self.num_hidden_layers}",
            )


def longcat_flash_model(config: LongcatFlashConfig) -> Node:
    """Two sublayers of each kind, and experts in parallel to the second half.

    A token chooses among experts of which some hand it on unchanged; what it visits is counted by the share of the
    others, as if every expert were chosen equally often. The class of transformers keeps slices of the first tensor for
    those that do nothing as well, which no checkpoint has and which are not counted.
    """
    hidden, every = config.hidden_size, config.n_routed_experts + config.zero_expert_num
    score = Linear(
        in_features=hidden,
        out_features=every,
        bias=config.router_bias,
        weight_name="classifier.weight",
        bias_name="classifier.bias",
        bucket="router",
    )
    experts = Experts(
        num_experts=config.n_routed_experts,
        top_k=exact_quotient(config.moe_topk * config.n_routed_experts, every),
        hidden_size=hidden,
        intermediate_size=config.moe_intermediate_size,
    )
    block = Module(
        children={
            "mlp": Module(children={"experts": experts, "router": score}),
            "self_attn": layers(latent_attention(config), 2),
            "mlps": layers(gated_mlp(hidden, config.intermediate_size), 2),
            "input_layernorm": layers(rms_norm(hidden), 2),
            "post_attention_layernorm": layers(rms_norm(hidden), 2),
        }
    )
    return decoder(config, layers(block, config.num_layers))


NOTE = (
    "experts that do nothing hold no weights, as in the checkpoint; the class of transformers keeps an unused "
    "gate and up matrix for each of them"
)

FAMILIES = (
    replace(
        decoder_family(
            "longcat_flash",
            "LongcatFlash",
            LongcatFlashConfig,
            longcat_flash_model,
            omit=NO_LABELS,
            beside=router_biases(longcat_flash_model),
        ),
        note=NOTE,
    ),
)
