"""StarCoder2, Nemotron, Arcee and Apertus: decoders with rotary positions whose MLP has two matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from planner.families.blocks import layer_norm, plain_mlp, rms_norm, with_children
from planner.families.config import Dimension, LayerCount
from planner.families.decoder import (
    NO_SPANS,
    PRE_NORMS,
    AttentionBiasConfig,
    DecoderConfig,
    Heads,
    UseBiasConfig,
    block_with_norms,
    decoder,
    decoder_family,
    self_attention,
    windowed_layers,
)
from planner.families.llama import LlamaConfig
from planner.nodes import Module, Node, Norm, Parameter
from planner.numeric import Num


class Starcoder2Config(UseBiasConfig):
    """StarCoder2: LayerNorm, and biases in every matrix."""

    # Written by the training framework; the class knows one kind of MLP and of norm.
    accepted_keys: ClassVar[frozenset[str]] = UseBiasConfig.accepted_keys | {"mlp_type", "norm_type"}

    vocab_size: Dimension = 49152
    hidden_size: Dimension = 3072
    intermediate_size: Dimension = 12288
    num_hidden_layers: LayerCount = 30
    num_attention_heads: Dimension = 24
    num_key_value_heads: Dimension | None = 2
    sliding_window: Dimension | None = None
    use_bias: bool = True
    tie_word_embeddings: bool = True

    def windows(self) -> Num | None:
        """`sliding_window`, for every layer."""
        return self.sliding_window


class NemotronConfig(LlamaConfig):
    """Nemotron-4 and Minitron: LayerNorm with gain and bias."""

    vocab_size: Dimension = 256000
    hidden_size: Dimension = 6144
    intermediate_size: Dimension = 24576
    num_attention_heads: Dimension = 48


class ArceeConfig(LlamaConfig):
    """AFM: Llama without a gate."""

    hidden_size: Dimension = 2560
    intermediate_size: Dimension = 18432


class ApertusConfig(AttentionBiasConfig):
    """Apertus: norms on queries and keys, and an activation with two parameters."""

    # It norms queries and keys in any case.
    accepted_keys: ClassVar[frozenset[str]] = AttentionBiasConfig.accepted_keys | {"mlp_bias", "post_norm", "qk_norm"}

    vocab_size: Dimension = 131072
    intermediate_size: Dimension = 14336


def _model(
    config: DecoderConfig,
    mlp: Node,
    norm: Callable[[Num], Norm],
    norms: Sequence[str] = PRE_NORMS,
    *,
    qk_norm: bool = False,
) -> Node:
    def block(window: Num | None) -> Module:
        attn = self_attention(config, window, qk_norm=qk_norm)
        return block_with_norms(attn, mlp, norm(config.hidden_size), norms)

    return decoder(config, windowed_layers(config, block), {"norm": norm(config.hidden_size)})


def _up_and_down(config: DecoderConfig) -> Module:
    return plain_mlp(config.hidden_size, config.intermediate_size, "up_proj", "down_proj", bias=config.mlp_has_bias)


def starcoder2_model(config: Starcoder2Config) -> Node:
    """Decoder with LayerNorm and GPT-2's names in the MLP."""
    mlp = plain_mlp(config.hidden_size, config.intermediate_size, "c_fc", "c_proj", bias=config.use_bias)
    return _model(config, mlp, layer_norm)


def nemotron_model(config: NemotronConfig) -> Node:
    """Decoder with LayerNorm."""
    return _model(config, _up_and_down(config), layer_norm)


def arcee_model(config: ArceeConfig) -> Node:
    """Decoder with RMSNorm."""
    return _model(config, _up_and_down(config), rms_norm)


def apertus_model(config: ApertusConfig) -> Node:
    """Decoder with RMSNorm, on queries and keys too."""
    # xIELU learns its slopes on both sides of zero.
    slope = Parameter(shape=(1,))
    mlp = with_children(_up_and_down(config), {"act_fn.alpha_p": slope, "act_fn.alpha_n": slope})
    return _model(config, mlp, rms_norm, ("attention_layernorm", "feedforward_layernorm"), qk_norm=True)


FAMILIES = (
    decoder_family("starcoder2", "Starcoder2", Starcoder2Config, starcoder2_model, omit=NO_SPANS),
    decoder_family("nemotron", "Nemotron", NemotronConfig, nemotron_model),
    decoder_family("arcee", "Arcee", ArceeConfig, arcee_model),
    decoder_family(
        "apertus",
        "Apertus",
        ApertusConfig,
        apertus_model,
        omit=("ForSequenceClassification", "ForQuestionAnswering"),
        heads=Heads(),
    ),
)
