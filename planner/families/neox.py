"""GPT-NeoX, BLOOM and Persimmon: decoders that kept the names of Megatron's modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import causal_masks, rotary_frequencies, stated, stated_whole
from planner.families.blocks import layer_norm, layers, plain_mlp, token_embedding, with_children
from planner.families.config import Dimension, LayerCount, require
from planner.families.decoder import NO_SPANS, PRE_NORMS, Heads, decoder_family
from planner.families.plain import PlainConfig, fused_self_attention
from planner.nodes import Module, Node, Stack
from planner.numeric import Num

QKV, OUT = "query_key_value", "dense"
UP, DOWN = "dense_h_to_4h", "dense_4h_to_h"


class GPTNeoXConfig(PlainConfig):
    """GPT-NeoX, Pythia, StableLM-alpha, RedPajama."""

    # Sublayers side by side or one after the other: both have two norms.
    accepted_keys: ClassVar[frozenset[str]] = PlainConfig.accepted_keys | {"use_parallel_residual"}

    vocab_size: Dimension = 50432
    hidden_size: Dimension = 6144
    num_hidden_layers: LayerCount = 44
    num_attention_heads: Dimension = 64
    intermediate_size: Dimension = 24576
    attention_bias: bool = True

    @property
    def inner(self) -> Num:
        """`intermediate_size`."""
        return self.intermediate_size


class BloomConfig(PlainConfig):
    """BLOOM; the MLP is four times as wide as the model, which no key changes."""

    # ALiBi has no table, so that the length shapes nothing.
    accepted_keys: ClassVar[frozenset[str]] = PlainConfig.accepted_keys | {"seq_length"}

    vocab_size: Dimension = 250880
    hidden_size: Dimension = Field(64, validation_alias=AliasChoices("hidden_size", "n_embed"))
    num_hidden_layers: LayerCount = Field(2, validation_alias=AliasChoices("n_layer", "num_hidden_layers"))
    num_attention_heads: Dimension = Field(8, validation_alias=AliasChoices("n_head", "num_attention_heads"))
    tie_word_embeddings: bool = True


class PersimmonConfig(PlainConfig):
    """Persimmon: a LayerNorm over each head's queries and keys."""

    vocab_size: Dimension = 262144
    hidden_size: Dimension = 4096
    num_hidden_layers: LayerCount = 36
    num_attention_heads: Dimension = 64
    intermediate_size: Dimension = 16384
    qk_layernorm: bool = True

    @property
    def inner(self) -> Num:
        """`intermediate_size`."""
        return self.intermediate_size


def _block(config: PlainConfig, attention_name: str, attention: Node) -> Module:
    norm = layer_norm(config.hidden_size)
    return Module(
        children={
            **dict.fromkeys(PRE_NORMS, norm),
            attention_name: attention,
            "mlp": plain_mlp(config.hidden_size, config.inner, UP, DOWN),
        }
    )


def gpt_neox_model(config: GPTNeoXConfig) -> Node:
    """Table, blocks and a last norm."""
    attention = fused_self_attention(config, QKV, OUT, bias=config.attention_bias)
    return Module(
        children={
            "embed_in": token_embedding(config.vocab_size, config.hidden_size),
            "layers": layers(_block(config, "attention", attention), config.num_hidden_layers),
            "final_layer_norm": layer_norm(config.hidden_size),
        }
    )


def bloom_model(config: BloomConfig) -> Node:
    """As GPT-NeoX, with a norm right after the table."""
    attention = fused_self_attention(config, QKV, OUT, bias=True)
    return Module(
        children={
            "word_embeddings": token_embedding(config.vocab_size, config.hidden_size),
            "word_embeddings_layernorm": layer_norm(config.hidden_size),
            "h": layers(_block(config, "self_attention", attention), config.num_hidden_layers),
            "ln_f": layer_norm(config.hidden_size),
        }
    )


def persimmon_model(config: PersimmonConfig) -> Node:
    """As GPT-NeoX, with norms on queries and keys."""
    attention = fused_self_attention(config, QKV, OUT, bias=True)
    if config.qk_layernorm:
        norm = layer_norm(config.head_width)
        attention = with_children(attention, {"q_layernorm": norm, "k_layernorm": norm})
    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, config.hidden_size),
            "layers": layers(_block(config, "self_attn", attention), config.num_hidden_layers),
            "final_layernorm": layer_norm(config.hidden_size),
        }
    )


def _buffers(config: GPTNeoXConfig, raw: Mapping[str, Any]) -> Node:
    """A mask as large as the context, and frequencies of the share of a head that is rotated."""
    positions = stated_whole(raw, "max_position_embeddings", 2048)
    share = stated(raw, "rotary_pct")
    require(share is None or isinstance(share, (int, float)), "rotary_pct", f"expected a share, got {share!r}")
    rotated = int(config.head_width * (0.25 if share is None else share))
    return Module(
        children={
            "layers": Stack(
                parts=(
                    causal_masks(config.num_hidden_layers, positions),
                    rotary_frequencies(config.num_hidden_layers, rotated),
                )
            )
        }
    )


FAMILIES = (
    decoder_family(
        "gpt_neox",
        "GPTNeoX",
        GPTNeoXConfig,
        gpt_neox_model,
        heads=Heads(base="gpt_neox", table="embed_in", label_head="classifier"),
        beside=_buffers,
    ),
    decoder_family(
        "bloom",
        "Bloom",
        BloomConfig,
        bloom_model,
        heads=Heads(base="transformer", table="word_embeddings", label_head="classifier"),
    ),
    decoder_family("persimmon", "Persimmon", PersimmonConfig, persimmon_model, omit=NO_SPANS),
)
