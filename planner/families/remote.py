"""Decoders whose class ships beside the weights and not with transformers: Qwen-1, InternLM, Orion, Phi-3-small."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import (
    fused_attention,
    gated_mlp,
    layer_norm,
    layers,
    linear,
    rms_norm,
    token_embedding,
)
from planner.families.config import Dimension, LayerCount, require
from planner.families.decoder import (
    NO_SPANS,
    DecoderConfig,
    Heads,
    block_with_norms,
    decoder,
    decoder_classes,
    decoder_family,
    self_attention,
)
from planner.families.family import Family
from planner.families.llama import frequencies, llama_model
from planner.nodes import Module, Node
from planner.numeric import Num, divides, exact_quotient


class QWenConfig(DecoderConfig):
    """Qwen-1: q, k and v are fused and biased, and `intermediate_size` counts both halves of the gated MLP."""

    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {
        "bf16",
        "fp16",
        "fp32",
        "onnx_safe",
        "seq_length",
        "use_cache_kernel",
        "use_cache_quantization",
        "use_dynamic_ntk",
        "use_flash_attn",
        "use_logn_attn",
    }

    vocab_size: Dimension = 151936
    intermediate_size: Dimension = 22016
    kv_channels: Dimension = 128
    no_bias: bool = True

    @property
    def head_width(self) -> Num:
        """`kv_channels`, for queries too."""
        return self.kv_channels

    @property
    def half(self) -> Num:
        """Width of the MLP."""
        return exact_quotient(self.intermediate_size, 2)

    def check(self) -> None:
        """Besides the heads, the MLP must have two equal halves."""
        super().check()
        require(divides(2, self.intermediate_size), "intermediate_size", f"must be even, got {self.intermediate_size}")


class InternLMConfig(DecoderConfig):
    """InternLM-1: Llama with a bias on all four projections."""

    vocab_size: Dimension = 103168
    bias: bool = True

    @property
    def qkv_bias(self) -> bool:
        """As `bias` says."""
        return self.bias

    @property
    def out_bias(self) -> bool:
        """As `bias` says."""
        return self.bias


class InternLM2Config(DecoderConfig):
    """InternLM-2 and 2.5: fused projections."""

    # Which kernel computes the attention.
    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {"attn_implementation"}

    vocab_size: Dimension = 92544
    intermediate_size: Dimension = 14336
    num_key_value_heads: Dimension | None = 8
    bias: bool = False


class OrionConfig(DecoderConfig):
    """Orion: Llama with LayerNorm."""

    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {"max_sequence_length"}

    vocab_size: Dimension = 84608
    hidden_size: Dimension = 5120
    intermediate_size: Dimension = 15360
    num_hidden_layers: LayerCount = 40
    num_attention_heads: Dimension = 40


class Phi3SmallConfig(DecoderConfig):
    """Phi-3-small: biases everywhere, whatever `attention_bias` says; every other layer attends in blocks.

    A block-sparse layer is counted as if it were dense, as its mask decides what it skips.
    """

    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {
        "attention_bias",
        "blocksparse_block_size",
        "blocksparse_homo_head_pattern",
        "blocksparse_num_local_blocks",
        "blocksparse_triton_kernel_block_size",
        "blocksparse_vert_stride",
        "dense_attention_every_n_layers",
        "gegelu_limit",
        "gegelu_pad_to_256",
        "mup_use_scaling",
        "pad_sequence_to_multiple_of_64",
    }

    vocab_size: Dimension = 100352
    intermediate_size: Dimension = Field(
        14336, validation_alias=AliasChoices("ff_intermediate_size", "intermediate_size")
    )
    num_key_value_heads: Dimension | None = 8
    tie_word_embeddings: bool = True


def _fused_attention(config: DecoderConfig, qkv_name: str, out_name: str, *, bias: bool, out_bias: bool) -> Module:
    return fused_attention(
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_width,
        qkv_name=qkv_name,
        out_name=out_name,
        bias=bias,
        out_bias=out_bias,
    )


def qwen_model(config: QWenConfig) -> Node:
    """GPT-2's names around Llama's blocks."""
    hidden, inner, bias = config.hidden_size, config.half, not config.no_bias
    mlp = {
        "w1": linear(hidden, inner, bias),
        "w2": linear(hidden, inner, bias),
        "c_proj": linear(inner, hidden, bias),
    }
    block = Module(
        children={
            "ln_1": rms_norm(hidden),
            "attn": _fused_attention(config, "c_attn", "c_proj", bias=True, out_bias=bias),
            "ln_2": rms_norm(hidden),
            "mlp": Module(children=mlp, bucket="mlp"),
        }
    )
    return Module(
        children={
            "wte": token_embedding(config.vocab_size, hidden),
            "h": layers(block, config.num_hidden_layers),
            "ln_f": rms_norm(hidden),
        }
    )


def internlm2_model(config: InternLM2Config) -> Node:
    """Names of Llama's first release."""
    hidden, inner = config.hidden_size, config.intermediate_size
    mlp = {"w1": linear(hidden, inner), "w3": linear(hidden, inner), "w2": linear(inner, hidden)}
    block = Module(
        children={
            "attention": _fused_attention(config, "wqkv", "wo", bias=config.bias, out_bias=config.bias),
            "feed_forward": Module(children=mlp, bucket="mlp"),
            "attention_norm": rms_norm(hidden),
            "ffn_norm": rms_norm(hidden),
        }
    )
    return Module(
        children={
            "tok_embeddings": token_embedding(config.vocab_size, hidden),
            "layers": layers(block, config.num_hidden_layers),
            "norm": rms_norm(hidden),
        }
    )


def orion_model(config: OrionConfig) -> Node:
    """Llama's decoder with LayerNorm."""
    norm = layer_norm(config.hidden_size)
    mlp = gated_mlp(config.hidden_size, config.intermediate_size)
    block = block_with_norms(self_attention(config, None), mlp, norm)
    return decoder(config, layers(block, config.num_hidden_layers), {"norm": norm})


def phi3small_model(config: Phi3SmallConfig) -> Node:
    """Decoder with LayerNorm, whose MLP has gate and up in one matrix."""
    hidden, inner = config.hidden_size, config.intermediate_size
    norm = layer_norm(hidden)
    mlp = Module(
        children={"up_proj": linear(hidden, 2 * inner, bias=True), "down_proj": linear(inner, hidden, bias=True)},
        bucket="mlp",
    )
    attention = _fused_attention(config, "query_key_value", "dense", bias=True, out_bias=True)
    block = block_with_norms(attention, mlp, norm)
    return decoder(config, layers(block, config.num_hidden_layers), {"final_layernorm": norm})


ONLY_SEQUENCES = ("ForTokenClassification", "ForQuestionAnswering")


def _qwen() -> Family:
    classes = decoder_classes("QWen", qwen_model, heads=Heads(base="transformer", table="wte"))
    return Family(
        model_type="qwen",
        config=QWenConfig,
        classes={"QWenModel": qwen_model, "QWenLMHeadModel": classes["QWenForCausalLM"]},
        default_class="QWenLMHeadModel",
    )


FAMILIES = (
    _qwen(),
    decoder_family("internlm", "InternLM", InternLMConfig, llama_model, omit=ONLY_SEQUENCES),
    decoder_family(
        "internlm2",
        "InternLM2",
        InternLM2Config,
        internlm2_model,
        heads=Heads(table="tok_embeddings", lm_head="output"),
    ),
    decoder_family("orion", "Orion", OrionConfig, orion_model, omit=ONLY_SEQUENCES),
    decoder_family("phi3small", "Phi3Small", Phi3SmallConfig, phi3small_model, omit=NO_SPANS, beside=frequencies),
)
