"""BERT, RoBERTa and XLM-RoBERTa: post-norm encoders with three embedding tables."""

from __future__ import annotations

from collections.abc import Mapping

from planner.families.blocks import layer_norm, layers, linear, output_head, position_embedding, token_embedding
from planner.families.config import Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.family import Builder, Family
from planner.families.heads import head, pooler
from planner.nodes import LOGITS, Attention, Embedding, Module, Node, Norm, Parameter
from planner.numeric import exact_quotient


class BertConfig(ModelConfig):
    """Keys of a BERT-like encoder, with the defaults of transformers' BertConfig."""

    vocab_size: Dimension = 30522
    hidden_size: Dimension = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 12
    intermediate_size: Dimension = 3072
    max_position_embeddings: Dimension = 512
    type_vocab_size: Dimension = 2
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Heads must divide the width; cross-attention is not built."""
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)
        require(not self.add_cross_attention, "add_cross_attention", "cross-attention layers are not supported")


class RobertaConfig(BertConfig):
    """Same keys, another vocabulary."""

    vocab_size: Dimension = 50265


class XLMRobertaConfig(BertConfig):
    """Same keys; the class defaults to BERT's vocabulary."""


def _self_attention(config: BertConfig) -> Module:
    hidden, head_dim = config.hidden_size, exact_quotient(config.hidden_size, config.num_attention_heads)
    core = Attention(
        num_heads=config.num_attention_heads, qk_head_dim=head_dim, v_head_dim=head_dim, causal=config.is_decoder
    )
    projections = {name: linear(hidden, hidden, bias=True) for name in ("query", "key", "value")}
    output = Module(children={"dense": linear(hidden, hidden, bias=True), "LayerNorm": layer_norm(hidden)})
    return Module(children={"self": Module(children={**projections, "": core}), "output": output}, bucket="attention")


def _layer(config: BertConfig) -> Module:
    hidden, inner = config.hidden_size, config.intermediate_size
    return Module(
        children={
            "attention": _self_attention(config),
            "intermediate": Module(children={"dense": linear(hidden, inner, bias=True)}),
            "output": Module(children={"dense": linear(inner, hidden, bias=True), "LayerNorm": layer_norm(hidden)}),
        },
        bucket="mlp",
    )


def _trunk(config: BertConfig, *, with_pooler: bool) -> Module:
    hidden = config.hidden_size
    types = Embedding(num_embeddings=config.type_vocab_size, embedding_dim=hidden, bucket="embeddings.type")
    embeddings = Module(
        children={
            "word_embeddings": token_embedding(config.vocab_size, hidden),
            "position_embeddings": position_embedding(config.max_position_embeddings, hidden),
            "token_type_embeddings": types,
            "LayerNorm": layer_norm(hidden),
        }
    )
    encoder = Module(children={"layer": layers(_layer(config), config.num_hidden_layers)})
    children: dict[str, Node] = {"embeddings": embeddings, "encoder": encoder}
    if with_pooler:
        children["pooler"] = pooler(hidden)
    return Module(children=children)


def _vocabulary_head(config: BertConfig, trunk: str, dense: Mapping[str, Node]) -> dict[str, Node]:
    """Bias, dense layer with norm, and the decoder, whose matrix and bias are tied unless the config says otherwise."""
    tied_to = f"{trunk}.embeddings.word_embeddings" if config.tie_word_embeddings else None
    # A tied decoder shares the head's own bias; an untied one has a bias besides it.
    decoder = output_head(config.hidden_size, config.vocab_size, tied_to, bias=not config.tie_word_embeddings)
    return {"bias": Parameter(shape=(config.vocab_size,)), **dense, "decoder": decoder}


def _bert_predictions(config: BertConfig) -> Module:
    hidden = config.hidden_size
    transform = Module(
        children={
            "dense": linear(hidden, hidden, bias=True),
            "LayerNorm": _head_norm(config),
        }
    )
    children = _vocabulary_head(config, "bert", {"transform": transform})
    return Module(children=children, bucket="other.lm_head", stream=LOGITS)


def _roberta_lm_head(config: BertConfig) -> Module:
    dense: dict[str, Node] = {
        "dense": linear(config.hidden_size, config.hidden_size, bias=True),
        "layer_norm": _head_norm(config),
    }
    return Module(children=_vocabulary_head(config, "roberta", dense), bucket="other.lm_head", stream=LOGITS)


def _head_norm(config: BertConfig) -> Node:
    """The norm inside the head counts as part of the head."""
    return Norm(dim=config.hidden_size, bias=True, bucket="other.lm_head")


def _bert_classes() -> Mapping[str, Builder]:
    def masked_lm(config: BertConfig) -> Node:
        predictions = Module(children={"predictions": _bert_predictions(config)})
        return Module(children={"bert": _trunk(config, with_pooler=False), "cls": predictions})

    def pre_training(config: BertConfig) -> Node:
        heads: dict[str, Node] = {
            "predictions": _bert_predictions(config),
            "seq_relationship": head(config.hidden_size, 2, once=True),
        }
        return Module(children={"bert": _trunk(config, with_pooler=True), "cls": Module(children=heads)})

    def next_sentence(config: BertConfig) -> Node:
        heads = Module(children={"seq_relationship": head(config.hidden_size, 2, once=True)})
        return Module(children={"bert": _trunk(config, with_pooler=True), "cls": heads})

    return {
        "BertModel": lambda config: _trunk(config, with_pooler=True),
        "BertForMaskedLM": masked_lm,
        "BertForPreTraining": pre_training,
        "BertLMHeadModel": masked_lm,
        "BertForNextSentencePrediction": next_sentence,
        "BertForSequenceClassification": lambda config: Module(
            children={
                "bert": _trunk(config, with_pooler=True),
                "classifier": head(config.hidden_size, config.num_labels, once=True),
            }
        ),
        "BertForMultipleChoice": lambda config: Module(
            children={"bert": _trunk(config, with_pooler=True), "classifier": head(config.hidden_size, 1, once=True)}
        ),
        "BertForTokenClassification": lambda config: _over_tokens(config, "bert", "classifier"),
        "BertForQuestionAnswering": lambda config: _over_tokens(config, "bert", "qa_outputs"),
    }


def _over_tokens(config: BertConfig, trunk: str, name: str) -> Module:
    return Module(
        children={
            trunk: _trunk(config, with_pooler=False),
            name: head(config.hidden_size, config.num_labels),
        }
    )


def _roberta_classes(prefix: str) -> Mapping[str, Builder]:
    def masked_lm(config: BertConfig) -> Node:
        return Module(children={"roberta": _trunk(config, with_pooler=False), "lm_head": _roberta_lm_head(config)})

    def sequence_classification(config: BertConfig) -> Node:
        hidden = config.hidden_size
        classifier = Module(
            children={
                "dense": head(hidden, hidden, once=True),
                "out_proj": head(hidden, config.num_labels, once=True),
            }
        )
        return Module(children={"roberta": _trunk(config, with_pooler=False), "classifier": classifier})

    return {
        f"{prefix}Model": lambda config: _trunk(config, with_pooler=True),
        f"{prefix}ForMaskedLM": masked_lm,
        f"{prefix}ForCausalLM": masked_lm,
        f"{prefix}ForSequenceClassification": sequence_classification,
        f"{prefix}ForMultipleChoice": lambda config: Module(
            children={"roberta": _trunk(config, with_pooler=True), "classifier": head(config.hidden_size, 1, once=True)}
        ),
        f"{prefix}ForTokenClassification": lambda config: _over_tokens(config, "roberta", "classifier"),
        f"{prefix}ForQuestionAnswering": lambda config: _over_tokens(config, "roberta", "qa_outputs"),
    }


FAMILIES = (
    Family(model_type="bert", config=BertConfig, classes=_bert_classes(), default_class="BertForMaskedLM"),
    Family(
        model_type="roberta",
        config=RobertaConfig,
        classes=_roberta_classes("Roberta"),
        default_class="RobertaForMaskedLM",
    ),
    Family(
        model_type="xlm-roberta",
        config=XLMRobertaConfig,
        classes=_roberta_classes("XLMRoberta"),
        default_class="XLMRobertaForMaskedLM",
    ),
)
