"""Text encoders of the BERT kind: what they share, so that a family states only how it differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from planner.families.blocks import layer_norm, layers, linear, output_head, position_embedding, token_embedding
from planner.families.config import Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.family import Builder
from planner.families.heads import head
from planner.nodes import LOGITS, ONCE, Attention, Embedding, Linear, Module, Node, Norm, Parameter
from planner.numeric import Num, all_true, exact_quotient, where


class EncoderConfig(ModelConfig):
    """Keys of a BERT-like encoder, with the defaults of transformers' BertConfig."""

    vocab_size: Dimension = 30522
    hidden_size: Dimension = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: Dimension = 12
    intermediate_size: Dimension = 3072
    max_position_embeddings: Dimension = 512
    type_vocab_size: Dimension = 2
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Heads must divide the width."""
        super().check()
        require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)


class SummaryConfig(ModelConfig):
    """Keys of the layer that makes one vector of a sequence, in ELECTRA and XLNet."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"summary_activation"})

    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_proj_to_labels: bool = False

    def check(self) -> None:
        """A summary by attention was never written."""
        require(self.summary_type != "attn", "summary_type", "a summary by attention is not supported")


def sequence_summary(config: SummaryConfig, hidden_size: Num) -> Module:
    """Dense layer over one position, or nothing where the config asks for none."""
    width = config.num_labels if config.summary_proj_to_labels else hidden_size
    children = {"summary": linear(hidden_size, width, bias=True)} if config.summary_use_proj else {}
    return Module(children=children, bucket="other.pooler", stream=ONCE)


def heads_and_core(
    hidden_size: Num, num_heads: Num, names: tuple[str, str, str] = ("query", "key", "value"), *, causal: bool = False
) -> dict[str, Node]:
    """Query, key and value projections with bias, named as the class names them, and the products of the heads."""
    head_dim = exact_quotient(hidden_size, num_heads)
    core = Attention(num_heads=num_heads, qk_head_dim=head_dim, v_head_dim=head_dim, causal=causal)
    return {**{name: linear(hidden_size, hidden_size, bias=True) for name in names}, "": core}


def dense_and_norm(in_features: Num, out_features: Num) -> Module:
    """Output of a sublayer, added to its input and normed."""
    return Module(
        children={"dense": linear(in_features, out_features, bias=True), "LayerNorm": layer_norm(out_features)}
    )


def post_norm_layer(hidden_size: Num, intermediate_size: Num, self_attention: Node) -> Module:
    """BERT's layer around an attention."""
    attention = Module(
        children={"self": self_attention, "output": dense_and_norm(hidden_size, hidden_size)}, bucket="attention"
    )
    return Module(
        children={
            "attention": attention,
            "intermediate": Module(children={"dense": linear(hidden_size, intermediate_size, bias=True)}),
            "output": dense_and_norm(intermediate_size, hidden_size),
        },
        bucket="mlp",
    )


def encoder_layers(config: EncoderConfig, self_attention: Node) -> Node:
    """Every layer of an encoder."""
    return layers(
        post_norm_layer(config.hidden_size, config.intermediate_size, self_attention), config.num_hidden_layers
    )


def type_embedding(types: Num, width: Num) -> Embedding:
    """Which of the sentences of a sample a token belongs to."""
    return Embedding(num_embeddings=types, embedding_dim=width, bucket="embeddings.type")


def three_tables(config: EncoderConfig, width: Num) -> Module:
    """Tables of tokens, positions and types, and the norm of their sum."""
    return Module(
        children={
            "word_embeddings": token_embedding(config.vocab_size, width),
            "position_embeddings": position_embedding(config.max_position_embeddings, width),
            "token_type_embeddings": type_embedding(config.type_vocab_size, width),
            "LayerNorm": layer_norm(width),
        }
    )


def widening(name: str, embedding_size: Num, hidden_size: Num, *, bias: bool) -> dict[str, Node]:
    """Projection from the width of the embedding to that of the layers, where they differ."""
    if all_true(embedding_size == hidden_size):
        return {}
    # In a column some rows may have no projection: theirs has no outputs and so no parameters.
    outputs = where(embedding_size != hidden_size, hidden_size, 0)
    return {name: Linear(in_features=embedding_size, out_features=outputs, bias=bias, bucket="embeddings.token")}


def head_norm(dim: Num, *, bias: bool = True) -> Norm:
    """A norm inside a head counts as part of the head."""
    return Norm(dim=dim, bias=bias, bucket="other.lm_head")


def dense_transform(hidden_size: Num, width: Num, norm: str = "LayerNorm") -> dict[str, Node]:
    """Dense layer and norm before the product with the vocabulary."""
    return {"dense": linear(hidden_size, width, bias=True), norm: head_norm(width)}


def vocabulary_head(config: EncoderConfig, width: Num, table: str, dense: Mapping[str, Node]) -> Module:
    """Head over the vocabulary: a bias, what comes before, and the decoder.

    Parameters
    ----------
    config : EncoderConfig
        Dimensions.
    width : Num
        Width of the input table.
    table : str
        Path of that table, whose matrix the decoder runs with unless the config says otherwise.
    dense : mapping of str to Node
        What comes before.
    """
    tied = config.tie_word_embeddings
    # A tied decoder shares the head's own bias; an untied one has a bias besides it.
    decoder = output_head(width, config.vocab_size, table if tied else None, bias=not tied)
    children = {"bias": Parameter(shape=(config.vocab_size,)), **dense, "decoder": decoder}
    return Module(children=children, bucket="other.lm_head", stream=LOGITS)


def with_heads(base: str, trunk: Builder, heads: Callable[[Any], Mapping[str, Node]]) -> Builder:
    """Class of a trunk under the name `base`, and heads on it."""
    return lambda config: Module(children={base: trunk(config), **heads(config)})


def over_tokens(name: str) -> Callable[[Any], Mapping[str, Node]]:
    """Labels of every token, or the two ends of a span."""
    return lambda config: {name: head(config.hidden_size, config.num_labels)}


def over_samples(name: str = "classifier") -> Callable[[Any], Mapping[str, Node]]:
    """Labels of a pooled sample."""
    return lambda config: {name: head(config.hidden_size, config.num_labels, once=True)}


def over_choices(name: str = "classifier") -> Callable[[Any], Mapping[str, Node]]:
    """Score of a choice."""
    return lambda config: {name: head(config.hidden_size, 1, once=True)}


def dense_classifier(config: Any) -> Mapping[str, Node]:
    """Dense layer and labels of a sample, where the trunk has no pooler."""
    width = config.hidden_size
    layers_of_head = {"dense": head(width, width, once=True), "out_proj": head(width, config.num_labels, once=True)}
    return {"classifier": Module(children=layers_of_head)}
