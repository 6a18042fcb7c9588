"""OPT, BioGPT and XGLM: decoders that kept the names of fairseq's modules."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import (
    attention,
    layer_norm,
    layers,
    linear,
    plain_mlp,
    position_embedding,
    token_embedding,
)
from planner.families.config import Dimension, LayerCount, require
from planner.families.decoder import Heads, decoder_family
from planner.families.plain import PlainConfig
from planner.nodes import Module, Node, Norm
from planner.numeric import Num, all_true, where

OFFSET = 2
"""Rows of the position table before the first position."""


class OPTConfig(PlainConfig):
    """OPT; OPT-350m has a narrower table and norms behind its sublayers."""

    # Writers of OPT-350m's config set it, and the class reads it under another name.
    accepted_keys: ClassVar[frozenset[str]] = frozenset({"prefix"})

    vocab_size: Dimension = 50272
    ffn_dim: Dimension = 3072
    max_position_embeddings: Dimension = 2048
    do_layer_norm_before: bool = True
    remove_final_layer_norm: bool = Field(
        False, validation_alias=AliasChoices("_remove_final_layer_norm", "remove_final_layer_norm")
    )
    word_embed_proj_dim: Dimension | None = None
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """`ffn_dim`."""
        return self.ffn_dim

    @property
    def table_width(self) -> Num:
        """Width of the table, and of what leaves the model."""
        return self.hidden_size if self.word_embed_proj_dim is None else self.word_embed_proj_dim


class BioGptConfig(PlainConfig):
    """BioGPT."""

    vocab_size: Dimension = 42384
    hidden_size: Dimension = 1024
    num_hidden_layers: LayerCount = 24
    num_attention_heads: Dimension = 16
    intermediate_size: Dimension = 4096
    max_position_embeddings: Dimension = 1024
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """`intermediate_size`."""
        return self.intermediate_size


class XGLMConfig(PlainConfig):
    """XGLM: positions are sinusoids, which are computed."""

    vocab_size: Dimension = 256008
    hidden_size: Dimension = Field(1024, validation_alias=AliasChoices("d_model", "hidden_size"))
    num_hidden_layers: LayerCount = Field(24, validation_alias=AliasChoices("num_layers", "num_hidden_layers"))
    num_attention_heads: Dimension = Field(16, validation_alias=AliasChoices("attention_heads", "num_attention_heads"))
    ffn_dim: Dimension = 4096
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """`ffn_dim`."""
        return self.ffn_dim

    def check(self) -> None:
        """Besides the heads, cross-attention is not built."""
        super().check()
        require(not self.add_cross_attention, "add_cross_attention", "cross-attention layers are not supported")


def _blocks(config: PlainConfig, norm: Norm | None, *, bias: bool = True) -> Node:
    self_attn = attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        causal=True,
        qkv_bias=bias,
        out_bias=bias,
        out_name="out_proj",
    )
    block: dict[str, Node] = {"self_attn": self_attn, "": plain_mlp(config.hidden_size, config.inner, bias=bias)}
    if norm is not None:
        block |= {"self_attn_layer_norm": norm, "final_layer_norm": norm}
    return layers(Module(children=block), config.num_hidden_layers)


def opt_model(config: OPTConfig) -> Node:
    """Tables, blocks, a last norm, and projections where the table is not as wide as the model."""
    hidden, width = config.hidden_size, config.table_width
    norm = layer_norm(hidden) if config.layer_norm_elementwise_affine else None
    children: dict[str, Node] = {
        "embed_tokens": token_embedding(config.vocab_size, width),
        "embed_positions": position_embedding(config.max_position_embeddings + OFFSET, hidden),
    }
    if not all_true(width == hidden):
        # In a column some rows may have no projection: theirs has no inputs and so no parameters.
        narrow = where(width != hidden, width, 0)
        projections = {"project_out": linear(hidden, narrow), "project_in": linear(narrow, hidden)}
        children[""] = Module(children=projections, bucket="embeddings.token")
    if norm is not None and config.do_layer_norm_before and not config.remove_final_layer_norm:
        children["final_layer_norm"] = norm
    children["layers"] = _blocks(config, norm, bias=config.enable_bias)
    return Module(children={"decoder": Module(children=children)})


def biogpt_model(config: BioGptConfig) -> Node:
    """Tables, blocks and a last norm."""
    norm = layer_norm(config.hidden_size)
    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, config.hidden_size),
            "embed_positions": position_embedding(config.max_position_embeddings + OFFSET, config.hidden_size),
            "layers": _blocks(config, norm),
            "layer_norm": norm,
        }
    )


def xglm_model(config: XGLMConfig) -> Node:
    """Table, blocks and a last norm."""
    norm = layer_norm(config.hidden_size)
    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, config.hidden_size),
            "layers": _blocks(config, norm),
            "layer_norm": norm,
        }
    )


FAMILIES = (
    decoder_family(
        "opt",
        "OPT",
        OPTConfig,
        opt_model,
        omit=("ForTokenClassification",),
        heads=Heads(table="decoder.embed_tokens", width=lambda config: config.table_width),
    ),
    decoder_family(
        "biogpt",
        "BioGpt",
        BioGptConfig,
        biogpt_model,
        omit=("ForQuestionAnswering",),
        heads=Heads(base="biogpt", lm_head="output_projection", label_head="classifier"),
    ),
    decoder_family(
        "xglm",
        "XGLM",
        XGLMConfig,
        xglm_model,
        omit=("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    ),
)
