"""T5Gemma: two stacks of Gemma 2, one an encoder, the other with cross-attention."""

from __future__ import annotations

from typing import ClassVar

from planner.families.blocks import attention, gated_mlp, output_head, rms_norm, with_children
from planner.families.config import ComposedConfig
from planner.families.decoder import block_with_norms, decoder, self_attention, windowed_layers
from planner.families.family import Family
from planner.families.gemma import Gemma2Config
from planner.families.heads import head
from planner.nodes import SOURCE, TOKENS, Module, Node, Stream
from planner.numeric import Num

NORMS = tuple(f"{when}_{what}_layernorm" for what in ("self_attn", "feedforward") for when in ("pre", "post"))


class T5GemmaModuleConfig(Gemma2Config):
    """One stack, with the class's defaults, which are those of the 2B model."""

    # What the class writes over: the decoder's source is as wide as the encoder.
    accepted_keys: ClassVar[frozenset[str]] = Gemma2Config.accepted_keys | {
        "add_cross_attention",
        "cross_attention_hidden_size",
    }


class T5GemmaConfig(ComposedConfig):
    """Both stacks. Classifiers may consist of the encoder alone."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"vocab_size"})

    encoder: T5GemmaModuleConfig = T5GemmaModuleConfig()
    decoder: T5GemmaModuleConfig = T5GemmaModuleConfig()
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True


def _block(config: T5GemmaModuleConfig, window: Num | None, *, causal: bool) -> Module:
    self_attn = self_attention(config, window, causal=causal)
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)
    return block_with_norms(self_attn, mlp, rms_norm(config.hidden_size), NORMS)


def _encoder(config: T5GemmaConfig, stream: Stream) -> Module:
    stack = config.encoder

    def block(window: Num | None) -> Node:
        # On each side as many others as the window says, and the token itself.
        return _block(stack, None if window is None else window + 1, causal=False)

    return Module(children=decoder(stack, windowed_layers(stack, block)).children, stream=stream)


def _decoder(config: T5GemmaConfig) -> Module:
    stack = config.decoder
    cross = attention(
        hidden_size=stack.hidden_size,
        num_heads=stack.num_attention_heads,
        num_kv_heads=stack.kv_heads,
        head_dim=stack.head_width,
        causal=False,
        qkv_bias=stack.qkv_bias,
        out_bias=stack.out_bias,
        source_size=config.encoder.hidden_size,
    )
    norm = rms_norm(stack.hidden_size)
    more: dict[str, Node] = {"cross_attn": cross, "pre_cross_attn_layernorm": norm, "post_cross_attn_layernorm": norm}

    def block(window: Num | None) -> Node:
        return with_children(_block(stack, window, causal=True), more)

    return Module(children=decoder(stack, windowed_layers(stack, block)).children, stream=TOKENS)


def _model(config: T5GemmaConfig) -> Module:
    return Module(children={"encoder": _encoder(config, SOURCE), "decoder": _decoder(config)})


def _encoder_model(config: T5GemmaConfig) -> Module:
    return Module(children={"encoder": _encoder(config, TOKENS)})


def _generation(config: T5GemmaConfig) -> Node:
    stack = config.decoder
    tied_to = "model.decoder.embed_tokens" if config.tie_word_embeddings else None
    lm_head = Module(children={"out_proj": output_head(stack.hidden_size, stack.vocab_size, tied_to)})
    return Module(children={"model": _model(config), "lm_head": lm_head})


def _with_labels(config: T5GemmaConfig) -> Node:
    """Labels of every position; a classifier of samples picks one of them afterwards."""
    model = _model(config) if config.is_encoder_decoder else _encoder_model(config)
    width = config.decoder.hidden_size if config.is_encoder_decoder else config.encoder.hidden_size
    score = Module(children={"out_proj": head(width, config.num_labels)})
    return Module(children={"model": model, "score": score})


FAMILIES = (
    Family(
        model_type="t5gemma",
        config=T5GemmaConfig,
        classes={
            "T5GemmaModel": _model,
            "T5GemmaEncoderModel": _encoder_model,
            "T5GemmaForConditionalGeneration": _generation,
            "T5GemmaForSequenceClassification": _with_labels,
            "T5GemmaForTokenClassification": _with_labels,
        },
        default_class="T5GemmaForConditionalGeneration",
    ),
)
