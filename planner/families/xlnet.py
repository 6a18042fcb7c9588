"""XLNet: an encoder with relative positions that are projected in every layer, and tensors that keep heads apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import layer_norm, layers, linear, output_head, token_embedding
from planner.families.config import Dimension, LayerCount, require, require_divides
from planner.families.encoder import SummaryConfig, head_norm, sequence_summary, with_heads
from planner.families.family import Family
from planner.families.heads import head
from planner.nodes import ONCE, TOKENS, Attention, Linear, Module, Node, Parameter, Product, Stack, Stream
from planner.numeric import Num, all_true, exact_quotient


class XLNetConfig(SummaryConfig):
    """Keys of XLNet."""

    accepted_keys: ClassVar[frozenset[str]] = SummaryConfig.accepted_keys | {
        "bi_data",
        "clamp_len",
        "end_n_top",
        "ff_activation",
        "mem_len",
        "reuse_len",
        "same_length",
        "untie_r",
        "use_mems_eval",
        "use_mems_train",
    }

    vocab_size: Dimension = Field(32000, validation_alias=AliasChoices("vocab_size", "n_token"))
    d_model: Dimension = Field(1024, validation_alias=AliasChoices("d_model", "hidden_size"))
    n_layer: LayerCount = Field(24, validation_alias=AliasChoices("n_layer", "num_hidden_layers"))
    n_head: Dimension = Field(16, validation_alias=AliasChoices("n_head", "num_attention_heads"))
    d_inner: Dimension = 4096
    d_head: Dimension | None = None
    attn_type: str = "bi"
    start_n_top: Dimension = 5
    summary_type: str = "last"
    tie_word_embeddings: bool = True

    def check(self) -> None:
        """Heads must divide the width and have the width of the quotient; only full attention is built."""
        super().check()
        require_divides("n_head", self.n_head, "d_model", self.d_model)
        require(
            all_true(self.head_width * self.n_head == self.d_model),
            "d_head",
            "must be d_model / n_head",
        )
        require(self.attn_type == "bi", "attn_type", f"expected bi, got {self.attn_type!r}")

    @property
    def head_width(self) -> Num:
        """`d_head`, or `d_model / n_head` where the config does not say."""
        return exact_quotient(self.d_model, self.n_head) if self.d_head is None else self.d_head


def _attention(config: XLNetConfig) -> Module:
    hidden, heads, width = config.d_model, config.n_head, config.head_width

    def projection(name: str, *, of_activations: bool = True) -> Linear:
        return Linear(
            in_features=hidden,
            out_features=hidden,
            weight_name=name,
            weight_shape=(hidden, heads, width),
            input_needs_grad=of_activations,
        )

    content = Attention(num_heads=heads, qk_head_dim=width, v_head_dim=width, causal=False)
    # A token compares itself with the distances to those before and after it, twice as many as tokens.
    comparison = Attention(
        num_heads=heads,
        qk_head_dim=width,
        v_head_dim=0,
        causal=False,
        keys="distances",
        key_stream=Stream(kind="distances"),
    )
    # The class makes keys of distances, which are sines and cosines, for every sample anew: twice as many as tokens.
    of_distances = Module(children={"": projection("r", of_activations=False)}, runs=2)
    products: tuple[Node, ...] = (*map(projection, "qkvo"), of_distances, content, comparison)
    return Module(
        children={
            "": Stack(parts=products),
            **{name: Parameter(shape=(heads, width)) for name in ("r_r_bias", "r_s_bias", "r_w_bias")},
            "seg_embed": Parameter(shape=(2, heads, width)),
            "layer_norm": layer_norm(hidden),
        },
        bucket="attention",
    )


def _layer(config: XLNetConfig) -> Module:
    feed_forward: dict[str, Node] = {
        "layer_norm": layer_norm(config.d_model),
        "layer_1": linear(config.d_model, config.d_inner, bias=True),
        "layer_2": linear(config.d_inner, config.d_model, bias=True),
    }
    return Module(children={"rel_attn": _attention(config), "ff": Module(children=feed_forward, bucket="mlp")})


def _model(config: XLNetConfig) -> Module:
    return Module(
        children={
            "word_embedding": token_embedding(config.vocab_size, config.d_model),
            "mask_emb": Parameter(shape=(1, 1, config.d_model), bucket="embeddings.other"),
            "layer": layers(_layer(config), config.n_layer),
        }
    )


def _lm_head(config: XLNetConfig) -> Mapping[str, Node]:
    tied_to = "transformer.word_embedding" if config.tie_word_embeddings else None
    return {"lm_loss": output_head(config.d_model, config.vocab_size, tied_to, bias=True)}


def _summarised(outputs: Callable[[XLNetConfig], Num]) -> Callable[[XLNetConfig], Mapping[str, Node]]:
    return lambda config: {
        "sequence_summary": sequence_summary(config, config.d_model),
        "logits_proj": head(config.d_model, outputs(config), once=True),
    }


def _over_tokens(name: str) -> Callable[[Any], Mapping[str, Node]]:
    return lambda config: {name: head(config.d_model, config.num_labels)}


def _beam_search(config: XLNetConfig) -> Mapping[str, Node]:
    """Ends of a span for each of the best starts, and whether there is an answer at all."""
    hidden = config.d_model
    ends: dict[str, Node] = {
        "dense_0": linear(2 * hidden, hidden, bias=True),
        "LayerNorm": head_norm(hidden),
        "dense_1": linear(hidden, 1, bias=True),
    }
    answer: dict[str, Node] = {"dense_0": linear(2 * hidden, hidden, bias=True), "dense_1": linear(hidden, 1)}
    bucket = "other.lm_head"
    return {
        "start_logits": Module(children={"dense": linear(hidden, 1, bias=True)}, bucket=bucket),
        "end_logits": Module(children=ends, bucket=bucket, runs=config.start_n_top),
        "answer_class": Module(children=answer, bucket=bucket, stream=ONCE),
        # The mean of all tokens, each weighted by how probably the answer starts there.
        "": Product(rows=1, inner=1, columns=hidden, bucket=bucket, stream=TOKENS),
    }


FAMILIES = (
    Family(
        model_type="xlnet",
        config=XLNetConfig,
        classes={
            "XLNetModel": _model,
            "XLNetLMHeadModel": with_heads("transformer", _model, _lm_head),
            "XLNetForSequenceClassification": with_heads(
                "transformer", _model, _summarised(lambda config: config.num_labels)
            ),
            "XLNetForMultipleChoice": with_heads("transformer", _model, _summarised(lambda _: 1)),
            "XLNetForTokenClassification": with_heads("transformer", _model, _over_tokens("classifier")),
            "XLNetForQuestionAnsweringSimple": with_heads("transformer", _model, _over_tokens("qa_outputs")),
            "XLNetForQuestionAnswering": with_heads("transformer", _model, _beam_search),
        },
        default_class="XLNetLMHeadModel",
    ),
)
