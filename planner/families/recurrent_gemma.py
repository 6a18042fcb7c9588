"""RecurrentGemma (Griffin): two layers with a gated linear recurrence to one with attention over a window.

FLOPs of the recurrence: those of the RG-LRU, 6 for a token and a number of the state; its two gates are products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layer_stack, linear, rms_norm
from planner.families.config import Dimension, LayerCount, Names, require, require_divides
from planner.families.decoder import DecoderConfig, decoder, decoder_family, self_attention
from planner.families.recurrence import causal_convolution
from planner.formulas.flops import RG_LRU_FLOPS
from planner.nodes import Linear, Module, Node, Parameter, Scan, Stack
from planner.numeric import Num, exact_quotient

RECURRENT = "recurrent"
ATTENTION = "attention"


class RecurrentGemmaConfig(DecoderConfig):
    """Keys of RecurrentGemma."""

    # the authors' name of block_types, and rules that shape nothing
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"_block_types", "max_position_embeddings", "embeddings_scale_by_sqrt_dim", "logits_soft_cap"}
    )
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    vocab_size: Dimension = 256000
    hidden_size: Dimension = 2560
    intermediate_size: Dimension = 3 * 2560
    num_hidden_layers: LayerCount = 26
    num_attention_heads: Dimension = 10
    lru_width: Dimension | None = None
    conv1d_width: Dimension = 4
    attention_window_size: Dimension = Field(
        2048, validation_alias=AliasChoices("attention_window_size", "sliding_window")
    )
    attention_bias: bool = False
    block_types: Names = [RECURRENT, RECURRENT, ATTENTION]  # noqa: RUF012 - pydantic copies it
    tie_word_embeddings: bool = True

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias

    @property
    def out_bias(self) -> bool:
        """Always: the class takes no key for it."""
        return True

    @property
    def recurrent_width(self) -> Num:
        """Numbers in the state: as wide as the model where the config does not say."""
        return self.hidden_size if self.lru_width is None else self.lru_width

    def windows(self) -> Num | Sequence[Num | None] | None:
        """The window of every layer that has attention. [token]"""
        return self.attention_window_size

    def kinds(self) -> list[str]:
        """Kind of each layer: the pattern, repeated."""
        return [self.block_types[layer % len(self.block_types)] for layer in range(self.num_hidden_layers)]

    def check(self) -> None:
        """Besides the heads, which gates share as blocks, the pattern must hold known kinds."""
        super().check()
        require_divides("num_attention_heads", self.num_attention_heads, "lru_width", self.recurrent_width)
        require_divides("2", 2, "intermediate_size", self.intermediate_size)
        require(bool(self.block_types), "block_types", "is empty")
        for kind in self.block_types:
            require(kind in (RECURRENT, ATTENTION), "block_types", f"expected recurrent or attention, got {kind!r}")


def _gate(name: str, width: Num, heads: Num) -> Linear:
    return Linear(
        in_features=width,
        out_features=width,
        bias=True,
        blocks=heads,
        transposed=True,
        weight_name=f"{name}_weight",
        bias_name=f"{name}_bias",
    )


def _recurrent_block(config: RecurrentGemmaConfig) -> Module:
    hidden, width, heads = config.hidden_size, config.recurrent_width, config.num_attention_heads
    recurrence = Module(
        children={
            "recurrent_param": Parameter(shape=(width,)),
            "": Stack(
                parts=(
                    _gate("input_gate", width, heads),
                    _gate("recurrent_gate", width, heads),
                    Scan(state_elements=width, flops_per_element=RG_LRU_FLOPS),
                )
            ),
        }
    )
    return Module(
        children={
            "linear_y": linear(hidden, width, bias=True),
            "linear_x": linear(hidden, width, bias=True),
            "linear_out": linear(width, hidden, bias=True),
            # a cache of its own, and none of transformers' own layers
            "conv_1d": replace(causal_convolution(width, config.conv1d_width, bias=True), kept_by_class=None),
            "rg_lru": recurrence,
        },
        bucket="ssm",
    )


def recurrent_gemma_model(config: RecurrentGemmaConfig) -> Node:
    """A recurrence or attention and an MLP in each layer, each behind a norm."""
    hidden = config.hidden_size
    temporal: dict[str, Node] = {
        RECURRENT: _recurrent_block(config),
        ATTENTION: self_attention(config, config.attention_window_size),
    }
    mlp = gated_mlp(hidden, exact_quotient(config.intermediate_size, 2), bias=True)

    def block(kind: str) -> Node:
        return Module(
            children={
                "temporal_pre_norm": rms_norm(hidden),
                "temporal_block": temporal[kind],
                "channel_pre_norm": rms_norm(hidden),
                "mlp_block": mlp,
            }
        )

    return decoder(config, layer_stack(config.kinds(), block), {"final_norm": rms_norm(hidden)})


FAMILIES = (
    decoder_family(
        "recurrent_gemma",
        "RecurrentGemma",
        RecurrentGemmaConfig,
        recurrent_gemma_model,
        omit=("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    ),
)
