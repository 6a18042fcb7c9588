"""Falcon: one class for four architectures, told apart by flags."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from planner.families.blocks import layer_norm, layers, plain_mlp, token_embedding, with_children
from planner.families.config import Dimension, LayerCount, require_divides
from planner.families.decoder import PRE_NORMS, Heads, decoder_family
from planner.families.plain import PlainConfig, fused_self_attention
from planner.nodes import Attention, Cached, Module, Node
from planner.numeric import Num


class FalconConfig(PlainConfig):
    """Falcon 7B (one key/value head), 40B and 180B (groups, two norms), 11B (groups, one norm), RW (heads, biases)."""

    # Positions have no table, be they ALiBi's or rotary; Falcon2-11B states a ratio beside the width that it gives.
    accepted_keys: ClassVar[frozenset[str]] = PlainConfig.accepted_keys | {"activation", "alibi", "ff_factor"}

    vocab_size: Dimension = 65024
    hidden_size: Dimension = Field(4544, validation_alias=AliasChoices("hidden_size", "n_embed"))
    num_hidden_layers: LayerCount = Field(32, validation_alias=AliasChoices("num_hidden_layers", "n_layer"))
    num_attention_heads: Dimension = Field(71, validation_alias=AliasChoices("num_attention_heads", "n_head"))
    num_kv_heads: Dimension | None = Field(None, validation_alias=AliasChoices("num_kv_heads", "n_head_kv"))
    ffn_hidden_size: Dimension | None = None
    num_ln_in_parallel_attn: Literal[1, 2] | None = None
    new_decoder_architecture: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    bias: bool = False
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """`ffn_hidden_size`, or four times the model's width."""
        return super().inner if self.ffn_hidden_size is None else self.ffn_hidden_size

    @property
    def kv_heads(self) -> Num:
        """Groups in the new architecture, otherwise one or as many as query heads; `num_kv_heads` is not read then."""
        if not self.new_decoder_architecture:
            return 1 if self.multi_query else self.num_attention_heads
        return self.num_attention_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms of a block."""
        if not self.parallel_attn:
            return PRE_NORMS
        count = self.num_ln_in_parallel_attn or (2 if self.new_decoder_architecture else 1)
        return ("ln_attn", "ln_mlp") if count == 2 else ("input_layernorm",)

    def check(self) -> None:
        """Besides the heads, groups must be equally large."""
        super().check()
        require_divides("num_kv_heads", self.kv_heads, "num_attention_heads", self.num_attention_heads)


def _attention(config: FalconConfig) -> Module:
    plain = fused_self_attention(config, "query_key_value", "dense", bias=config.bias)
    if not config.new_decoder_architecture:
        return plain
    products = plain.children[""]
    assert isinstance(products, Attention)  # noqa: S101 - what every attention has
    # The class copies shared keys and values to every query head, and caches the copies.
    copies = Cached(heads=config.num_attention_heads, key_width=config.head_width, value_width=config.head_width)
    return with_children(plain, {"": replace(products, cached_by_class=copies)})


def falcon_model(config: FalconConfig) -> Node:
    """Table, blocks and a last norm."""
    block = Module(
        children={
            "self_attention": _attention(config),
            "mlp": plain_mlp(config.hidden_size, config.inner, "dense_h_to_4h", "dense_4h_to_h", bias=config.bias),
            **dict.fromkeys(config.norms, layer_norm(config.hidden_size)),
        }
    )
    return Module(
        children={
            "word_embeddings": token_embedding(config.vocab_size, config.hidden_size),
            "h": layers(block, config.num_hidden_layers),
            "ln_f": layer_norm(config.hidden_size),
        }
    )


FAMILIES = (
    decoder_family(
        "falcon",
        "Falcon",
        FalconConfig,
        falcon_model,
        heads=Heads(base="transformer", table="word_embeddings", label_head="classifier"),
    ),
)
