"""T5 and mT5: encoder-decoder with relative positions, whose heads need not fill the width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field

from planner.families.beside import NOTHING, UNUSED_TENSORS, tensor
from planner.families.blocks import linear, output_head, rms_norm, token_embedding
from planner.families.config import Dimension, LayerCount, ModelConfig, require
from planner.families.family import Builder, Family
from planner.families.heads import head
from planner.nodes import CROSS, SOURCE, TOKENS, Attention, Embedding, Linear, Module, Node, Repeat, Stack, Stream, Tied
from planner.numeric import Num


class T5Config(ModelConfig):
    """Keys of T5. Tied or not is what the config says: transformers 5 ties always, which drops a matrix of Flan-T5."""

    vocab_size: Dimension = 32128
    d_model: Dimension = Field(512, validation_alias=AliasChoices("d_model", "hidden_size"))
    d_kv: Dimension = Field(64, validation_alias=AliasChoices("d_kv", "head_dim"))
    d_ff: Dimension = 2048
    num_layers: LayerCount = Field(6, validation_alias=AliasChoices("num_layers", "num_hidden_layers"))
    num_decoder_layers: LayerCount | None = None
    num_heads: Dimension = Field(8, validation_alias=AliasChoices("num_heads", "num_attention_heads"))
    relative_attention_num_buckets: Dimension = 32
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True

    @property
    def decoder_layers(self) -> Num:
        """As many as in the encoder where the config does not say."""
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate matrix."""
        return self.feed_forward_proj.startswith("gated-")

    def check(self) -> None:
        """`feed_forward_proj` is an activation, or ``gated-`` and an activation."""
        parts = self.feed_forward_proj.split("-")
        require(
            len(parts) == 1 or (len(parts) == 2 and parts[0] == "gated"),
            "feed_forward_proj",
            f"expected an activation such as relu, or gated- and one, got {self.feed_forward_proj!r}",
        )


class MT5Config(T5Config):
    """mT5: the class defaults to a gated MLP and a larger vocabulary."""

    vocab_size: Dimension = 250112
    d_ff: Dimension = 1024
    num_layers: LayerCount = Field(8, validation_alias=AliasChoices("num_layers", "num_hidden_layers"))
    num_heads: Dimension = Field(6, validation_alias=AliasChoices("num_heads", "num_attention_heads"))
    feed_forward_proj: str = "gated-gelu"


def _attention(config: T5Config, *, causal: bool, cross: bool = False, relative: bool = False) -> Module:
    inner = config.num_heads * config.d_kv
    to_keys = Linear(in_features=config.d_model, out_features=inner, stream=CROSS if cross else None)
    children: dict[str, Node] = {
        "q": linear(config.d_model, inner),
        "k": to_keys,
        "v": to_keys,
        "o": linear(inner, config.d_model),
    }
    if relative:
        children["relative_attention_bias"] = Embedding(
            num_embeddings=config.relative_attention_num_buckets, embedding_dim=config.num_heads
        )
    children[""] = Attention(
        num_heads=config.num_heads,
        qk_head_dim=config.d_kv,
        v_head_dim=config.d_kv,
        causal=causal,
        keys="source" if cross else "self",
        bucket="attention.cross" if cross else "attention",
    )
    return Module(children=children, bucket="attention.cross" if cross else "attention")


def _mlp(config: T5Config) -> Module:
    inputs = ("wi_0", "wi_1") if config.gated else ("wi",)
    children: dict[str, Node] = {name: linear(config.d_model, config.d_ff) for name in inputs}
    return Module(children={**children, "wo": linear(config.d_ff, config.d_model)}, bucket="mlp")


def _sublayer(config: T5Config, name: str, node: Node) -> Module:
    return Module(children={name: node, "layer_norm": rms_norm(config.d_model)})


def _block(config: T5Config, *, decoder: bool, relative: bool) -> Module:
    self_attention = _attention(config, causal=decoder, relative=relative)
    sublayers = [_sublayer(config, "SelfAttention", self_attention)]
    if decoder:
        sublayers.append(_sublayer(config, "EncDecAttention", _attention(config, causal=False, cross=True)))
    sublayers.append(_sublayer(config, "DenseReluDense", _mlp(config)))
    return Module(children={f"layer.{index}": node for index, node in enumerate(sublayers)})


def _stack(config: T5Config, *, decoder: bool, stream: Stream) -> Module:
    """Blocks of one side: the first holds the table of relative positions, the others use it."""
    count = config.decoder_layers if decoder else config.num_layers
    first, rest = (_block(config, decoder=decoder, relative=relative) for relative in (True, False))
    parts = (
        Repeat(child=first, count=1, indices=range(1)),
        Repeat(child=rest, count=count - 1, indices=range(1, count) if isinstance(count, int) else None),
    )
    table = Tied(module=token_embedding(config.vocab_size, config.d_model), to="shared")
    return Module(
        children={
            "embed_tokens": table,
            "block": Stack(parts=parts),
            "final_layer_norm": rms_norm(config.d_model),
        },
        stream=stream,
    )


def _shared(config: T5Config) -> Embedding:
    return token_embedding(config.vocab_size, config.d_model)


def _encoder_decoder(config: T5Config) -> dict[str, Node]:
    return {
        "shared": _shared(config),
        "encoder": _stack(config, decoder=False, stream=SOURCE),
        "decoder": _stack(config, decoder=True, stream=TOKENS),
    }


def _encoder(config: T5Config) -> dict[str, Node]:
    return {"shared": _shared(config), "encoder": _stack(config, decoder=False, stream=TOKENS)}


def _conditional_generation(config: T5Config) -> Node:
    tied_to = "shared" if config.tie_word_embeddings else None
    lm_head = output_head(config.d_model, config.vocab_size, tied_to)
    return Module(children={**_encoder_decoder(config), "lm_head": lm_head})


def _sequence_classification(config: T5Config) -> Node:
    heads = {
        "dense": head(config.d_model, config.d_model, once=True),
        "out_proj": head(config.d_model, config.num_labels, once=True),
    }
    transformer = Module(children=_encoder_decoder(config))
    return Module(children={"transformer": transformer, "classification_head": Module(children=heads)})


def _token_classification(config: T5Config) -> Node:
    transformer = Module(children=_encoder(config))
    return Module(children={"transformer": transformer, "classifier": head(config.d_model, config.num_labels)})


def _classes(prefix: str) -> Mapping[str, Builder]:
    return {
        f"{prefix}Model": lambda config: Module(children=_encoder_decoder(config)),
        f"{prefix}ForConditionalGeneration": _conditional_generation,
        f"{prefix}EncoderModel": lambda config: Module(children=_encoder(config)),
        f"{prefix}ForSequenceClassification": _sequence_classification,
        f"{prefix}ForTokenClassification": _token_classification,
        f"{prefix}ForQuestionAnswering": lambda config: Module(
            children={**_encoder_decoder(config), "qa_outputs": head(config.d_model, config.num_labels)}
        ),
    }


CROSS_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def _unused(config: T5Config, _: Mapping[str, Any]) -> Node:
    """Relative positions between a decoder's token and the encoder's, which the first release stored."""
    if config.gated:
        return NOTHING
    table = tensor(UNUSED_TENSORS, config.relative_attention_num_buckets, config.num_heads)
    return Module(children={CROSS_BIAS: table})


FAMILIES = tuple(
    Family(
        model_type=model_type,
        config=kind,
        classes=_classes(prefix),
        default_class=f"{prefix}ForConditionalGeneration",
        beside=_unused if model_type == "t5" else None,
    )
    for model_type, prefix, kind in (("t5", "T5", T5Config), ("mt5", "MT5", MT5Config))
)
