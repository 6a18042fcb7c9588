"""Cohere's Command and Aya: both sublayers behind one LayerNorm without a bias."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import gated_mlp, with_children
from planner.families.config import Dimension, LayerCount
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    DecoderConfig,
    SlidingConfig,
    block_with_norms,
    decoder,
    decoder_family,
    self_attention,
    windowed_layers,
)
from planner.nodes import Module, Node, Norm, Parameter
from planner.numeric import Num, exact_quotient


class CohereConfig(AttentionBiasConfig):
    """Command R and Aya 23; R+ norms queries and keys."""

    vocab_size: Dimension = 256000
    hidden_size: Dimension = 8192
    intermediate_size: Dimension = 22528
    num_hidden_layers: LayerCount = 40
    num_attention_heads: Dimension = 64
    use_qk_norm: bool = False
    tie_word_embeddings: bool = True


class Cohere2Config(AttentionBiasConfig, SlidingConfig):
    """Command R7B and Command A: three layers with a window to one without."""

    # How the training framework cut the model, and a norm that the class has not.
    accepted_keys: ClassVar[frozenset[str]] = SlidingConfig.accepted_keys | {
        "order_of_interleaved_layers",
        "position_embedding_type",
        "use_embedding_sharing",
        "use_gated_activation",
        "use_parallel_block",
        "use_parallel_embedding",
        "use_qk_norm",
    }
    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {"sliding_window_pattern"}

    vocab_size: Dimension = 256000
    hidden_size: Dimension = 8192
    intermediate_size: Dimension = 22528
    num_hidden_layers: LayerCount = 40
    num_attention_heads: Dimension = 64
    sliding_window: Dimension | None = 4096
    sliding_window_pattern: Dimension = 4
    tie_word_embeddings: bool = True

    @property
    def head_width(self) -> Num:
        """Always the quotient: the class overwrites `head_dim`."""
        return exact_quotient(self.hidden_size, self.num_attention_heads)

    def default_layer_types(self) -> list[str]:
        """Every `sliding_window_pattern`-th layer is full."""
        return [
            SLIDING if (layer + 1) % self.sliding_window_pattern else FULL for layer in range(self.num_hidden_layers)
        ]


def _decoder(config: DecoderConfig, qk_norms: dict[str, Node]) -> Node:
    # a LayerNorm without a bias
    norm = Norm(dim=config.hidden_size)
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)

    def block(window: Num | None) -> Module:
        attention = with_children(self_attention(config, window), qk_norms)
        return block_with_norms(attention, mlp, norm, ("input_layernorm",))

    return decoder(config, windowed_layers(config, block), {"norm": norm})


def cohere_model(config: CohereConfig) -> Node:
    """Decoder, with a gain for every head's every channel where it norms queries and keys."""
    norms: dict[str, Node] = {}
    if config.use_qk_norm:
        norms = {
            f"{name}.weight": Parameter(shape=(heads, config.head_width), bucket="norms")
            for name, heads in (("q_norm", config.num_attention_heads), ("k_norm", config.kv_heads))
        }
    return _decoder(config, norms)


def cohere2_model(config: Cohere2Config) -> Node:
    """Decoder with windows."""
    return _decoder(config, {})


OMITTED = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")

FAMILIES = (
    decoder_family("cohere", "Cohere", CohereConfig, cohere_model, omit=OMITTED),
    decoder_family("cohere2", "Cohere2", Cohere2Config, cohere2_model, omit=OMITTED),
)
