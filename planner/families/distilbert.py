"""DistilBERT: half of BERT's layers, neither types nor pooler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import (
    layer_norm,
    layers,
    linear,
    output_head,
    plain_mlp,
    position_embedding,
    token_embedding,
)
from planner.families.config import Dimension, LayerCount, ModelConfig, require_divides
from planner.families.encoder import head_norm, heads_and_core, with_heads
from planner.families.family import Family
from planner.families.heads import head
from planner.nodes import LOGITS, Linear, Module, Node


class DistilBertConfig(ModelConfig):
    """Keys of DistilBERT."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"activation", "sinusoidal_pos_embds", "tie_weights_"})

    vocab_size: Dimension = 30522
    max_position_embeddings: Dimension = 512
    n_layers: LayerCount = Field(6, validation_alias=AliasChoices("n_layers", "num_hidden_layers"))
    n_heads: Dimension = Field(12, validation_alias=AliasChoices("n_heads", "num_attention_heads"))
    dim: Dimension = Field(768, validation_alias=AliasChoices("dim", "hidden_size"))
    hidden_dim: Dimension = 3072
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Heads must divide the width."""
        require_divides("n_heads", self.n_heads, "dim", self.dim)


def _layer(config: DistilBertConfig) -> Module:
    attention = {
        **heads_and_core(config.dim, config.n_heads, ("q_lin", "k_lin", "v_lin")),
        "out_lin": linear(config.dim, config.dim, bias=True),
    }
    return Module(
        children={
            "attention": Module(children=attention, bucket="attention"),
            "sa_layer_norm": layer_norm(config.dim),
            "ffn": plain_mlp(config.dim, config.hidden_dim, "lin1", "lin2"),
            "output_layer_norm": layer_norm(config.dim),
        }
    )


def _trunk(config: DistilBertConfig) -> Module:
    embeddings = Module(
        children={
            "word_embeddings": token_embedding(config.vocab_size, config.dim),
            "position_embeddings": position_embedding(config.max_position_embeddings, config.dim),
            "LayerNorm": layer_norm(config.dim),
        }
    )
    return Module(children={"embeddings": embeddings, "transformer.layer": layers(_layer(config), config.n_layers)})


def _masked_lm(config: DistilBertConfig) -> Mapping[str, Node]:
    tied_to = "distilbert.embeddings.word_embeddings" if config.tie_word_embeddings else None
    transform = Linear(
        in_features=config.dim, out_features=config.dim, bias=True, bucket="other.lm_head", stream=LOGITS
    )
    return {
        "vocab_transform": transform,
        "vocab_layer_norm": head_norm(config.dim),
        "vocab_projector": output_head(config.dim, config.vocab_size, tied_to, bias=True),
    }


def _over_samples(config: DistilBertConfig) -> Mapping[str, Node]:
    return {
        "pre_classifier": head(config.dim, config.dim, once=True),
        "classifier": head(config.dim, config.num_labels, once=True),
    }


def _over_choices(config: DistilBertConfig) -> Mapping[str, Node]:
    return {**_over_samples(config), "classifier": head(config.dim, 1, once=True)}


FAMILIES = (
    Family(
        model_type="distilbert",
        config=DistilBertConfig,
        classes={
            "DistilBertModel": _trunk,
            "DistilBertForMaskedLM": with_heads("distilbert", _trunk, _masked_lm),
            "DistilBertForSequenceClassification": with_heads("distilbert", _trunk, _over_samples),
            "DistilBertForMultipleChoice": with_heads("distilbert", _trunk, _over_choices),
            "DistilBertForTokenClassification": with_heads(
                "distilbert", _trunk, lambda config: {"classifier": head(config.dim, config.num_labels)}
            ),
            "DistilBertForQuestionAnswering": with_heads(
                "distilbert", _trunk, lambda config: {"qa_outputs": head(config.dim, 2)}
            ),
        },
        default_class="DistilBertForMaskedLM",
    ),
)
