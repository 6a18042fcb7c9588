"""GPT-J, CodeGen, GPT-Neo, StarCoder and MPT: kin of GPT-2 whose weights are stored as torch stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import causal_masks
from planner.families.blocks import (
    attention,
    layer_norm,
    layer_stack,
    layers,
    plain_mlp,
    position_embedding,
    token_embedding,
    with_children,
)
from planner.families.config import LARGEST_LAYER_COUNT, Dimension, LayerCount, require
from planner.families.decoder import NO_SPANS, Heads, decoder_family
from planner.families.plain import PlainConfig, fused_self_attention
from planner.nodes import Attention, Module, Node, Norm
from planner.numeric import Num


class GPTJConfig(PlainConfig):
    """GPT-J and CodeGen, which differ by fused projections only. Positions are rotary."""

    accepted_keys: ClassVar[frozenset[str]] = PlainConfig.accepted_keys | {"n_positions"}

    vocab_size: Dimension = 50400
    hidden_size: Dimension = Field(4096, validation_alias=AliasChoices("n_embd", "hidden_size"))
    num_hidden_layers: LayerCount = Field(28, validation_alias=AliasChoices("n_layer", "num_hidden_layers"))
    num_attention_heads: Dimension = Field(16, validation_alias=AliasChoices("n_head", "num_attention_heads"))
    n_inner: Dimension | None = None

    @property
    def inner(self) -> Num:
        """`n_inner`, or four times the model's width."""
        return super().inner if self.n_inner is None else self.n_inner


class CodeGenConfig(GPTJConfig):
    """Same keys, same defaults."""


class GPTBigCodeConfig(PlainConfig):
    """StarCoder and SantaCoder: one key/value head for all query heads."""

    vocab_size: Dimension = 50257
    hidden_size: Dimension = Field(768, validation_alias=AliasChoices("n_embd", "hidden_size"))
    num_hidden_layers: LayerCount = Field(12, validation_alias=AliasChoices("n_layer", "num_hidden_layers"))
    num_attention_heads: Dimension = Field(12, validation_alias=AliasChoices("n_head", "num_attention_heads"))
    n_positions: Dimension = Field(1024, validation_alias=AliasChoices("n_positions", "max_position_embeddings"))
    n_inner: Dimension | None = None
    multi_query: bool = True
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """`n_inner`, or four times the model's width."""
        return super().inner if self.n_inner is None else self.n_inner

    @property
    def kv_heads(self) -> Num:
        """One, unless `multi_query` is off."""
        return 1 if self.multi_query else self.num_attention_heads

    def check(self) -> None:
        """Besides the heads, cross-attention is not built."""
        super().check()
        require(not self.add_cross_attention, "add_cross_attention", "cross-attention layers are not supported")


class GPTNeoConfig(PlainConfig):
    """GPT-Neo: every other layer sees a window.

    The class masks what lies before a window, and keeps it in its cache all the same: beyond the window, decoding
    multiplies more keys than are counted here.
    """

    # The class writes down what it makes of `attention_types`, and does not read it.
    accepted_keys: ClassVar[frozenset[str]] = frozenset({"attention_layers"})
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    hidden_size: Dimension = 2048
    num_hidden_layers: LayerCount = Field(24, validation_alias=AliasChoices("num_layers", "num_hidden_layers"))
    num_attention_heads: Dimension = Field(16, validation_alias=AliasChoices("num_heads", "num_attention_heads"))
    intermediate_size: Dimension | None = None
    max_position_embeddings: Dimension = 2048
    attention_types: list[Any] = Field([[["global", "local"], 12]], max_length=LARGEST_LAYER_COUNT)
    window_size: Dimension = 256
    tie_word_embeddings: bool = True

    @property
    def inner(self) -> Num:
        """`intermediate_size`, or four times the model's width."""
        return super().inner if self.intermediate_size is None else self.intermediate_size

    def kinds(self) -> list[str]:
        """``global`` or ``local`` for each layer: lists of kinds, each as often as the number behind it says."""
        kinds: list[str] = []
        for item in self.attention_types:
            match item:
                case [[*names], int(times)] if 0 <= times * len(names) <= LARGEST_LAYER_COUNT:
                    kinds += names * times
                case _:
                    require(False, "attention_types", f"expected kinds and how often they follow, got {item!r}")
        return kinds

    def windows(self) -> list[Num | None]:
        """Window of each layer. [token]"""
        return [self.window_size if kind == "local" else None for kind in self.kinds()]

    def check(self) -> None:
        """Besides the heads, there must be a known kind for each layer."""
        super().check()
        kinds = self.kinds()
        require(
            len(kinds) == self.num_hidden_layers,
            "attention_types",
            f"describes {len(kinds)} layers, but num_layers is {self.num_hidden_layers}",
        )
        for kind in kinds:
            require(kind in ("global", "local"), "attention_types", f"expected global or local, got {kind!r}")


class MptConfig(PlainConfig):
    """MPT: no bias anywhere, ALiBi in place of positions."""

    # The class knows one shape only: no bias, a fourfold MLP, as many key/value heads as query heads.
    accepted_keys: ClassVar[frozenset[str]] = PlainConfig.accepted_keys | {
        "attn_config",
        "embedding_fraction",
        "expansion_ratio",
        "learned_pos_emb",
        "max_seq_len",
        "no_bias",
        "norm_type",
        "verbose",
    }

    vocab_size: Dimension = 50368
    hidden_size: Dimension = Field(2048, validation_alias=AliasChoices("d_model", "hidden_size"))
    num_hidden_layers: LayerCount = Field(24, validation_alias=AliasChoices("n_layers", "num_hidden_layers"))
    num_attention_heads: Dimension = Field(16, validation_alias=AliasChoices("n_heads", "num_attention_heads"))
    tie_word_embeddings: bool = True


def _separate_attention(config: PlainConfig, *, out_bias: bool, window: Num | None = None) -> Module:
    return attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        causal=True,
        out_bias=out_bias,
        window=window,
        out_name="out_proj",
    )


def _trunk(config: PlainConfig, blocks: Node, positions: Num | None = None) -> Node:
    children: dict[str, Node] = {"wte": token_embedding(config.vocab_size, config.hidden_size)}
    if positions is not None:
        children["wpe"] = position_embedding(positions, config.hidden_size)
    return Module(children={**children, "h": blocks, "ln_f": layer_norm(config.hidden_size)})


def _parallel_layers(config: GPTJConfig, attn: Node) -> Node:
    """Both sublayers behind one norm."""
    mlp = plain_mlp(config.hidden_size, config.inner, "fc_in", "fc_out")
    block = Module(children={"ln_1": layer_norm(config.hidden_size), "attn": attn, "mlp": mlp})
    return layers(block, config.num_hidden_layers)


def _sequential_block(config: PlainConfig, attn: Node) -> Module:
    norm = layer_norm(config.hidden_size)
    mlp = plain_mlp(config.hidden_size, config.inner, "c_fc", "c_proj")
    return Module(children={"ln_1": norm, "attn": attn, "ln_2": norm, "mlp": mlp})


def gptj_model(config: GPTJConfig) -> Node:
    """Table, blocks and a last norm; biases in the MLP only."""
    return _trunk(config, _parallel_layers(config, _separate_attention(config, out_bias=False)))


def codegen_model(config: CodeGenConfig) -> Node:
    """GPT-J with one matrix for queries, keys and values."""
    return _trunk(config, _parallel_layers(config, fused_self_attention(config, "qkv_proj", "out_proj", bias=False)))


def gpt_neo_model(config: GPTNeoConfig) -> Node:
    """Two tables; the attention stands one module deeper than in its kin."""

    def block(window: Num | None) -> Module:
        attends = _separate_attention(config, out_bias=True, window=window)
        products = attends.children[""]
        assert isinstance(products, Attention)  # noqa: S101 - what every attention has
        attends = with_children(attends, {"": replace(products, class_keeps_all=True)})
        attn = Module(children={"attention": attends})
        return _sequential_block(config, attn)

    return _trunk(config, layer_stack(config.windows(), block), config.max_position_embeddings)


def gpt_bigcode_model(config: GPTBigCodeConfig) -> Node:
    """Two tables, blocks and a last norm."""
    block = _sequential_block(config, fused_self_attention(config, "c_attn", "c_proj", bias=True))
    return _trunk(config, layers(block, config.num_hidden_layers), config.n_positions)


def mpt_model(config: MptConfig) -> Node:
    """Table, blocks and a last norm; the LayerNorms have no bias either."""
    hidden = config.hidden_size
    norm = Norm(dim=hidden)
    block = Module(
        children={
            "norm_1": norm,
            "attn": fused_self_attention(config, "Wqkv", "out_proj", bias=False),
            "norm_2": norm,
            "ffn": plain_mlp(hidden, config.inner, "up_proj", "down_proj", bias=False),
        }
    )
    return Module(
        children={
            "wte": token_embedding(config.vocab_size, hidden),
            "blocks": layers(block, config.num_hidden_layers),
            "norm_f": norm,
        }
    )


def _local_masks(config: GPTNeoConfig, _: Mapping[str, Any]) -> Node:
    """Masks of the layers with a window only."""
    return Module(children={"h": causal_masks(config.kinds().count("local"), config.max_position_embeddings)})


HEADS = Heads(base="transformer", table="wte", label_head="classifier")
BIASED_HEADS = Heads(base="transformer", table="wte", lm_bias=True)

FAMILIES = (
    decoder_family("gptj", "GPTJ", GPTJConfig, gptj_model, omit=("ForTokenClassification",), heads=BIASED_HEADS),
    decoder_family(
        "codegen",
        "CodeGen",
        CodeGenConfig,
        codegen_model,
        omit=("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
        heads=BIASED_HEADS,
    ),
    decoder_family("gpt_neo", "GPTNeo", GPTNeoConfig, gpt_neo_model, heads=HEADS, beside=_local_masks),
    decoder_family("gpt_bigcode", "GPTBigCode", GPTBigCodeConfig, gpt_bigcode_model, omit=NO_SPANS, heads=HEADS),
    decoder_family("mpt", "Mpt", MptConfig, mpt_model, heads=HEADS),
)
