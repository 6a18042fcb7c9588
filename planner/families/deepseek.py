"""Latent attention (MLA): DeepSeek-V2, V3 and V3.2, Kimi-K2, GLM-4.7-Flash and GLM-5, and others that follow them.

Some dense layers first, then routed experts beside shared ones. From V3.2 on an indexer chooses the keys of a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import prediction_module, router_biases
from planner.families.blocks import gated_mlp, layer_norm, layer_stack, layers, linear, rms_norm, with_children
from planner.families.config import Count, Dimension, LayerCount, Names, require, require_divides
from planner.families.decoder import (
    NO_LABELS,
    NO_SPANS,
    DecoderConfig,
    Heads,
    decoder,
    decoder_family,
    pre_norm_block,
    require_kinds,
)
from planner.families.family import Prediction
from planner.families.moe import (
    DENSE,
    SPARSE,
    MlpTypesConfig,
    SharedExpertsConfig,
    check_dense_layers,
    dense_first,
    shared_experts_mlp,
)
from planner.families.vision import DUMPED_KEYS
from planner.nodes import Attention, Cached, Module, Node
from planner.numeric import Num, exact_quotient


class LatentAttentionConfig(DecoderConfig):
    """Keys of latent attention."""

    # A latent replaces key/value heads.
    accepted_keys: ClassVar[frozenset[str]] = (
        DecoderConfig.accepted_keys | DUMPED_KEYS | {"head_dim", "num_key_value_heads", "qk_head_dim"}
    )

    kv_lora_rank: Dimension = 512
    q_lora_rank: Dimension | None = 1536
    qk_nope_head_dim: Dimension = 128
    qk_rope_head_dim: Dimension = 64
    v_head_dim: Dimension = 128
    attention_bias: bool = False

    @property
    def v_width(self) -> Num:
        """Width of a head's values."""
        return self.v_head_dim

    @property
    def qk_width(self) -> Num:
        """Width of a head's queries and keys."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def check_heads(self) -> None:
        """Nothing: the heads may be of any width."""


class LatentConfig(LatentAttentionConfig, SharedExpertsConfig):
    """Keys of latent attention, and of experts beside shared ones."""

    accepted_keys: ClassVar[frozenset[str]] = LatentAttentionConfig.accepted_keys | SharedExpertsConfig.accepted_keys

    vocab_size: Dimension = 129280
    hidden_size: Dimension = 7168
    intermediate_size: Dimension = 18432
    num_hidden_layers: LayerCount = 61
    num_attention_heads: Dimension = 128


class DeepseekV3Config(LatentConfig):
    """DeepSeek-V3, R1 and Kimi-K2."""

    first_k_dense_replace: Count = 3

    def check(self) -> None:
        """Besides the experts, no more dense layers than layers."""
        super().check()
        check_dense_layers("first_k_dense_replace", self.first_k_dense_replace, self.num_hidden_layers)


class DeepseekV2Config(DeepseekV3Config):
    """DeepSeek-V2 and V2-Lite; the class has no default for the experts that a token visits."""

    vocab_size: Dimension = 102400
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 11008
    moe_intermediate_size: Dimension = 1407
    num_hidden_layers: LayerCount = 32
    num_attention_heads: Dimension = 32
    n_shared_experts: Count = 2
    n_routed_experts: Dimension = Field(64, validation_alias=AliasChoices("n_routed_experts", "num_experts"))
    num_experts_per_tok: Dimension
    first_k_dense_replace: Count = 0
    mlp_bias: bool = False

    @property
    def mlp_has_bias(self) -> bool:
        """As `mlp_bias` says."""
        return self.mlp_bias


class Mistral4Config(DeepseekV3Config):
    """Mistral 4."""

    vocab_size: Dimension = 131072
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 12288
    num_hidden_layers: LayerCount = 36
    num_attention_heads: Dimension = 32
    n_routed_experts: Dimension = Field(128, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 4
    kv_lora_rank: Dimension = 256
    q_lora_rank: Dimension | None = 1024
    qk_nope_head_dim: Dimension = 64
    first_k_dense_replace: Count = 0


class SarvamMlaConfig(DeepseekV3Config):
    """Sarvam-105B, which has the class of DeepSeek-V3 and names of its own."""

    accepted_keys: ClassVar[frozenset[str]] = DeepseekV3Config.accepted_keys | {"q_head_dim"}

    vocab_size: Dimension = 262144
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 16384
    num_hidden_layers: LayerCount = 32
    num_attention_heads: Dimension = 64
    n_routed_experts: Dimension = Field(
        128, validation_alias=AliasChoices("n_routed_experts", "num_experts", "num_local_experts")
    )
    n_shared_experts: Count = Field(1, validation_alias=AliasChoices("n_shared_experts", "num_shared_experts"))
    q_lora_rank: Dimension | None = None
    first_k_dense_replace: Count = 1


class YoutuConfig(LatentAttentionConfig):
    """Youtu-LLM: latent attention and dense layers."""

    vocab_size: Dimension = 128256
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 6144
    num_attention_heads: Dimension = 16
    tie_word_embeddings: bool = True


class MiniCPM3Config(LatentAttentionConfig):
    """MiniCPM3: latent attention and dense layers, biases by keys."""

    # Values that scale embeddings, residuals and logits.
    accepted_keys: ClassVar[frozenset[str]] = LatentAttentionConfig.accepted_keys | {
        "scale_emb",
        "scale_depth",
        "dim_model_base",
    }

    vocab_size: Dimension = 73448
    hidden_size: Dimension = 2560
    intermediate_size: Dimension = 6400
    num_hidden_layers: LayerCount = 62
    num_attention_heads: Dimension = 40
    kv_lora_rank: Dimension = 256
    q_lora_rank: Dimension | None = 768
    qk_nope_head_dim: Dimension = 64
    qk_rope_head_dim: Dimension = 32
    v_head_dim: Dimension | None = None  # type: ignore[assignment]
    mlp_bias: bool = False
    tie_word_embeddings: bool = True

    @property
    def v_width(self) -> Num:
        """The quotient where the config does not say."""
        return (
            exact_quotient(self.hidden_size, self.num_attention_heads) if self.v_head_dim is None else self.v_head_dim
        )

    @property
    def mlp_has_bias(self) -> bool:
        """As `mlp_bias` says."""
        return self.mlp_bias

    def check_heads(self) -> None:
        """Heads must divide the width where they are as wide as the quotient."""
        if self.v_head_dim is None:
            require_divides("num_attention_heads", self.num_attention_heads, "hidden_size", self.hidden_size)


class Glm4MoeLiteConfig(LatentConfig, MlpTypesConfig):
    """GLM-4.7-Flash: a list says which layers are dense."""

    # Its config.json also states the number of dense layers, which the class does not ask.
    accepted_keys: ClassVar[frozenset[str]] = LatentConfig.accepted_keys | {"first_k_dense_replace"}

    vocab_size: Dimension = 154880
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 10240
    moe_intermediate_size: Dimension = 1536
    num_hidden_layers: LayerCount = 47
    num_attention_heads: Dimension = 20
    n_routed_experts: Dimension = Field(64, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 4
    q_lora_rank: Dimension | None = 768
    qk_nope_head_dim: Dimension = 192
    v_head_dim: Dimension = 256


class AXK1Config(LatentConfig, MlpTypesConfig):
    """A.X K1: the experts' output has a norm."""

    column_free_keys: ClassVar[frozenset[str]] = MlpTypesConfig.column_free_keys | {
        "first_k_dense_replace",
        "moe_layer_freq",
    }

    vocab_size: Dimension = 163840
    num_attention_heads: Dimension = 64
    n_routed_experts: Dimension = Field(192, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    q_lora_rank: Dimension = 1536
    first_k_dense_replace: Count = 1
    moe_layer_freq: Dimension = 1

    def mlp_types(self) -> list[str]:
        """By the list, or every `moe_layer_freq`-th layer after the dense ones."""
        if self.mlp_layer_types is not None:
            return self.mlp_layer_types
        return [
            SPARSE if layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0 else DENSE
            for layer in range(self.num_hidden_layers)
        ]


FULL_INDEX = "full"
SHARED_INDEX = "shared"


class DeepseekV32Config(Glm4MoeLiteConfig):
    """DeepSeek-V3.2: every layer has an indexer, and queries always a latent."""

    # The class knows one kind of attention layer, and has no bias in its MLPs.
    accepted_keys: ClassVar[frozenset[str]] = LatentConfig.accepted_keys | {"layer_types", "mlp_bias"}
    column_free_keys: ClassVar[frozenset[str]] = Glm4MoeLiteConfig.column_free_keys | {"first_k_dense_replace"}

    vocab_size: Dimension = 129280
    hidden_size: Dimension = 7168
    intermediate_size: Dimension = 18432
    moe_intermediate_size: Dimension = 2048
    num_hidden_layers: LayerCount = 61
    num_attention_heads: Dimension = 128
    n_routed_experts: Dimension = Field(
        256, validation_alias=AliasChoices("n_routed_experts", "num_local_experts", "num_experts")
    )
    num_experts_per_tok: Dimension = 8
    q_lora_rank: Dimension = 1536
    qk_nope_head_dim: Dimension = 128
    v_head_dim: Dimension = 128
    first_k_dense_replace: Count = 3
    index_topk: Dimension = 2048
    index_head_dim: Dimension = 128
    index_n_heads: Dimension = 64

    def dense_layers(self) -> int:
        """As `first_k_dense_replace` says."""
        return self.first_k_dense_replace

    def index_kinds(self) -> Sequence[str]:
        """Whether each layer has an indexer, or takes over what the one before it chose."""
        return [FULL_INDEX] * self.num_hidden_layers


class GlmMoeDsaConfig(DeepseekV32Config):
    """GLM-5: V3.2 with other dimensions; later releases share an indexer between layers."""

    column_free_keys: ClassVar[frozenset[str]] = DeepseekV32Config.column_free_keys | {
        "index_topk_freq",
        "index_skip_topk_offset",
    }

    vocab_size: Dimension = 154880
    hidden_size: Dimension = 6144
    intermediate_size: Dimension = 12288
    num_hidden_layers: LayerCount = 78
    num_attention_heads: Dimension = 64
    q_lora_rank: Dimension = 2048
    qk_nope_head_dim: Dimension = 192
    v_head_dim: Dimension = 256
    index_n_heads: Dimension = 32
    indexer_types: Names | None = None
    index_topk_pattern: str | Names | None = None
    index_topk_freq: Count = 1
    index_skip_topk_offset: Count = 2

    def index_kinds(self) -> Sequence[str]:
        """By `indexer_types`, by a pattern such as ``FSSF``, or every `index_topk_freq`-th layer from an offset on."""
        if self.indexer_types is not None:
            return self.indexer_types
        if isinstance(self.index_topk_pattern, str):
            words = {"F": FULL_INDEX, "S": SHARED_INDEX}
            return [words.get(letter, letter) for letter in self.index_topk_pattern]
        if self.index_topk_pattern is not None:
            return self.index_topk_pattern
        every, offset = max(self.index_topk_freq, 1), self.index_skip_topk_offset
        return [
            FULL_INDEX if max(layer - offset + 1, 0) % every == 0 else SHARED_INDEX
            for layer in range(self.num_hidden_layers)
        ]

    def check(self) -> None:
        """Besides the experts and MLPs, each layer must have an indexer, or one before it."""
        super().check()
        key = "index_topk_pattern" if self.indexer_types is None and self.index_topk_pattern else "indexer_types"
        kinds = self.index_kinds()
        require_kinds(key, kinds, self.num_hidden_layers, (FULL_INDEX, SHARED_INDEX))
        require(kinds[0] == FULL_INDEX, key, "the first layer has no indexer before it to share")


def latent_attention(config: LatentAttentionConfig, selected: Num | None = None) -> Module:
    """MLA: queries and keys/values each through a low-rank latent with a norm; the rope part of a key has no latent."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    bias = config.attention_bias
    children: dict[str, Node]
    if config.q_lora_rank is None:
        children = {"q_proj": linear(hidden, heads * config.qk_width)}
    else:
        children = {
            "q_a_proj": linear(hidden, config.q_lora_rank, bias),
            "q_a_layernorm": rms_norm(config.q_lora_rank),
            "q_b_proj": linear(config.q_lora_rank, heads * config.qk_width),
        }
    products = Attention(
        num_heads=heads,
        qk_head_dim=config.qk_width,
        v_head_dim=config.v_width,
        causal=True,
        selected=selected,
        cached=Cached(heads=1, key_width=config.kv_lora_rank, value_width=config.qk_rope_head_dim, kind="latent"),
    )
    children |= {
        "kv_a_proj_with_mqa": linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim, bias),
        "kv_a_layernorm": rms_norm(config.kv_lora_rank),
        "kv_b_proj": replace(
            linear(config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_width)), expands_cache=True
        ),
        "o_proj": linear(heads * config.v_width, hidden, bias),
        "": products,
    }
    return Module(children=children, bucket="attention")


def indexer(config: DeepseekV32Config) -> Module:
    """Small attention that scores every key for a query: products of its heads, then their weighted sum."""
    hidden, heads, width = config.hidden_size, config.index_n_heads, config.index_head_dim
    return Module(
        children={
            "wq_b": linear(config.q_lora_rank, heads * width),
            "wk": linear(hidden, width),
            "k_norm": layer_norm(width),
            "weights_proj": linear(hidden, heads),
            # The sum over its heads is a product as well, one column a key: as if a head's values were one wide.
            "": Attention(
                num_heads=heads,
                qk_head_dim=width,
                v_head_dim=1,
                causal=True,
                cached=Cached(heads=1, key_width=width, value_width=0, kind="indexer"),
            ),
        },
        backward=False,
    )


def _mlps(config: LatentConfig) -> dict[str, Module]:
    dense = gated_mlp(config.hidden_size, config.intermediate_size, config.mlp_has_bias)
    return {DENSE: dense, SPARSE: shared_experts_mlp(config)}


def deepseek_model(config: DeepseekV3Config) -> Node:
    """`first_k_dense_replace` dense layers, then layers with experts."""
    attention = latent_attention(config)
    dense, sparse = (pre_norm_block(config.hidden_size, attention, mlp) for mlp in _mlps(config).values())
    return decoder(config, dense_first(dense, sparse, config.first_k_dense_replace, config.num_hidden_layers))


def dense_latent_model(config: LatentAttentionConfig) -> Node:
    """Latent attention, and dense layers throughout."""
    mlp = gated_mlp(config.hidden_size, config.intermediate_size, config.mlp_has_bias)
    block = pre_norm_block(config.hidden_size, latent_attention(config), mlp)
    return decoder(config, layers(block, config.num_hidden_layers))


def glm4_moe_lite_model(config: Glm4MoeLiteConfig) -> Node:
    """Dense layers and layers with experts as a list says."""
    return _listed_model(config, config.mlp_types(), _mlps(config))


def axk1_model(config: AXK1Config) -> Node:
    """A norm behind the experts."""
    mlps = _mlps(config)
    mlps[SPARSE] = with_children(mlps[SPARSE], {"post_mlp_layernorm": rms_norm(config.hidden_size)})
    return _listed_model(config, config.mlp_types(), mlps)


def _listed_model(config: LatentConfig, kinds: Sequence[str], mlps: Mapping[str, Module]) -> Module:
    attention = latent_attention(config)
    blocks = layer_stack(kinds, lambda kind: pre_norm_block(config.hidden_size, attention, mlps[kind]))
    return decoder(config, blocks)


def deepseek_v32_model(config: DeepseekV32Config) -> Node:
    """Latent attention to the keys that an indexer chooses, of the layer itself or of one before it."""
    shared_index, mlps = latent_attention(config, config.index_topk), _mlps(config)
    attention = {SHARED_INDEX: shared_index, FULL_INDEX: with_children(shared_index, {"indexer": indexer(config)})}
    blocks = layer_stack(
        list(zip(config.index_kinds(), config.mlp_types(), strict=True)),
        lambda kind: pre_norm_block(config.hidden_size, attention[kind[0]], mlps[kind[1]]),
    )
    return decoder(config, blocks)


def _prediction(config: LatentConfig, _: Mapping[str, Any]) -> Node:
    """A layer with experts, and tables of its own; where the model has an indexer, so has the layer."""
    attention = latent_attention(config)
    if isinstance(config, DeepseekV32Config):
        attention = with_children(attention, {"indexer": indexer(config)})
    block = pre_norm_block(config.hidden_size, attention, _mlps(config)[SPARSE])
    return prediction_module(block.children, config.hidden_size, vocab_size=config.vocab_size)


PREDICTION = Prediction(module=_prediction)

FAMILIES = (
    decoder_family("axk1", "AXK1", AXK1Config, axk1_model, omit=NO_SPANS, heads=Heads()),
    decoder_family(
        "deepseek_v2",
        "DeepseekV2",
        DeepseekV2Config,
        deepseek_model,
        omit=(*NO_SPANS, "ForTokenClassification"),
        heads=Heads(),
    ),
    decoder_family(
        "deepseek_v3",
        "DeepseekV3",
        DeepseekV3Config,
        deepseek_model,
        omit=NO_SPANS,
        prediction=PREDICTION,
        beside=router_biases(deepseek_model),
    ),
    decoder_family(
        "deepseek_v32",
        "DeepseekV32",
        DeepseekV32Config,
        deepseek_v32_model,
        omit=NO_LABELS,
        prediction=PREDICTION,
        beside=router_biases(deepseek_v32_model),
    ),
    decoder_family(
        "glm4_moe_lite",
        "Glm4MoeLite",
        Glm4MoeLiteConfig,
        glm4_moe_lite_model,
        omit=NO_LABELS,
        prediction=PREDICTION,
        beside=router_biases(glm4_moe_lite_model),
    ),
    decoder_family(
        "glm_moe_dsa",
        "GlmMoeDsa",
        GlmMoeDsaConfig,
        deepseek_v32_model,
        omit=NO_LABELS,
        prediction=PREDICTION,
        beside=router_biases(deepseek_v32_model),
    ),
    decoder_family(
        "minicpm3", "MiniCPM3", MiniCPM3Config, dense_latent_model, omit=(*NO_SPANS, "ForTokenClassification")
    ),
    decoder_family("mistral4", "Mistral4", Mistral4Config, deepseek_model, omit=NO_SPANS),
    decoder_family("youtu", "Youtu", YoutuConfig, dense_latent_model, omit=NO_LABELS),
    # Kimi-K2 and Sarvam state model types of their own and the class of DeepSeek-V3.
    decoder_family(
        "kimi_k2",
        "DeepseekV3",
        DeepseekV3Config,
        deepseek_model,
        omit=NO_SPANS,
        prediction=PREDICTION,
        beside=router_biases(deepseek_model),
    ),
    decoder_family(
        "sarvam_mla",
        "DeepseekV3",
        SarvamMlaConfig,
        deepseek_model,
        omit=NO_SPANS,
        beside=router_biases(deepseek_model),
    ),
)
