"""DeciLM (`nemotron-nas`): Llama after a search that gave every layer its own number of heads and MLP, or none."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planner.families.blocks import attention, gated_mlp, layer_stack, linear, rms_norm
from planner.families.config import LARGEST_LAYER_COUNT, Dimension, LayerCount, require, require_divides
from planner.families.decoder import decoder, decoder_family
from planner.families.llama import LlamaConfig
from planner.nodes import Module, Node
from planner.numeric import Num, ceil_div, exact_quotient

LARGEST_MULTIPLE = 1024
"""No MLP is nearly so many times as wide as its model; a larger number is a typing error."""

INTERMEDIATE_MULTIPLE = 256
"""The width of an MLP is rounded up to whole tiles of a GPU."""


LLAMA_WIDTH = 11008
"""Width of the MLPs of a config that says nothing about them."""


class _Sublayer(BaseModel):
    """Half of a block. Keys that are null or false switch nothing on; any other unknown key is refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    no_op: bool = False
    replace_with_linear: bool = False

    @model_validator(mode="before")
    @classmethod
    def _switched_on(cls, raw: object) -> object:
        if not isinstance(raw, Mapping):
            return raw
        return {key: value for key, value in raw.items() if value is not None and value is not False}


class AttentionBlock(_Sublayer):
    """Attention of one layer.

    Attributes
    ----------
    n_heads_in_group : int, optional
        Query heads that share a key/value head. [-]
    window_length : int, optional
        Keys that a query sees at most. [token]
    """

    n_heads_in_group: Dimension | None = None
    window_length: Dimension | None = None


class FeedForwardBlock(_Sublayer):
    """MLP of one layer.

    Attributes
    ----------
    ffn_mult : float, optional
        Width in units of two thirds of the model's. [-]
    hidden_act : str, optional
        Activation, which shapes nothing.
    """

    ffn_mult: Annotated[float, Field(gt=0, le=LARGEST_MULTIPLE)] | None = None
    intermediate_size: Dimension | None = None
    hidden_act: str | None = None


class Block(BaseModel):
    """What one layer is made of."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    attention: AttentionBlock = AttentionBlock()
    ffn: FeedForwardBlock = FeedForwardBlock()


class DeciLMConfig(LlamaConfig):
    """Keys of Nemotron Super 49B and Ultra: `block_configs` says what each layer is; without it all are Llama's."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    vocab_size: Dimension = 128256
    hidden_size: Dimension = 8192
    num_hidden_layers: LayerCount = 80
    num_attention_heads: Dimension = 64
    # null in every config whose blocks set the widths
    intermediate_size: Dimension | None = None  # type: ignore[assignment]
    block_configs: Annotated[list[Block], Field(max_length=LARGEST_LAYER_COUNT)] | None = None

    @property
    def blocks(self) -> list[Block]:
        """What each layer is."""
        return [Block()] * self.num_hidden_layers if self.block_configs is None else self.block_configs

    def block_kv_heads(self, block: AttentionBlock) -> Num:
        """Key/value heads of one layer. [-]"""
        if block.n_heads_in_group is None:
            return self.kv_heads
        return exact_quotient(self.num_attention_heads, block.n_heads_in_group)

    def block_inner(self, block: FeedForwardBlock) -> Num:
        """Width of one layer's MLP. [-]"""
        if block.ffn_mult is None:
            stated = self.intermediate_size if block.intermediate_size is None else block.intermediate_size
            return LLAMA_WIDTH if stated is None else stated
        multiple = Fraction(str(block.ffn_mult))
        exact = 2 * multiple.numerator * self.hidden_size // (3 * multiple.denominator)
        return INTERMEDIATE_MULTIPLE * ceil_div(exact, INTERMEDIATE_MULTIPLE)

    def check(self) -> None:
        """Besides the heads, one block a layer, and heads in equal groups."""
        super().check()
        require(
            len(self.blocks) == self.num_hidden_layers,
            "block_configs",
            f"lists {len(self.blocks)} layers, but num_hidden_layers is {self.num_hidden_layers}",
        )
        for position, block in enumerate(self.blocks):
            ffn = block.ffn
            sets_width = ffn.no_op or ffn.replace_with_linear or ffn.ffn_mult or ffn.intermediate_size is not None
            require(
                bool(sets_width) or self.intermediate_size is not None or self.block_configs is None,
                f"block_configs.{position}.ffn.ffn_mult",
                "is missing, and neither the block nor the config states an intermediate_size",
            )
            if block.attention.n_heads_in_group is not None:
                require_divides(
                    f"block_configs.{position}.attention.n_heads_in_group",
                    block.attention.n_heads_in_group,
                    "num_attention_heads",
                    self.num_attention_heads,
                )


def _attention(config: DeciLMConfig, block: AttentionBlock) -> Node:
    if block.replace_with_linear:
        only = linear(config.hidden_size, config.hidden_size, config.attention_bias)
        return Module(children={"linear_attn": only}, bucket="attention")
    return attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.block_kv_heads(block),
        head_dim=config.head_width,
        causal=True,
        qkv_bias=config.qkv_bias,
        out_bias=config.out_bias,
        window=block.window_length,
    )


def _mlp(config: DeciLMConfig, block: FeedForwardBlock) -> Node:
    if block.replace_with_linear:
        return Module(children={"linear_mlp": linear(config.hidden_size, config.hidden_size)}, bucket="mlp")
    return gated_mlp(config.hidden_size, config.block_inner(block), config.mlp_has_bias)


def _layer(config: DeciLMConfig, block: Block) -> Module:
    """A sublayer that was dropped takes its norm along."""
    children: dict[str, Node] = {}
    if not block.attention.no_op:
        children |= {"input_layernorm": rms_norm(config.hidden_size), "self_attn": _attention(config, block.attention)}
    if not block.ffn.no_op:
        children |= {"post_attention_layernorm": rms_norm(config.hidden_size), "mlp": _mlp(config, block.ffn)}
    return Module(children=children)


def decilm_model(config: DeciLMConfig) -> Node:
    """Llama's decoder from blocks of several kinds."""
    return decoder(config, layer_stack(config.blocks, lambda block: _layer(config, block)))


FAMILIES = (decoder_family("nemotron-nas", "DeciLM", DeciLMConfig, decilm_model),)
