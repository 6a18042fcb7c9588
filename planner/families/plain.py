"""What decoders of GPT-2's time share: LayerNorm, a two-matrix MLP, and heads that fill the width."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import fused_attention
from planner.families.config import Dimension, LayerCount, ModelConfig, require_divides
from planner.nodes import Module
from planner.numeric import Num, exact_quotient


class PlainConfig(ModelConfig):
    """Keys of such a decoder. Defaults are set by each family."""

    # Read by those families only that have a table of positions.
    accepted_keys: ClassVar[frozenset[str]] = frozenset({"max_position_embeddings"})

    vocab_size: Dimension = 50257
    hidden_size: Dimension = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 12

    @property
    def inner(self) -> Num:
        """Width of the MLP: four times the model's, unless the family has a key for it."""
        return 4 * self.hidden_size

    @property
    def head_width(self) -> Num:
        """Width of a head."""
        return exact_quotient(self.hidden_size, self.num_attention_heads)

    @property
    def kv_heads(self) -> Num:
        """Key/value heads: as many as query heads, unless the family shares them."""
        return self.num_attention_heads

    def check(self) -> None:
        """Heads must divide the width."""
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)


def fused_self_attention(
    config: PlainConfig, qkv_name: str, out_name: str, *, bias: bool, window: Num | None = None
) -> Module:
    """The decoder's attention with the dimensions of its config."""
    return fused_attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        qkv_name=qkv_name,
        out_name=out_name,
        bias=bias,
        window=window,
    )
