"""BERT, RoBERTa and XLM-RoBERTa: post-norm encoders with three embedding tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.families.beside import POSITION_IDS, tensor
from planner.families.config import Dimension, require
from planner.families.encoder import (
    EncoderConfig,
    dense_classifier,
    dense_transform,
    encoder_layers,
    heads_and_core,
    over_choices,
    over_samples,
    over_tokens,
    three_tables,
    vocabulary_head,
    with_heads,
)
from planner.families.family import Builder, Family
from planner.families.heads import head, pooler
from planner.nodes import Module, Node


class BertConfig(EncoderConfig):
    """Keys of BERT, which may also run as a decoder."""

    is_decoder: bool = False
    add_cross_attention: bool = False

    def check(self) -> None:
        """Besides the heads, cross-attention is not built."""
        super().check()
        require(not self.add_cross_attention, "add_cross_attention", "cross-attention layers are not supported")


class RobertaConfig(BertConfig):
    """Same keys, another vocabulary."""

    vocab_size: Dimension = 50265


class XLMRobertaConfig(BertConfig):
    """Same keys; the class defaults to BERT's vocabulary."""


def bert_layers(config: BertConfig) -> Module:
    """BERT's encoder, which ELECTRA has as well."""
    core = heads_and_core(config.hidden_size, config.num_attention_heads, causal=config.is_decoder)
    return Module(children={"layer": encoder_layers(config, Module(children=core))})


def _trunk(config: BertConfig) -> Module:
    return Module(children={"embeddings": three_tables(config, config.hidden_size), "encoder": bert_layers(config)})


def _pooled_trunk(config: BertConfig) -> Module:
    return Module(children={**_trunk(config).children, "pooler": pooler(config.hidden_size)})


def _bert_predictions(config: BertConfig) -> dict[str, Node]:
    width = config.hidden_size
    transform = Module(children=dense_transform(width, width))
    table = "bert.embeddings.word_embeddings"
    return {"predictions": vocabulary_head(config, width, table, {"transform": transform})}


def _next_sentence(config: BertConfig) -> dict[str, Node]:
    return {"seq_relationship": head(config.hidden_size, 2, once=True)}


def _roberta_lm_head(config: BertConfig) -> dict[str, Node]:
    dense = dense_transform(config.hidden_size, config.hidden_size, "layer_norm")
    return {"lm_head": vocabulary_head(config, config.hidden_size, "roberta.embeddings.word_embeddings", dense)}


def _bert_classes() -> Mapping[str, Builder]:
    def cls(*heads: Mapping[str, Node]) -> dict[str, Node]:
        return {"cls": Module(children={name: node for part in heads for name, node in part.items()})}

    masked_lm = with_heads("bert", _trunk, lambda config: cls(_bert_predictions(config)))
    return {
        "BertModel": _pooled_trunk,
        "BertForMaskedLM": masked_lm,
        "BertForPreTraining": with_heads(
            "bert", _pooled_trunk, lambda config: cls(_bert_predictions(config), _next_sentence(config))
        ),
        "BertLMHeadModel": masked_lm,
        "BertForNextSentencePrediction": with_heads("bert", _pooled_trunk, lambda config: cls(_next_sentence(config))),
        "BertForSequenceClassification": with_heads("bert", _pooled_trunk, over_samples()),
        "BertForMultipleChoice": with_heads("bert", _pooled_trunk, over_choices()),
        "BertForTokenClassification": with_heads("bert", _trunk, over_tokens("classifier")),
        "BertForQuestionAnswering": with_heads("bert", _trunk, over_tokens("qa_outputs")),
    }


def _roberta_classes(prefix: str) -> Mapping[str, Builder]:
    masked_lm = with_heads("roberta", _trunk, _roberta_lm_head)
    return {
        f"{prefix}Model": _pooled_trunk,
        f"{prefix}ForMaskedLM": masked_lm,
        f"{prefix}ForCausalLM": masked_lm,
        f"{prefix}ForSequenceClassification": with_heads("roberta", _trunk, dense_classifier),
        f"{prefix}ForMultipleChoice": with_heads("roberta", _pooled_trunk, over_choices()),
        f"{prefix}ForTokenClassification": with_heads("roberta", _trunk, over_tokens("classifier")),
        f"{prefix}ForQuestionAnswering": with_heads("roberta", _trunk, over_tokens("qa_outputs")),
    }


def _position_ids(config: RobertaConfig | XLMRobertaConfig, _: Mapping[str, Any]) -> Node:
    return Module(children={"embeddings.position_ids": tensor(POSITION_IDS, 1, config.max_position_embeddings)})


FAMILIES = (
    Family(model_type="bert", config=BertConfig, classes=_bert_classes(), default_class="BertForMaskedLM"),
    Family(
        model_type="roberta",
        config=RobertaConfig,
        classes=_roberta_classes("Roberta"),
        default_class="RobertaForMaskedLM",
        beside=_position_ids,
    ),
    Family(
        model_type="xlm-roberta",
        config=XLMRobertaConfig,
        classes=_roberta_classes("XLMRoberta"),
        default_class="XLMRobertaForMaskedLM",
        beside=_position_ids,
    ),
)
