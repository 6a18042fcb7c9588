"""Phi-1 to Phi-4."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import fused_attention, fused_gated_mlp, layer_norm, plain_mlp, with_children
from planner.families.config import Dimension, LayerCount
from planner.families.decoder import (
    NO_SPANS,
    DecoderConfig,
    Heads,
    block_with_norms,
    decoder,
    decoder_family,
    pre_norm_block,
    self_attention,
    windowed_layers,
)
from planner.nodes import Module, Node
from planner.numeric import Num


class PhiConfig(DecoderConfig):
    """Phi-1, 1.5 and 2: biases everywhere, in the head too, and both sublayers behind one norm."""

    vocab_size: Dimension = 51200
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 8192
    num_hidden_layers: LayerCount = 24
    qk_layernorm: bool = False

    @property
    def qkv_bias(self) -> bool:
        """Always."""
        return True

    @property
    def out_bias(self) -> bool:
        """Always."""
        return True


class Phi3Config(DecoderConfig):
    """Phi-3, 3.5 and 4: Llama with fused matrices."""

    # Phi-4-mini states what is off: no bias anywhere, no full attention between windows.
    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {
        "attention_bias",
        "full_attn_mod",
        "interpolate_factor",
        "lm_head_bias",
        "mlp_bias",
    }

    vocab_size: Dimension = 32064
    hidden_size: Dimension = 3072
    intermediate_size: Dimension = 8192
    sliding_window: Dimension | None = None

    def windows(self) -> Num | None:
        """`sliding_window`, for every layer."""
        return self.sliding_window


def phi_model(config: PhiConfig) -> Node:
    """Decoder with LayerNorm and a plain MLP."""

    def block(window: Num | None) -> Module:
        attn = self_attention(config, window, out_name="dense")
        if config.qk_layernorm:
            norm = layer_norm(config.head_width)
            attn = with_children(attn, {"q_layernorm": norm, "k_layernorm": norm})
        mlp = plain_mlp(config.hidden_size, config.intermediate_size)
        return block_with_norms(attn, mlp, layer_norm(config.hidden_size), ("input_layernorm",))

    return decoder(config, windowed_layers(config, block), {"final_layernorm": layer_norm(config.hidden_size)})


def phi3_model(config: Phi3Config) -> Node:
    """Llama's decoder with two fused matrices a layer."""

    def block(window: Num | None) -> Module:
        attn = fused_attention(
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_width,
            qkv_name="qkv_proj",
            out_name="o_proj",
            window=window,
        )
        return pre_norm_block(config.hidden_size, attn, fused_gated_mlp(config.hidden_size, config.intermediate_size))

    return decoder(config, windowed_layers(config, block))


FAMILIES = (
    decoder_family("phi", "Phi", PhiConfig, phi_model, omit=NO_SPANS, heads=Heads(lm_bias=True)),
    decoder_family("phi3", "Phi3", Phi3Config, phi3_model, omit=NO_SPANS),
)
