"""DeBERTa 1 to 3: encoders whose scores also compare content with relative distances, which have a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from planner.families.blocks import layer_norm, linear, output_head, position_embedding, token_embedding
from planner.families.config import Count, Dimension, LayerCount, require
from planner.families.encoder import (
    EncoderConfig,
    dense_transform,
    encoder_layers,
    over_choices,
    over_samples,
    over_tokens,
    type_embedding,
    vocabulary_head,
    widening,
    with_heads,
)
from planner.families.family import Builder, Family
from planner.families.heads import pooler
from planner.nodes import (
    LOGITS,
    Attention,
    Convolution,
    Linear,
    Module,
    Node,
    Parameter,
    Stack,
    Stream,
    Tied,
)
from planner.numeric import Num, exact_quotient

CONTENT_TO_POSITION = "c2p"
POSITION_TO_CONTENT = "p2c"
WORD_EMBEDDINGS = "deberta.embeddings.word_embeddings"


def _unset(value: object) -> object:
    """These configs write -1 for a key that is not set."""
    return None if isinstance(value, int) and value < 1 else value


def _split(value: object) -> object:
    """A list may be written as one word, its members apart by bars."""
    return [part.strip() for part in value.lower().split("|")] if isinstance(value, str) else value


OptionalDimension = Annotated[Dimension | None, BeforeValidator(_unset)]
"""Dimension, or a number below 1 where there is none."""

Words = Annotated[list[str], BeforeValidator(_split)]
"""List of words."""


class DebertaConfig(EncoderConfig):
    """Keys of DeBERTa 1."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"pooler_hidden_act"})
    # Hardly any model has a table of types.
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"type_vocab_size"})

    vocab_size: Dimension = 50265
    type_vocab_size: Count = 0
    embedding_size: Dimension | None = None
    relative_attention: bool = False
    max_relative_positions: OptionalDimension = None
    position_biased_input: bool = True
    pos_att_type: Words = Field([])
    talking_head: bool = False
    pooler_hidden_size: Dimension | None = None
    legacy: bool = True

    def check(self) -> None:
        """Besides the heads, those that talk to each other are not built."""
        super().check()
        require(not self.talking_head, "talking_head", "heads that mix their scores are not supported")

    @property
    def embedding_width(self) -> Num:
        """As wide as the layers where the config does not say."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def pooler_width(self) -> Num:
        """As wide as the layers where the config does not say."""
        return self.hidden_size if self.pooler_hidden_size is None else self.pooler_hidden_size

    @property
    def largest_distance(self) -> Num:
        """Distances that are told apart, to each side. [token]"""
        return self.max_position_embeddings if self.max_relative_positions is None else self.max_relative_positions

    @property
    def compared(self) -> list[str]:
        """Comparisons of content with distance, one more product of queries or keys each."""
        known = (CONTENT_TO_POSITION, POSITION_TO_CONTENT)
        return [kind for kind in known if self.relative_attention and kind in self.pos_att_type]


class DebertaV2Config(DebertaConfig):
    """Keys of DeBERTa 2 and 3."""

    accepted_keys: ClassVar[frozenset[str]] = DebertaConfig.accepted_keys | {"conv_act"}
    # The first layer has a convolution beside it where the kernel has a size.
    column_free_keys: ClassVar[frozenset[str]] = DebertaConfig.column_free_keys | {"conv_kernel_size"}

    vocab_size: Dimension = 128100
    hidden_size: Dimension = 1536
    num_hidden_layers: LayerCount = 24
    num_attention_heads: Dimension = 24
    intermediate_size: Dimension = 6144
    attention_head_size: Dimension | None = None
    position_buckets: OptionalDimension = None
    share_att_key: bool = False
    norm_rel_ebd: Words = Field(["none"])
    conv_kernel_size: Count = 0
    conv_groups: Dimension = 1

    def check(self) -> None:
        """Besides the heads, the convolution must keep the length of the sequence."""
        super().check()
        require(
            self.conv_kernel_size == 0 or self.conv_kernel_size % 2 == 1,
            "conv_kernel_size",
            f"expected an odd number, got {self.conv_kernel_size}",
        )

    @property
    def head_width(self) -> Num:
        """`attention_head_size`, or `hidden_size / num_attention_heads` where the config does not say."""
        if self.attention_head_size is not None:
            return self.attention_head_size
        return exact_quotient(self.hidden_size, self.num_attention_heads)

    @property
    def largest_distance(self) -> Num:
        """Distances that are told apart, to each side: farther ones share `position_buckets`. [token]"""
        return super().largest_distance if self.position_buckets is None else self.position_buckets


def _scores(config: DebertaConfig, head_dim: Num, distances: Stream) -> Stack:
    """Attention, and for each comparison the scores of every token with every distance."""
    heads = config.num_attention_heads
    content = Attention(num_heads=heads, qk_head_dim=head_dim, v_head_dim=head_dim, causal=False)
    comparison = Attention(
        num_heads=heads,
        qk_head_dim=head_dim,
        v_head_dim=0,
        causal=False,
        keys="distances",
        key_stream=distances,
    )
    return Stack(parts=(content, *(comparison for _ in config.compared)))


def _attention(config: DebertaConfig) -> Module:
    hidden, head_dim = config.hidden_size, exact_quotient(config.hidden_size, config.num_attention_heads)
    # Only distances that the sequence has.
    distances = Stream(kind="distances", at_most=2 * config.largest_distance)
    projections = {
        CONTENT_TO_POSITION: ("pos_proj", False),
        POSITION_TO_CONTENT: ("pos_q_proj", True),
    }
    children: dict[str, Node] = {
        "q_bias": Parameter(shape=(hidden,)),
        "v_bias": Parameter(shape=(hidden,)),
        "in_proj": linear(hidden, 3 * hidden),
    }
    for kind in config.compared:
        name, bias = projections[kind]
        children[name] = Linear(in_features=hidden, out_features=hidden, bias=bias, stream=distances)
    return Module(children={**children, "": _scores(config, head_dim, distances)})


def _attention_v2(config: DebertaV2Config) -> Module:
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_width
    # The whole table, however short the sequence.
    distances = Stream(kind="distances", fixed=2 * config.largest_distance)
    of_distances = Linear(in_features=hidden, out_features=width, bias=True, stream=distances)
    children: dict[str, Node] = {
        name: linear(hidden, width, bias=True) for name in ("query_proj", "key_proj", "value_proj")
    }
    again: dict[str, Node] = {}
    if config.relative_attention and config.share_att_key:
        # Queries and keys of distances are made with the matrices that make those of tokens.
        shared = Linear(in_features=hidden, out_features=width, stream=distances)
        names = {CONTENT_TO_POSITION: "key_proj", POSITION_TO_CONTENT: "query_proj"}
        again = {names[kind]: Tied(module=shared, to=names[kind]) for kind in config.compared}
    elif config.compared:
        names = {CONTENT_TO_POSITION: "pos_key_proj", POSITION_TO_CONTENT: "pos_query_proj"}
        children |= {names[kind]: of_distances for kind in config.compared}
    own = Module(children={**again, "": _scores(config, config.head_width, distances)})
    return Module(children={**children, "": own})


def _embeddings(config: DebertaConfig) -> Module:
    width = config.embedding_width
    children: dict[str, Node] = {"word_embeddings": token_embedding(config.vocab_size, width)}
    if config.position_biased_input:
        children["position_embeddings"] = position_embedding(config.max_position_embeddings, width)
    if config.type_vocab_size > 0:
        children["token_type_embeddings"] = type_embedding(config.type_vocab_size, width)
    projection = widening("embed_proj", width, config.hidden_size, bias=False)
    return Module(children={**children, **projection, "LayerNorm": layer_norm(config.hidden_size)})


def _table_of_distances(config: DebertaConfig) -> dict[str, Node]:
    if not config.relative_attention:
        return {}
    return {"rel_embeddings": position_embedding(2 * config.largest_distance, config.hidden_size)}


def _model(config: DebertaConfig) -> Module:
    encoder = {"layer": encoder_layers(config, _attention(config)), **_table_of_distances(config)}
    return Module(children={"embeddings": _embeddings(config), "encoder": Module(children=encoder)})


def _model_v2(config: DebertaV2Config) -> Module:
    hidden = config.hidden_size
    encoder = {"layer": encoder_layers(config, _attention_v2(config)), **_table_of_distances(config)}
    if "layer_norm" in config.norm_rel_ebd:
        encoder["LayerNorm"] = layer_norm(hidden)
    if config.conv_kernel_size > 0:
        convolution = Convolution(
            in_channels=hidden,
            out_channels=hidden,
            kernel_size=(config.conv_kernel_size,),
            groups=config.conv_groups,
            bucket="other.misc",
        )
        encoder["conv"] = Module(children={"conv": convolution, "LayerNorm": layer_norm(hidden)})
    return Module(children={"embeddings": _embeddings(config), "encoder": Module(children=encoder)})


def _masked_lm(config: DebertaConfig) -> Mapping[str, Node]:
    if config.legacy:
        width = config.embedding_width
        transform = {"transform": Module(children=dense_transform(config.hidden_size, width))}
        predictions = vocabulary_head(config, width, WORD_EMBEDDINGS, transform)
        return {"cls": Module(children={"predictions": predictions})}
    # This head is handed the input table and multiplies with it itself.
    product = output_head(config.hidden_size, config.vocab_size, WORD_EMBEDDINGS)
    bias = Parameter(shape=(config.vocab_size,))
    dense = dense_transform(config.hidden_size, config.hidden_size)
    head = Module(children={"bias": bias, **dense, "": product}, bucket="other.lm_head", stream=LOGITS)
    return {"lm_predictions": Module(children={"lm_head": head})}


def _over_samples(config: DebertaConfig) -> Mapping[str, Node]:
    return {"pooler": pooler(config.pooler_width), **over_samples()(config)}


def _over_choices(config: DebertaConfig) -> Mapping[str, Node]:
    return {"pooler": pooler(config.pooler_width), **over_choices()(config)}


def _classes(prefix: str, model: Builder, **more: Callable[[DebertaConfig], Mapping[str, Node]]) -> dict[str, Builder]:
    heads = {
        "ForMaskedLM": _masked_lm,
        "ForSequenceClassification": _over_samples,
        "ForTokenClassification": over_tokens("classifier"),
        "ForQuestionAnswering": over_tokens("qa_outputs"),
        **more,
    }
    named: dict[str, Builder] = {f"{prefix}Model": model}
    return named | {f"{prefix}{name}": with_heads("deberta", model, head) for name, head in heads.items()}


FAMILIES = (
    Family(
        model_type="deberta",
        config=DebertaConfig,
        classes=_classes("Deberta", _model),
        default_class="DebertaModel",
    ),
    Family(
        model_type="deberta-v2",
        config=DebertaV2Config,
        classes=_classes("DebertaV2", _model_v2, ForMultipleChoice=_over_choices),
        default_class="DebertaV2Model",
    ),
)
