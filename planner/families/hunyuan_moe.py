"""Hunyuan-A13B: experts and a shared MLP in every layer, all as wide as `intermediate_size`; norms named otherwise."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layer_stack, layers, rms_norm, with_children
from planner.families.config import Dimension, require
from planner.families.decoder import (
    NO_SPANS,
    AttentionBiasConfig,
    Heads,
    decoder,
    decoder_family,
    pre_norm_block,
    self_attention,
)
from planner.families.moe import LayerList, check_top_k, routed_mlp
from planner.nodes import Node
from planner.numeric import Num


class HunyuanMoeConfig(AttentionBiasConfig):
    """Keys of Hunyuan-A13B."""

    # The class asks neither for a width of the experts nor for how many are shared: it has one width and one of those.
    accepted_keys: ClassVar[frozenset[str]] = AttentionBiasConfig.accepted_keys | {
        "moe_intermediate_size",
        "num_shared_expert",
        "use_qk_norm",
        "use_mixed_mlp_moe",
        "use_cla",
        "use_mla",
        "cla_share_factor",
        "attention_head_dim",
        "moe_layer_num_skipped",
    }
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"moe_topk", "num_hidden_layers"})

    vocab_size: Dimension = 290943
    num_experts: Dimension = Field(1, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    moe_topk: Dimension | LayerList = Field(1, validation_alias=AliasChoices("moe_topk", "num_experts_per_tok"))

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are, and a list must be as long as there are layers."""
        super().check()
        chosen = self.moe_topk if isinstance(self.moe_topk, list) else [self.moe_topk]
        if isinstance(self.moe_topk, list):
            require(
                len(chosen) >= self.num_hidden_layers,
                "moe_topk",
                f"lists {len(chosen)} layers, but num_hidden_layers is {self.num_hidden_layers}",
            )
        for top_k in chosen:
            check_top_k("moe_topk", top_k, self.num_experts)


def hunyuan_moe_model(config: HunyuanMoeConfig) -> Node:
    """Norms on each head's queries and keys; a list may say how many experts a token visits in each layer."""
    hidden = config.hidden_size
    norms = {"query_layernorm": rms_norm(config.head_width), "key_layernorm": rms_norm(config.head_width)}
    attention = with_children(self_attention(config, None), norms)
    shared = gated_mlp(hidden, config.intermediate_size, bucket="experts.shared")

    def block(top_k: Num) -> Node:
        mlp = routed_mlp(
            hidden_size=hidden,
            num_experts=config.num_experts,
            top_k=top_k,
            intermediate_size=config.intermediate_size,
            shared={"shared_mlp": shared},
            router_name="gate.wg",
        )
        return pre_norm_block(hidden, attention, mlp)

    top_k = config.moe_topk
    if isinstance(top_k, list):
        return decoder(config, layer_stack(top_k[: config.num_hidden_layers], block))
    return decoder(config, layers(block(top_k), config.num_hidden_layers))


FAMILIES = (
    decoder_family(
        "hunyuan_v1_moe",
        "HunYuanMoEV1",
        HunyuanMoeConfig,
        hunyuan_moe_model,
        omit=(*NO_SPANS, "ForTokenClassification"),
        heads=Heads(),
    ),
)
