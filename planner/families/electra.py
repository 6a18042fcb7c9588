"""ELECTRA: a BERT without pooler behind an embedding of its own width, as discriminator or as generator."""

from __future__ import annotations

from planner.families.bert import BertConfig, bert_layers
from planner.families.blocks import output_head
from planner.families.config import Dimension
from planner.families.encoder import (
    SummaryConfig,
    dense_classifier,
    dense_transform,
    over_choices,
    over_tokens,
    sequence_summary,
    three_tables,
    widening,
    with_heads,
)
from planner.families.family import Family
from planner.families.heads import head
from planner.nodes import LOGITS, Module, Node


class ElectraConfig(BertConfig, SummaryConfig):
    """Keys of ELECTRA, with the class's defaults, which are those of the small model."""

    embedding_size: Dimension = 128
    hidden_size: Dimension = 256
    num_attention_heads: Dimension = 4
    intermediate_size: Dimension = 1024


def _trunk(config: ElectraConfig) -> Module:
    return Module(
        children={
            "embeddings": three_tables(config, config.embedding_size),
            **widening("embeddings_project", config.embedding_size, config.hidden_size, bias=True),
            "encoder": bert_layers(config),
        }
    )


def _generator(config: ElectraConfig) -> dict[str, Node]:
    dense = dense_transform(config.hidden_size, config.embedding_size)
    table = "electra.embeddings.word_embeddings" if config.tie_word_embeddings else None
    return {
        "generator_predictions": Module(children=dense, bucket="other.lm_head", stream=LOGITS),
        "generator_lm_head": output_head(config.embedding_size, config.vocab_size, table, bias=True),
    }


def _discriminator(config: ElectraConfig) -> dict[str, Node]:
    width = config.hidden_size
    heads = {"dense": head(width, width), "dense_prediction": head(width, 1)}
    return {"discriminator_predictions": Module(children=heads)}


def _choice(config: ElectraConfig) -> dict[str, Node]:
    return {"sequence_summary": sequence_summary(config, config.hidden_size), **over_choices()(config)}


_generator_class = with_heads("electra", _trunk, _generator)

FAMILIES = (
    Family(
        model_type="electra",
        config=ElectraConfig,
        classes={
            "ElectraModel": _trunk,
            "ElectraForPreTraining": with_heads("electra", _trunk, _discriminator),
            "ElectraForMaskedLM": _generator_class,
            "ElectraForCausalLM": _generator_class,
            "ElectraForSequenceClassification": with_heads("electra", _trunk, dense_classifier),
            "ElectraForMultipleChoice": with_heads("electra", _trunk, _choice),
            "ElectraForTokenClassification": with_heads("electra", _trunk, over_tokens("classifier")),
            "ElectraForQuestionAnswering": with_heads("electra", _trunk, over_tokens("qa_outputs")),
        },
        default_class="ElectraForPreTraining",
    ),
)
