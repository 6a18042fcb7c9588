"""Llama and those that differ from it by a bias, a norm or a window: Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.families.beside import rotary_frequencies
from planner.families.config import Dimension
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    DecoderConfig,
    Heads,
    SlidingConfig,
    decoder,
    decoder_family,
    dense_block,
    windowed_layers,
)
from planner.nodes import Module, Node
from planner.numeric import Num


class LlamaConfig(AttentionBiasConfig):
    """Llama 1 to 3 and everything that ships as `llama`."""

    mlp_bias: bool = False

    @property
    def mlp_has_bias(self) -> bool:
        """As `mlp_bias` says."""
        return self.mlp_bias


class MistralConfig(DecoderConfig):
    """Mistral: one window for every layer, or none."""

    intermediate_size: Dimension = 14336
    num_key_value_heads: Dimension | None = 8
    sliding_window: Dimension | None = 4096

    def windows(self) -> Num | None:
        """`sliding_window`, for every layer."""
        return self.sliding_window


class Qwen2Config(SlidingConfig):
    """Qwen1.5, Qwen2 and Qwen2.5: q, k and v have a bias that no key mentions."""

    vocab_size: Dimension = 151936
    intermediate_size: Dimension = 22016
    num_key_value_heads: Dimension | None = 32
    use_sliding_window: bool = False
    sliding_window: Dimension | None = 4096
    max_window_layers: int = 28

    @property
    def qkv_bias(self) -> bool:
        """Always: the class takes no key for it."""
        return True

    def default_layer_types(self) -> list[str]:
        """Windows from layer `max_window_layers` on, where they are used at all."""
        return [
            SLIDING if self.use_sliding_window and self.sliding_window and layer >= self.max_window_layers else FULL
            for layer in range(self.num_hidden_layers)
        ]


class Qwen3Config(Qwen2Config):
    """Qwen3: a norm on every head's queries and keys, biases by `attention_bias`."""

    head_dim: Dimension | None = 128
    attention_bias: bool = False

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias

    @property
    def out_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias


def llama_model(config: DecoderConfig) -> Node:
    """Pre-norm decoder with a gated MLP."""
    return decoder(config, windowed_layers(config, lambda window: dense_block(config, window)))


def qwen3_model(config: Qwen3Config) -> Node:
    """Llama's decoder with query and key norms."""
    return decoder(config, windowed_layers(config, lambda window: dense_block(config, window, qk_norm=True)))


def frequencies(config: DecoderConfig, _: Mapping[str, Any]) -> Node:
    """Rotary frequencies of each layer, which the files of Llama 1 and 2 keep."""
    return Module(children={"layers": rotary_frequencies(config.num_hidden_layers, config.head_width)})


FAMILIES = (
    decoder_family("llama", "Llama", LlamaConfig, llama_model, beside=frequencies),
    decoder_family("mistral", "Mistral", MistralConfig, llama_model, heads=Heads()),
    decoder_family("qwen2", "Qwen2", Qwen2Config, llama_model),
    decoder_family("qwen3", "Qwen3", Qwen3Config, qwen3_model),
)
