"""RWKV-4: a weighted average that decays with distance in place of attention, and a gated MLP.

FLOPs of the recurrence: 12 for a token and channel, which are 4 for each of the three numbers that a channel keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from planner.families.blocks import layer_norm, layers, linear, token_embedding, with_children
from planner.families.config import Dimension, LayerCount, ModelConfig
from planner.families.decoder import Heads, decoder_family
from planner.formulas.flops import WKV_FLOPS
from planner.nodes import Module, Node, Parameter, Scan, Stack
from planner.numeric import Num

STATES = 3
"""Numbers that a channel keeps: numerator, denominator, and the exponent that both are shifted by."""


class RwkvConfig(ModelConfig):
    """Keys of RWKV-4."""

    # It runs over any length, and halves its weights at inference to stay in range.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"context_length", "max_position_embeddings", "rescale_every", "attention_dropout"}
    )

    vocab_size: Dimension = 50277
    hidden_size: Dimension = 4096
    num_hidden_layers: LayerCount = 32
    attention_hidden_size: Dimension | None = None
    intermediate_size: Dimension | None = None

    @property
    def attention_width(self) -> Num:
        """Channels of the average: as wide as the model where the config does not say."""
        return self.hidden_size if self.attention_hidden_size is None else self.attention_hidden_size

    @property
    def mlp_width(self) -> Num:
        """Four times the model where the config does not say."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size


def _mixes(names: Sequence[str], hidden_size: Num) -> dict[str, Node]:
    """How much of the token before each input takes."""
    return {f"time_mix_{name}": Parameter(shape=(1, 1, hidden_size)) for name in names}


def _time_mixing(config: RwkvConfig) -> Module:
    hidden, width = config.hidden_size, config.attention_width
    return Module(
        children={
            "time_decay": Parameter(shape=(width,)),
            "time_first": Parameter(shape=(width,)),
            **_mixes(("key", "value", "receptance"), hidden),
            "key": linear(hidden, width),
            "value": linear(hidden, width),
            "receptance": linear(hidden, width),
            "output": linear(width, hidden),
            # The two mixings of a layer each blend their input with that of the token before.
            "": Scan(state_elements=STATES * width, flops_per_element=WKV_FLOPS, shifted_elements=2 * hidden),
        },
        bucket="ssm",
    )


def _channel_mixing(config: RwkvConfig) -> Module:
    hidden, width = config.hidden_size, config.mlp_width
    return Module(
        children={
            **_mixes(("key", "receptance"), hidden),
            "key": linear(hidden, width),
            "receptance": linear(hidden, hidden),
            "value": linear(width, hidden),
        },
        bucket="mlp",
    )


def rwkv_model(config: RwkvConfig) -> Node:
    """Two mixings in each layer, each behind a norm; the first layer norms the embeddings."""
    hidden = config.hidden_size
    block = Module(
        children={
            "ln1": layer_norm(hidden),
            "ln2": layer_norm(hidden),
            "attention": _time_mixing(config),
            "feed_forward": _channel_mixing(config),
        }
    )
    first = with_children(block, {"pre_ln": layer_norm(hidden)})
    blocks = Stack(parts=(layers(first, 1), layers(block, config.num_hidden_layers - 1, start=1)))
    return Module(
        children={
            "embeddings": token_embedding(config.vocab_size, hidden),
            "blocks": blocks,
            "ln_out": layer_norm(hidden),
        }
    )


FAMILIES = (
    decoder_family(
        "rwkv",
        "Rwkv",
        RwkvConfig,
        rwkv_model,
        omit=("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
        heads=Heads(base="rwkv", table="embeddings", lm_head="head"),
    ),
)
