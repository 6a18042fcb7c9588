"""ALBERT: a BERT whose layers share their weights, behind a narrow embedding."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import layer_norm, layers, linear
from planner.families.config import Dimension, LayerCount, require_divides
from planner.families.encoder import (
    EncoderConfig,
    dense_transform,
    heads_and_core,
    over_choices,
    over_samples,
    over_tokens,
    three_tables,
    vocabulary_head,
    with_heads,
)
from planner.families.family import Family
from planner.families.heads import head
from planner.nodes import ONCE, Linear, Module, Node
from planner.numeric import exact_quotient


class AlbertConfig(EncoderConfig):
    """Keys of ALBERT, with the class's defaults, which are those of the xxlarge model."""

    # Written by the first converters.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"down_scale_factor", "gap_size", "layers_to_keep", "net_structure_type", "num_memory_blocks"}
    )

    vocab_size: Dimension = 30000
    embedding_size: Dimension = 128
    hidden_size: Dimension = 4096
    num_hidden_groups: LayerCount = 1
    inner_group_num: LayerCount = 1
    num_attention_heads: Dimension = 64
    intermediate_size: Dimension = 16384

    def check(self) -> None:
        """Besides the heads, every group of layers must run equally often."""
        super().check()
        require_divides("num_hidden_groups", self.num_hidden_groups, "num_hidden_layers", self.num_hidden_layers)


def _layer(config: AlbertConfig) -> Module:
    hidden, inner = config.hidden_size, config.intermediate_size
    attention = {
        **heads_and_core(hidden, config.num_attention_heads),
        "dense": linear(hidden, hidden, bias=True),
        "LayerNorm": layer_norm(hidden),
    }
    return Module(
        children={
            "full_layer_layer_norm": layer_norm(hidden),
            "attention": Module(children=attention, bucket="attention"),
            "ffn": linear(hidden, inner, bias=True),
            "ffn_output": linear(inner, hidden, bias=True),
        },
        bucket="mlp",
    )


def _trunk(config: AlbertConfig) -> Module:
    runs = exact_quotient(config.num_hidden_layers, config.num_hidden_groups)
    group = Module(children={"albert_layers": layers(_layer(config), config.inner_group_num)}, runs=runs)
    widen = Linear(
        in_features=config.embedding_size, out_features=config.hidden_size, bias=True, bucket="embeddings.token"
    )
    encoder: dict[str, Node] = {
        "embedding_hidden_mapping_in": widen,
        "albert_layer_groups": layers(group, config.num_hidden_groups),
    }
    embeddings = three_tables(config, config.embedding_size)
    return Module(children={"embeddings": embeddings, "encoder": Module(children=encoder)})


def _pooled_trunk(config: AlbertConfig) -> Module:
    pooler = Linear(
        in_features=config.hidden_size,
        out_features=config.hidden_size,
        bias=True,
        bucket="other.pooler",
        stream=ONCE,
    )
    return Module(children={**_trunk(config).children, "pooler": pooler})


def _predictions(config: AlbertConfig) -> dict[str, Node]:
    dense = dense_transform(config.hidden_size, config.embedding_size)
    table = "albert.embeddings.word_embeddings"
    return {"predictions": vocabulary_head(config, config.embedding_size, table, dense)}


def _pre_training_heads(config: AlbertConfig) -> dict[str, Node]:
    order = Module(children={"classifier": head(config.hidden_size, config.num_labels, once=True)})
    return {**_predictions(config), "sop_classifier": order}


FAMILIES = (
    Family(
        model_type="albert",
        config=AlbertConfig,
        classes={
            "AlbertModel": _pooled_trunk,
            "AlbertForMaskedLM": with_heads("albert", _trunk, _predictions),
            "AlbertForPreTraining": with_heads("albert", _pooled_trunk, _pre_training_heads),
            "AlbertForSequenceClassification": with_heads("albert", _pooled_trunk, over_samples()),
            "AlbertForMultipleChoice": with_heads("albert", _pooled_trunk, over_choices()),
            "AlbertForTokenClassification": with_heads("albert", _trunk, over_tokens("classifier")),
            "AlbertForQuestionAnswering": with_heads("albert", _trunk, over_tokens("qa_outputs")),
        },
        default_class="AlbertForMaskedLM",
    ),
)
