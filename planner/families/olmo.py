"""OLMo 1 to 3 and EXAONE 4: no norm parameters at all, then norms behind the sublayers."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import gated_mlp, rms_norm, with_children
from planner.families.config import Dimension
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    DecoderConfig,
    SlidingConfig,
    block_with_norms,
    decoder,
    decoder_family,
    full_width_norms,
    self_attention,
    windowed_layers,
)
from planner.nodes import Module, Node
from planner.numeric import Num


class OlmoConfig(AttentionBiasConfig):
    """OLMo 1; OLMo 2 has the same keys and defaults."""

    vocab_size: Dimension = 50304


class Olmo2Config(OlmoConfig):
    """OLMo 2."""


class Olmo3Config(AttentionBiasConfig, SlidingConfig):
    """OLMo 3: three layers with a window to one without."""

    vocab_size: Dimension = 50304
    sliding_window: Dimension | None = 4096

    def default_layer_types(self) -> list[str]:
        """Every fourth layer is full."""
        return [SLIDING if (layer + 1) % 4 else FULL for layer in range(self.num_hidden_layers)]


class Exaone4Config(SlidingConfig):
    """EXAONE 4: OLMo 2's norms around the sublayers, Qwen3's on each head's queries and keys."""

    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {"sliding_window_pattern"}

    vocab_size: Dimension = 102400
    intermediate_size: Dimension = 16384
    num_key_value_heads: Dimension | None = 32
    sliding_window: Dimension | None = 4096
    sliding_window_pattern: Dimension | str | None = 4

    def default_layer_types(self) -> list[str]:
        """Every `sliding_window_pattern`-th layer is full; or a word such as ``LLLG`` names local and global ones."""
        layers, pattern = range(self.num_hidden_layers), self.sliding_window_pattern
        if self.sliding_window is None or not pattern:
            return [FULL for _ in layers]
        if isinstance(pattern, str):
            return [SLIDING if pattern[layer % len(pattern)] == "L" else FULL for layer in layers]
        return [SLIDING if (layer + 1) % pattern else FULL for layer in layers]


POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def olmo_model(config: OlmoConfig) -> Node:
    """Llama's decoder, its norms without parameters."""
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)

    def block(window: Num | None) -> Module:
        return Module(children={"self_attn": self_attention(config, window), "mlp": mlp})

    return decoder(config, windowed_layers(config, block), {})


def _post_norm_block(config: DecoderConfig, attention: Node) -> Module:
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)
    return block_with_norms(attention, mlp, rms_norm(config.hidden_size), POST_NORMS)


def olmo2_model(config: DecoderConfig) -> Node:
    """Norms behind the sublayers, and over all heads' queries and keys together."""
    norms = full_width_norms(config)

    def block(window: Num | None) -> Module:
        return _post_norm_block(config, with_children(self_attention(config, window), norms))

    return decoder(config, windowed_layers(config, block))


def exaone4_model(config: Exaone4Config) -> Node:
    """Norms behind the sublayers, and over each head's queries and keys."""

    def block(window: Num | None) -> Module:
        return _post_norm_block(config, self_attention(config, window, qk_norm=True))

    return decoder(config, windowed_layers(config, block))


NO_LABELS = ("ForTokenClassification", "ForQuestionAnswering")

FAMILIES = (
    decoder_family("olmo", "Olmo", OlmoConfig, olmo_model, omit=NO_LABELS),
    decoder_family("olmo2", "Olmo2", Olmo2Config, olmo2_model, omit=NO_LABELS),
    decoder_family("olmo3", "Olmo3", Olmo3Config, olmo2_model, omit=NO_LABELS),
    decoder_family("exaone4", "Exaone4", Exaone4Config, exaone4_model),
)
