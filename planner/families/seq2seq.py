"""Encoder-decoders of the BART kind: what text and speech models of this make share."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import attention, layer_norm, layers
from planner.families.config import Dimension, LayerCount, ModelConfig, require_divides
from planner.nodes import CROSS, Linear, Module, Node, Stream
from planner.numeric import Num, exact_quotient


class Seq2SeqConfig(ModelConfig):
    """Keys of both sides."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"add_cross_attention", "decoder_layerdrop", "encoder_layerdrop", "scale_embedding"}
    )

    vocab_size: Dimension = 50265
    d_model: Dimension = Field(1024, validation_alias=AliasChoices("d_model", "hidden_size"))
    encoder_layers: LayerCount = Field(12, validation_alias=AliasChoices("encoder_layers", "num_hidden_layers"))
    encoder_attention_heads: Dimension = Field(
        16, validation_alias=AliasChoices("encoder_attention_heads", "num_attention_heads")
    )
    encoder_ffn_dim: Dimension = 4096
    decoder_layers: LayerCount = 12
    decoder_attention_heads: Dimension = 16
    decoder_ffn_dim: Dimension = 4096
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """The heads of each side must divide the width."""
        for key in ("encoder_attention_heads", "decoder_attention_heads"):
            require_divides(key, getattr(self, key), "d_model", self.d_model)


def _attention(
    config: Seq2SeqConfig, heads: Num, *, k_bias: bool, causal: bool = False, source: Stream | None = None
) -> Module:
    return attention(
        hidden_size=config.d_model,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=exact_quotient(config.d_model, heads),
        causal=causal,
        qkv_bias=True,
        out_bias=True,
        out_name="out_proj",
        k_bias=k_bias,
        source_size=None if source is None else config.d_model,
        source=CROSS if source is None else source,
    )


def _mlp(config: Seq2SeqConfig, inner: Num) -> dict[str, Node]:
    return {
        "fc1": Linear(in_features=config.d_model, out_features=inner, bias=True, bucket="mlp"),
        "fc2": Linear(in_features=inner, out_features=config.d_model, bias=True, bucket="mlp"),
        "final_layer_norm": layer_norm(config.d_model),
    }


def encoder_layers(config: Seq2SeqConfig, *, k_bias: bool = True) -> Node:
    """Every layer of the encoder; Whisper's key projections have no bias."""
    block = Module(
        children={
            "self_attn": _attention(config, config.encoder_attention_heads, k_bias=k_bias),
            "self_attn_layer_norm": layer_norm(config.d_model),
            **_mlp(config, config.encoder_ffn_dim),
        }
    )
    return layers(block, config.encoder_layers)


def decoder_layers(config: Seq2SeqConfig, *, source: Stream | None, k_bias: bool = True) -> Node:
    """Every layer of the decoder.

    Parameters
    ----------
    config : Seq2SeqConfig
        Dimensions.
    source : Stream or None
        Tokens of the encoder as the decoder reads them; None where the class runs the decoder alone, which then
        holds its cross-attention and does not use it.
    k_bias : bool
        Whether key projections have a bias.
    """
    heads = config.decoder_attention_heads
    cross = _attention(config, heads, k_bias=k_bias, source=source or CROSS)
    block = Module(
        children={
            "self_attn": _attention(config, heads, k_bias=k_bias, causal=True),
            "self_attn_layer_norm": layer_norm(config.d_model),
            "encoder_attn": cross if source is not None else replace(cross, runs=0),
            "encoder_attn_layer_norm": layer_norm(config.d_model),
            **_mlp(config, config.decoder_ffn_dim),
        }
    )
    return layers(block, config.decoder_layers)
