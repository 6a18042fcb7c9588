"""Whisper: an encoder over 30 seconds of sound, always, and a decoder over text."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import layer_norm, output_head, position_embedding, token_embedding
from planner.families.config import Dimension, LayerCount
from planner.families.family import Family
from planner.families.heads import head
from planner.families.seq2seq import Seq2SeqConfig, decoder_layers, encoder_layers
from planner.nodes import Convolution, Module, Node, Parameter, Stream
from planner.numeric import Num


class WhisperConfig(Seq2SeqConfig):
    """Keys of Whisper, with the class's defaults, which are those of the tiny model."""

    accepted_keys: ClassVar[frozenset[str]] = Seq2SeqConfig.accepted_keys | {
        "apply_spec_augment",
        "mask_feature_length",
        "mask_feature_min_masks",
        "mask_feature_prob",
        "mask_time_length",
        "mask_time_min_masks",
        "mask_time_prob",
        "median_filter_width",
    }

    vocab_size: Dimension = 51865
    d_model: Dimension = Field(384, validation_alias=AliasChoices("d_model", "hidden_size"))
    num_mel_bins: Dimension = 80
    encoder_layers: LayerCount = Field(4, validation_alias=AliasChoices("encoder_layers", "num_hidden_layers"))
    encoder_attention_heads: Dimension = Field(
        6, validation_alias=AliasChoices("encoder_attention_heads", "num_attention_heads", "num_key_value_heads")
    )
    encoder_ffn_dim: Dimension = 1536
    decoder_layers: LayerCount = 4
    decoder_attention_heads: Dimension = 6
    decoder_ffn_dim: Dimension = 1536
    max_source_positions: Dimension = 1500
    max_target_positions: Dimension = 448
    use_weighted_layer_sum: bool = False
    classifier_proj_size: Dimension = 256


def _convolution(inputs: Num, outputs: Num, stream: Stream, *, first: bool) -> Convolution:
    return Convolution(
        in_channels=inputs,
        out_channels=outputs,
        kernel_size=(3,),
        input_needs_grad=not first,
        bucket="embeddings.other",
        stream=stream,
    )


def _encoder(config: WhisperConfig, frames: Stream, positions: Stream) -> Module:
    """Two convolutions, of which the second takes every other frame, and layers over what is left."""
    width = config.d_model
    return Module(
        children={
            "conv1": _convolution(config.num_mel_bins, width, frames, first=True),
            "conv2": _convolution(width, width, positions, first=False),
            "embed_positions": position_embedding(config.max_source_positions, width),
            "layers": encoder_layers(config, k_bias=False),
            "layer_norm": layer_norm(width),
        },
        stream=positions,
    )


def _decoder(config: WhisperConfig, source: Stream | None) -> Module:
    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, config.d_model),
            "embed_positions": position_embedding(config.max_target_positions, config.d_model),
            "layers": decoder_layers(config, source=source, k_bias=False),
            "layer_norm": layer_norm(config.d_model),
        }
    )


def _model(config: WhisperConfig) -> Module:
    length = config.max_source_positions
    frames, positions = Stream(kind="source", fixed=2 * length), Stream(kind="source", fixed=length)
    return Module(
        children={
            "encoder": _encoder(config, frames, positions),
            "decoder": _decoder(config, Stream(kind="cross", fixed=length)),
        }
    )


def _with_head(config: WhisperConfig, model: Node) -> Module:
    tied_to = "model.decoder.embed_tokens" if config.tie_word_embeddings else None
    return Module(children={"model": model, "proj_out": output_head(config.d_model, config.vocab_size, tied_to)})


def _causal_lm(config: WhisperConfig) -> Node:
    """The decoder alone, as it drafts for a larger model."""
    return _with_head(config, Module(children={"decoder": _decoder(config, None)}))


def _audio_classification(config: WhisperConfig) -> Node:
    length = config.max_source_positions
    frames, positions = Stream(kind="sample", per_sample=2 * length), Stream(kind="sample", per_sample=length)
    # One weight for the embedding and one for each layer.
    weights = {"layer_weights": Parameter(shape=(config.encoder_layers + 1,), bucket="other.lm_head")}
    return Module(
        children={
            "encoder": _encoder(config, frames, positions),
            **(weights if config.use_weighted_layer_sum else {}),
            "projector": head(config.d_model, config.classifier_proj_size),
            "classifier": head(config.classifier_proj_size, config.num_labels, once=True),
        },
        stream=positions,
    )


FAMILIES = (
    Family(
        model_type="whisper",
        config=WhisperConfig,
        classes={
            "WhisperModel": _model,
            "WhisperForConditionalGeneration": lambda config: _with_head(config, _model(config)),
            "WhisperForCausalLM": _causal_lm,
            "WhisperForAudioClassification": _audio_classification,
        },
        default_class="WhisperForConditionalGeneration",
    ),
)
