"""What checkpoints hold beside the tensors of a class: shared trees, and the kinds that are the buckets in them.

A family says which of them its checkpoints are known to hold; `planner.checkpoint` counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.families.blocks import layers, linear, rms_norm
from planner.families.config import require
from planner.families.family import Builder, StoredBuilder
from planner.nodes import LOGITS, Embedding, Linear, Module, Node, Parameter, Repeat, Stack
from planner.numeric import Num, exact_quotient

CAUSAL_MASKS = "causal_masks"
EXPERT_TABLES = "expert_tables"
IMAGE_POSITION_IDS = "image_position_ids"
LOGITS_BIAS = "logits_bias"
MTP_TABLES = "mtp_tables"
POSITION_IDS = "position_ids"
ROTARY_FREQUENCIES = "rotary_frequencies"
ROUTER_BIASES = "router_biases"
UNUSED_TENSORS = "unused_tensors"

NOTHING = Module()
"""Tree without a tensor."""


def stated(raw: Mapping[str, Any], key: str) -> Any:
    """Value of a key, of the config itself or of its decoder's; None where neither states it."""
    inner = raw.get("text_config")
    return raw[key] if raw.get(key) is not None else inner.get(key) if isinstance(inner, Mapping) else None


def stated_whole(raw: Mapping[str, Any], key: str, unless_stated: int) -> int:
    """Value of a key that only the checkpoint's size depends on, so that no config class has checked it.

    Raises
    ------
    ConfigError
        It is no whole number, or negative.
    """
    value = stated(raw, key)
    if value is None:
        return unless_stated
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    require(whole, key, f"expected a whole number, got {value!r}")
    return int(value)


def stated_words(raw: Mapping[str, Any], key: str) -> list[str] | None:
    """Words of a list, or letters of a text, that a key holds which no config class has checked.

    Raises
    ------
    ConfigError
        It is neither.
    """
    value = stated(raw, key)
    if value is None:
        return None
    words = isinstance(value, (list, str)) and all(isinstance(word, str) for word in value)
    require(words, key, f"expected a list of words, got {value!r}")
    return list(value)


def tensor(kind: str, *shape: Num) -> Parameter:
    """Tensor of a kind."""
    return Parameter(shape=shape, bucket=kind)


def causal_masks(count: Num, positions: Num) -> Repeat:
    """Lower triangle of ones as a buffer in each of `count` layers."""
    return layers(tensor(CAUSAL_MASKS, 1, 1, positions, positions), count)


def rotary_frequencies(count: Num, rotary_width: Num) -> Repeat:
    """Frequency of each pair of rotated dimensions, as a buffer in each of `count` layers."""
    return layers(tensor(ROTARY_FREQUENCIES, exact_quotient(rotary_width, 2)), count)


def router_biases(model: Builder) -> StoredBuilder:
    """Builder of a number for each output of each router of a model: a buffer in its class, a tensor in the file."""
    return lambda config, _: biases_of_routers(model(config))


def biases_of_routers(node: Node) -> Node:
    """Tree with a bias in place of each router, and nothing else."""
    return _biases(node) or NOTHING


def _biases(node: Node) -> Node | None:
    if isinstance(node, Module):
        found = {name: _biases(child) for name, child in node.children.items()}
        kept = {name: child for name, child in found.items() if child is not None}
        return replace(node, children=kept) if kept else None
    if isinstance(node, Stack):
        parts = tuple(part for part in map(_biases, node.parts) if part is not None)
        return Stack(parts=parts) if parts else None
    if isinstance(node, Repeat):
        child = _biases(node.child)
        return None if child is None else replace(node, child=child)
    if isinstance(node, Linear) and node.bucket == "router":
        return Module(children={"e_score_correction_bias": tensor(ROUTER_BIASES, node.out_features)})
    return None


DEEPSEEK_NORMS = ("enorm", "hnorm", "shared_head.norm")
"""Norms of DeepSeek's module: over the next token's embedding, over the hidden state, and before the head."""


def prediction_module(
    block: Mapping[str, Node],
    hidden_size: Num,
    *,
    joints: Mapping[str, Num] | None = None,
    norms: Sequence[str] = DEEPSEEK_NORMS,
    vocab_size: Num | None = None,
) -> Node:
    """Module that predicts one token further: the hidden state and an embedding are joined and pass a block.

    Parameters
    ----------
    block : mapping of str to Node
        The block, or what stands in its place, as the checkpoint calls it.
    hidden_size : Num
        Width of the model.
    joints : mapping of str to Num, optional
        Inputs of the projections that join the two; one of both side by side where it is not given.
    norms : sequence of str
        Names of the norms besides those of the block.
    vocab_size : Num, optional
        Rows of its own copies of the input table and the head, where it stores them.
    """
    inputs = {"eh_proj": 2 * hidden_size} if joints is None else joints
    tables: dict[str, Node] = {}
    if vocab_size is not None:
        tables = {
            "embed_tokens": Embedding(num_embeddings=vocab_size, embedding_dim=hidden_size, bucket=MTP_TABLES),
            "shared_head.head": Linear(
                in_features=hidden_size, out_features=vocab_size, yields_logits=True, bucket=MTP_TABLES, stream=LOGITS
            ),
        }
    module = Module(
        children={
            **tables,
            **{name: linear(width, hidden_size) for name, width in inputs.items()},
            **dict.fromkeys(norms, rms_norm(hidden_size)),
            **block,
        }
    )
    return Stack(parts=(module, biases_of_routers(Module(children=block))))
