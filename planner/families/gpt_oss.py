"""gpt-oss: experts with biases, an attention sink a head, every other layer with a window."""

from __future__ import annotations

from pydantic import AliasChoices, Field

from planner.families.config import Dimension, LayerCount
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    SlidingConfig,
    decoder,
    decoder_family,
    pre_norm_block,
    self_attention,
    windowed_layers,
)
from planner.families.moe import check_top_k, router
from planner.nodes import Experts, Module, Node


class GptOssConfig(AttentionBiasConfig, SlidingConfig):
    """Keys of gpt-oss."""

    vocab_size: Dimension = 201088
    hidden_size: Dimension = 2880
    intermediate_size: Dimension = 2880
    num_hidden_layers: LayerCount = 36
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension | None = 8
    head_dim: Dimension | None = 64
    sliding_window: Dimension | None = 128
    attention_bias: bool = True
    num_local_experts: Dimension = Field(128, validation_alias=AliasChoices("num_local_experts", "num_experts"))
    num_experts_per_tok: Dimension = Field(4, validation_alias=AliasChoices("num_experts_per_tok", "experts_per_token"))

    def default_layer_types(self) -> list[str]:
        """Window and full in turn, the window first."""
        return [SLIDING if layer % 2 == 0 else FULL for layer in range(self.num_hidden_layers)]

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)


def gpt_oss_model(config: GptOssConfig) -> Node:
    """Decoder with sinks and biased experts."""
    mlp = Module(
        children={
            "router": router(config.hidden_size, config.num_local_experts, bias=True),
            "experts": Experts(
                num_experts=config.num_local_experts,
                top_k=config.num_experts_per_tok,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                bias=True,
                transposed=True,
            ),
        }
    )
    blocks = windowed_layers(
        config, lambda window: pre_norm_block(config.hidden_size, self_attention(config, window, sinks=True), mlp)
    )
    return decoder(config, blocks)


FAMILIES = (decoder_family("gpt_oss", "GptOss", GptOssConfig, gpt_oss_model, omit=("ForQuestionAnswering",)),)
