"""Decoders of the Llama kind: what they share, so that a family states only how it differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from planner.families.blocks import (
    attention,
    gated_mlp,
    layer_stack,
    layers,
    linear,
    output_head,
    rms_norm,
    token_embedding,
)
from planner.families.config import Dimension, LayerCount, ModelConfig, Names, require, require_divides
from planner.families.family import Builder, Family, Prediction, StoredBuilder
from planner.nodes import Module, Node, Norm
from planner.numeric import Num, exact_quotient

SLIDING = "sliding_attention"
FULL = "full_attention"


class DecoderConfig(ModelConfig):
    """Keys of a decoder with rotary positions, RMSNorm and a gated MLP. Defaults are set by each family."""

    # Rotary positions have no table, and windows that the class does not use shape nothing.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"max_position_embeddings", "sliding_window", "use_sliding_window", "max_window_layers"}
    )

    vocab_size: Dimension = 32000
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 11008
    num_hidden_layers: LayerCount = 32
    num_attention_heads: Dimension = 32
    num_key_value_heads: Dimension | None = None
    head_dim: Dimension | None = None
    tie_word_embeddings: bool = False

    @property
    def kv_heads(self) -> Num:
        """Key/value heads: as many as query heads where the config does not say."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_width(self) -> Num:
        """Width of a head: `head_dim`, or `hidden_size / num_attention_heads` where the config does not say."""
        if self.head_dim is not None:
            return self.head_dim
        return exact_quotient(self.hidden_size, self.num_attention_heads)

    @property
    def qkv_bias(self) -> bool:
        """Whether the q, k and v projections have a bias."""
        return False

    @property
    def out_bias(self) -> bool:
        """Whether the output projection has a bias."""
        return False

    @property
    def mlp_has_bias(self) -> bool:
        """Whether the MLP's matrices have a bias."""
        return False

    def windows(self) -> Num | Sequence[Num | None] | None:
        """Sliding window of every layer: one for all, or one a layer. [token]"""
        return None

    def check(self) -> None:
        """Heads must fit."""
        self.check_heads()

    def check_heads(self) -> None:
        """Heads must divide the width where `head_dim` is left to the quotient, and share key/value heads evenly."""
        if self.head_dim is None:
            require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        require_divides("num_key_value_heads", self.kv_heads, "num_attention_heads", self.num_attention_heads)


class AttentionBiasConfig(DecoderConfig):
    """A decoder whose `attention_bias` speaks for all four projections of its attention."""

    attention_bias: bool = False

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias

    @property
    def out_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias


class UseBiasConfig(DecoderConfig):
    """A decoder whose `use_bias` speaks for every matrix of its layers."""

    use_bias: bool = False

    @property
    def qkv_bias(self) -> bool:
        """As `use_bias` says."""
        return self.use_bias

    @property
    def out_bias(self) -> bool:
        """As `use_bias` says."""
        return self.use_bias

    @property
    def mlp_has_bias(self) -> bool:
        """As `use_bias` says."""
        return self.use_bias


class SlidingConfig(DecoderConfig):
    """A decoder some of whose layers see only a window."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers", "sliding_window"})

    sliding_window: Dimension | None = None
    layer_types: Names | None = None

    def default_layer_types(self) -> list[str]:
        """Kind of each layer where the config does not list them."""
        return [FULL] * self.num_hidden_layers

    def layer_windows(self) -> list[Num | None]:
        """Sliding window of each layer. [token]"""
        kinds = self.default_layer_types() if self.layer_types is None else self.layer_types
        return [self.sliding_window if kind == SLIDING else None for kind in kinds]

    def windows(self) -> Num | Sequence[Num | None] | None:
        """Sliding window of every layer. [token]"""
        return self.layer_windows()

    def check(self) -> None:
        """Besides the heads, the list of layer kinds must be as long as there are layers, and known."""
        super().check()
        if self.layer_types is not None:
            require_kinds("layer_types", self.layer_types, self.num_hidden_layers, (SLIDING, FULL))


def require_kinds(key: str, kinds: Sequence[str], num_layers: int, allowed: Sequence[str]) -> None:
    """Raise `ConfigError` for `key` unless it lists one of the allowed kinds for each layer."""
    require(len(kinds) == num_layers, key, f"lists {len(kinds)} layers, but num_hidden_layers is {num_layers}")
    for kind in kinds:
        require(kind in allowed, key, f"expected {' or '.join(allowed)}, got {kind!r}")


def self_attention(
    config: DecoderConfig,
    window: Num | None,
    *,
    qk_norm: bool = False,
    sinks: bool = False,
    out_name: str = "o_proj",
    causal: bool = True,
) -> Module:
    """The decoder's attention with the dimensions of its config."""
    return attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        causal=causal,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        window=window,
        qk_norm=qk_norm,
        sinks=sinks,
        out_name=out_name,
    )


def full_width_norms(config: DecoderConfig) -> dict[str, Node]:
    """Norms over the queries and keys of all heads together, where a class has such and none of single heads."""
    return {
        "q_norm": rms_norm(config.num_attention_heads * config.head_width),
        "k_norm": rms_norm(config.kv_heads * config.head_width),
    }


PRE_NORMS = ("input_layernorm", "post_attention_layernorm")


def block_with_norms(self_attn: Node, mlp: Node, norm: Norm, names: Sequence[str] = PRE_NORMS) -> Module:
    """Two sublayers and the norms around them: equal in shape, so that their order is the class's own affair."""
    return Module(children={"self_attn": self_attn, "mlp": mlp, **dict.fromkeys(names, norm)})


def pre_norm_block(hidden_size: Num, self_attn: Node, mlp: Node) -> Module:
    """Two sublayers, each behind an RMSNorm."""
    return block_with_norms(self_attn, mlp, rms_norm(hidden_size))


def dense_block(config: DecoderConfig, window: Num | None, *, qk_norm: bool = False) -> Module:
    """Attention and a gated MLP."""
    mlp = gated_mlp(config.hidden_size, config.intermediate_size, config.mlp_has_bias)
    return pre_norm_block(config.hidden_size, self_attention(config, window, qk_norm=qk_norm), mlp)


def windowed_layers(config: DecoderConfig, block: Callable[[Num | None], Node]) -> Node:
    """Every layer of a decoder whose layers differ at most by their window."""
    windows = config.windows()
    if isinstance(windows, Sequence):
        return layer_stack(windows, block)
    return layers(block(windows), config.num_hidden_layers)


def decoder(config: DecoderConfig, blocks: Node, norm: Mapping[str, Norm] | None = None) -> Module:
    """Input table, blocks and a last norm: what transformers calls the Model.

    Parameters
    ----------
    config : DecoderConfig
        Dimensions.
    blocks : Node
        Every layer.
    norm : mapping of str to Norm, optional
        Last norm by its name, where it is no RMSNorm called ``norm``; empty where it has no parameters.
    """
    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, config.hidden_size),
            "layers": blocks,
            **({"norm": rms_norm(config.hidden_size)} if norm is None else norm),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What a family calls the model inside its other classes, and the heads on it.

    Attributes
    ----------
    base : str
        The model inside a class with a head.
    span_base : str, optional
        The same in the class that finds spans, where that differs.
    table : str
        Input table inside the model, whose matrix a tied head runs with.
    lm_head, label_head : str
        Heads over the vocabulary, and over the labels of a token.
    lm_bias : bool or callable
        Whether the head over the vocabulary has a bias, or how the config says so.
    width : callable
        Width of what the model returns.
    """

    base: str = "model"
    span_base: str | None = None
    table: str = "embed_tokens"
    lm_head: str = "lm_head"
    label_head: str = "score"
    lm_bias: bool | Callable[[Any], bool] = False
    width: Callable[[Any], Num] = attrgetter("hidden_size")


LLAMA_HEADS = Heads(span_base="transformer")


def decoder_classes(
    prefix: str, model: Builder, *, omit: Sequence[str] = (), heads: Heads = LLAMA_HEADS
) -> Mapping[str, Builder]:
    """Classes that transformers makes of every decoder: the model with a language, classification or span head."""

    def causal_lm(config: Any) -> Node:
        tied_to = f"{heads.base}.{heads.table}" if config.tie_word_embeddings else None
        bias = heads.lm_bias(config) if callable(heads.lm_bias) else heads.lm_bias
        lm_head = output_head(heads.width(config), config.vocab_size, tied_to, bias)
        return Module(children={heads.base: model(config), heads.lm_head: lm_head})

    def with_head(base: str, name: str, outputs: Callable[[Any], Num], *, bias: bool) -> Builder:
        def build(config: Any) -> Node:
            head = Module(children={"": linear(heads.width(config), outputs(config), bias)}, bucket="other.lm_head")
            return Module(children={base: model(config), name: head})

        return build

    classes: dict[str, Builder] = {
        f"{prefix}Model": model,
        f"{prefix}ForCausalLM": causal_lm,
        f"{prefix}ForSequenceClassification": with_head(heads.base, "score", lambda c: c.num_labels, bias=False),
        f"{prefix}ForTokenClassification": with_head(heads.base, heads.label_head, lambda c: c.num_labels, bias=True),
        f"{prefix}ForQuestionAnswering": with_head(heads.span_base or heads.base, "qa_outputs", lambda _: 2, bias=True),
    }
    return {name: build for name, build in classes.items() if name.removeprefix(prefix) not in omit}


def decoder_family(
    model_type: str,
    prefix: str,
    config: type[ModelConfig],
    model: Builder,
    *,
    omit: Sequence[str] = (),
    heads: Heads = LLAMA_HEADS,
    prediction: Prediction | None = None,
    beside: StoredBuilder | None = None,
) -> Family:
    """Family of a decoder, its usual class the language model."""
    return Family(
        model_type=model_type,
        config=config,
        classes=decoder_classes(prefix, model, omit=omit, heads=heads),
        default_class=f"{prefix}ForCausalLM",
        prediction=prediction,
        beside=beside,
    )


NO_SPANS = ("ForQuestionAnswering",)
"""Classes to omit where the family has none that finds spans."""

NO_LABELS = (*NO_SPANS, "ForSequenceClassification", "ForTokenClassification")
"""Classes to omit where the family has a language model only."""
