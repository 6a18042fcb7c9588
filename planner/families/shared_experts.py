"""Grouped-query attention, some dense layers, and experts beside shared ones: GLM-4.5 and those built like it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import prediction_module, router_biases
from planner.families.blocks import gated_mlp, layer_stack, layers, linear, rms_norm, with_children
from planner.families.config import Count, Dimension, LayerCount, require_divides
from planner.families.decoder import (
    FULL,
    NO_LABELS,
    SLIDING,
    AttentionBiasConfig,
    DecoderConfig,
    Heads,
    SlidingConfig,
    UseBiasConfig,
    block_with_norms,
    decoder,
    decoder_family,
    pre_norm_block,
    self_attention,
)
from planner.families.family import Prediction
from planner.families.moe import (
    DENSE,
    SPARSE,
    MlpTypesConfig,
    SharedExpertsConfig,
    check_dense_layers,
    dense_first,
    routed_mlp,
    shared_experts_mlp,
)
from planner.families.olmo import Exaone4Config
from planner.nodes import Attention, Module, Node, Parameter
from planner.numeric import Num

ROUTED = AliasChoices("n_routed_experts", "num_local_experts")
"""What most of these families call the number of experts."""

PLAIN_ROUTED = AliasChoices("num_experts", "num_local_experts")
PLAIN_SHARED = AliasChoices("num_shared_experts")
"""What others call it, and the shared ones."""


class Glm4MoeConfig(SharedExpertsConfig):
    """GLM-4.5, GLM-4.5-Air and GLM-4.6."""

    vocab_size: Dimension = 151552
    hidden_size: Dimension = 4096
    intermediate_size: Dimension = 10944
    num_hidden_layers: LayerCount = 46
    num_attention_heads: Dimension = 96
    num_key_value_heads: Dimension | None = 8
    attention_bias: bool = False
    use_qk_norm: bool = False
    moe_intermediate_size: Dimension = 1408
    n_routed_experts: Dimension = Field(128, validation_alias=ROUTED)
    first_k_dense_replace: Count = 1

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says, which leaves the output projection without."""
        return self.attention_bias

    def check(self) -> None:
        """Besides heads and experts, no more dense layers than layers."""
        super().check()
        check_dense_layers("first_k_dense_replace", self.first_k_dense_replace, self.num_hidden_layers)


class SarvamMoeConfig(Glm4MoeConfig):
    """Sarvam-30B, which has the class of GLM-4.5 and names of its own."""

    vocab_size: Dimension = 262144
    intermediate_size: Dimension = 8192
    num_hidden_layers: LayerCount = 19
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension | None = 4
    head_dim: Dimension | None = 64
    attention_bias: bool = Field(False, validation_alias=AliasChoices("attention_bias", "use_qkv_bias"))
    use_qk_norm: bool = True
    moe_intermediate_size: Dimension = 1024
    n_routed_experts: Dimension = Field(
        128, validation_alias=AliasChoices("n_routed_experts", "num_experts", "num_local_experts")
    )
    n_shared_experts: Count = Field(1, validation_alias=AliasChoices("n_shared_experts", "num_shared_experts"))
    num_experts_per_tok: Dimension = 6


class SolarOpenConfig(SharedExpertsConfig):
    """Solar-Open: experts in every layer."""

    # Written as for GLM-4.5, whose dense layers and norms on queries and keys the class does not have.
    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys | {
        "first_k_dense_replace",
        "intermediate_size",
        "use_qk_norm",
    }

    vocab_size: Dimension = 196608
    num_hidden_layers: LayerCount = 48
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension | None = 8
    head_dim: Dimension | None = 128
    attention_bias: bool = False
    moe_intermediate_size: Dimension = 1280
    n_routed_experts: Dimension = Field(128, validation_alias=ROUTED)

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says, which leaves the output projection without."""
        return self.attention_bias


class Dots1Config(SharedExpertsConfig, SlidingConfig, AttentionBiasConfig):
    """dots.llm1; the class has no defaults for its experts."""

    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys
    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {"first_k_dense_replace"}

    vocab_size: Dimension = 152064
    hidden_size: Dimension = 4608
    intermediate_size: Dimension = 10944
    num_hidden_layers: LayerCount = 62
    num_key_value_heads: Dimension | None = 32
    sliding_window: Dimension | None = 4096
    max_window_layers: int = 62
    moe_intermediate_size: Dimension = 1408
    n_shared_experts: Count
    n_routed_experts: Dimension = Field(validation_alias=ROUTED)
    num_experts_per_tok: Dimension
    first_k_dense_replace: Count = 0

    def default_layer_types(self) -> list[str]:
        """Windows from layer `max_window_layers` on."""
        layers = range(self.num_hidden_layers)
        return [SLIDING if self.sliding_window and layer >= self.max_window_layers else FULL for layer in layers]

    def mlp_types(self) -> list[str]:
        """`first_k_dense_replace` dense layers at the start."""
        return [DENSE if layer < self.first_k_dense_replace else SPARSE for layer in range(self.num_hidden_layers)]

    def check(self) -> None:
        """Besides heads, windows and experts, no more dense layers than layers."""
        super().check()
        check_dense_layers("first_k_dense_replace", self.first_k_dense_replace, self.num_hidden_layers)


class HyV3Config(SharedExpertsConfig, MlpTypesConfig, AttentionBiasConfig):
    """Hy3: norms on each head's queries and keys."""

    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys | {"enable_moe_fp32_combine"}

    vocab_size: Dimension = 120832
    intermediate_size: Dimension = 13312
    num_hidden_layers: LayerCount = 80
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension | None = 8
    head_dim: Dimension | None = 128
    mlp_bias: bool = False
    moe_intermediate_size: Dimension = 1536
    n_routed_experts: Dimension = Field(192, validation_alias=PLAIN_ROUTED)
    n_shared_experts: Count = Field(1, validation_alias=PLAIN_SHARED)

    @property
    def mlp_has_bias(self) -> bool:
        """As `mlp_bias` says."""
        return self.mlp_bias


class ExaoneMoeConfig(Exaone4Config, MlpTypesConfig, SharedExpertsConfig):
    """K-EXAONE: windows, and norms on each head's queries and keys."""

    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys
    column_free_keys: ClassVar[frozenset[str]] = Exaone4Config.column_free_keys | {"first_k_dense_replace"}

    moe_intermediate_size: Dimension = 1024
    n_routed_experts: Dimension = Field(64, validation_alias=PLAIN_ROUTED)
    n_shared_experts: Count = Field(1, validation_alias=PLAIN_SHARED)
    first_k_dense_replace: Count = 1

    def dense_layers(self) -> int:
        """As `first_k_dense_replace` says."""
        return self.first_k_dense_replace


class MimoConfig(SharedExpertsConfig, MlpTypesConfig, SlidingConfig):
    """MiMo-V2-Flash: no shared expert; layers with a window have twice the key/value heads, and a sink a head."""

    # The released config states each kind of layer's attention for itself; the class derives one from the other.
    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys | {
        "n_shared_experts",
        "swa_num_attention_heads",
        "swa_num_key_value_heads",
        "swa_head_dim",
        "swa_v_head_dim",
        "swa_rope_theta",
        "add_full_attention_sink_bias",
        "add_swa_attention_sink_bias",
        "attention_value_scale",
        "attention_chunk_size",
        "hybrid_layer_pattern",
        "hybrid_block_size",
    }
    column_free_keys: ClassVar[frozenset[str]] = MlpTypesConfig.column_free_keys

    vocab_size: Dimension = 152576
    intermediate_size: Dimension = 16384
    num_hidden_layers: LayerCount = 48
    num_attention_heads: Dimension = 64
    num_key_value_heads: Dimension = 4
    head_dim: Dimension = 192
    v_head_dim: Dimension = 128
    attention_bias: bool = False
    sliding_window: Dimension = 129
    sliding_window_size: Dimension | None = None
    n_shared_experts: Count = 0
    n_routed_experts: Dimension = Field(256, validation_alias=ROUTED)

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says, which leaves the output projection without."""
        return self.attention_bias

    def default_layer_types(self) -> list[str]:
        """The first layer and every sixth are full."""
        return [SLIDING if layer and (layer + 1) % 6 else FULL for layer in range(self.num_hidden_layers)]

    def layer_windows(self) -> list[Num | None]:
        """Window of each layer, which a second key states without the query itself. [token]"""
        windows = super().layer_windows()
        stated = self.sliding_window_size
        return windows if stated is None else [None if window is None else stated + 1 for window in windows]

    def check(self) -> None:
        """Besides everything else, twice the key/value heads must share the query heads evenly in front of a window."""
        super().check()
        if any(window is not None for window in self.layer_windows()):
            require_divides(
                "num_key_value_heads",
                2 * self.kv_heads,
                "num_attention_heads where windows double it",
                self.num_attention_heads,
            )


class AfmoeConfig(SharedExpertsConfig, SlidingConfig, AttentionBiasConfig):
    """Trinity: a gate on the attention's output, four norms a layer, windows in three layers of four."""

    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys | {"mup_enabled", "route_scale"}
    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {
        "num_dense_layers",
        "global_attn_every_n_layers",
    }

    vocab_size: Dimension = 200192
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 6144
    num_attention_heads: Dimension = 16
    head_dim: Dimension | None = 128
    sliding_window: Dimension | None = 1024
    global_attn_every_n_layers: Dimension = 4
    moe_intermediate_size: Dimension = 1408
    n_routed_experts: Dimension = Field(64, validation_alias=PLAIN_ROUTED)
    n_shared_experts: Count = Field(2, validation_alias=PLAIN_SHARED)
    num_experts_per_tok: Dimension = 6
    num_dense_layers: Count = 1

    def default_layer_types(self) -> list[str]:
        """Every `global_attn_every_n_layers`-th layer is full."""
        layers = range(self.num_hidden_layers)
        return [SLIDING if (layer + 1) % self.global_attn_every_n_layers else FULL for layer in layers]

    def mlp_types(self) -> list[str]:
        """`num_dense_layers` at the start."""
        return [DENSE if layer < self.num_dense_layers else SPARSE for layer in range(self.num_hidden_layers)]

    def check(self) -> None:
        """Besides heads, windows and experts, no more dense layers than layers."""
        super().check()
        check_dense_layers("num_dense_layers", self.num_dense_layers, self.num_hidden_layers)


class Ernie45MoeConfig(SharedExpertsConfig, UseBiasConfig):
    """ERNIE 4.5: experts in a range of layers; one key for all biases, the head's included."""

    accepted_keys: ClassVar[frozenset[str]] = SharedExpertsConfig.accepted_keys | {
        "moe_capacity",
        "moe_gate",
        "moe_norm_min",
        "moe_use_aux_free",
        "use_rmsnorm",
    }
    column_free_keys: ClassVar[frozenset[str]] = frozenset(
        {"num_hidden_layers", "moe_layer_start_index", "moe_layer_interval", "n_shared_experts"}
    )

    vocab_size: Dimension = 103424
    hidden_size: Dimension = 2560
    intermediate_size: Dimension = 12288
    num_hidden_layers: LayerCount = 28
    num_attention_heads: Dimension = 20
    num_key_value_heads: Dimension | None = 4
    moe_intermediate_size: Dimension = 1536
    n_routed_experts: Dimension = Field(64, validation_alias=AliasChoices("moe_num_experts", "num_experts"))
    n_shared_experts: Count = Field(2, validation_alias=AliasChoices("moe_num_shared_experts"))
    num_experts_per_tok: Dimension = Field(6, validation_alias=AliasChoices("moe_k", "num_experts_per_tok"))
    moe_layer_start_index: Count = 1
    moe_layer_end_index: int = -1
    moe_layer_interval: Dimension = 1
    tie_word_embeddings: bool = True

    def mlp_types(self) -> list[str]:
        """Experts in every `moe_layer_interval`-th layer of a range, whose end may be -1 for the last layer."""
        last = self.num_hidden_layers - 1 if self.moe_layer_end_index == -1 else self.moe_layer_end_index
        return [
            SPARSE
            if self.moe_layer_start_index <= layer <= last and (layer + 1) % self.moe_layer_interval == 0
            else DENSE
            for layer in range(self.num_hidden_layers)
        ]


def _dense(config: DecoderConfig) -> Module:
    return gated_mlp(config.hidden_size, config.intermediate_size, config.mlp_has_bias)


def glm4_moe_model(config: Glm4MoeConfig) -> Node:
    """`first_k_dense_replace` dense layers, then layers with experts."""
    hidden = config.hidden_size
    attention = self_attention(config, None, qk_norm=config.use_qk_norm)
    dense, sparse = (pre_norm_block(hidden, attention, mlp) for mlp in (_dense(config), shared_experts_mlp(config)))
    return decoder(config, dense_first(dense, sparse, config.first_k_dense_replace, config.num_hidden_layers))


def solar_open_model(config: SolarOpenConfig) -> Node:
    """Experts in every layer."""
    block = pre_norm_block(config.hidden_size, self_attention(config, None), shared_experts_mlp(config))
    return decoder(config, layers(block, config.num_hidden_layers))


Block = Callable[[Node, Node], Node]
"""Block of an attention and an MLP."""


def _listed_model(
    config: DecoderConfig,
    *,
    windows: Sequence[Num | None],
    attention: Callable[[Num | None], Node],
    mlp_types: Sequence[str],
    mlps: Mapping[str, Node],
    block: Block | None = None,
) -> Module:
    """Decoder of which each layer's window and MLP are known."""

    def build(kind: tuple[Num | None, str]) -> Node:
        window, mlp_type = kind
        if block is not None:
            return block(attention(window), mlps[mlp_type])
        return pre_norm_block(config.hidden_size, attention(window), mlps[mlp_type])

    return decoder(config, layer_stack(list(zip(windows, mlp_types, strict=True)), build))


def dots1_model(config: Dots1Config | ExaoneMoeConfig) -> Node:
    """Query and key norms, and windows besides."""
    return _listed_model(
        config,
        windows=config.layer_windows(),
        attention=lambda window: self_attention(config, window, qk_norm=True),
        mlp_types=config.mlp_types(),
        mlps={DENSE: _dense(config), SPARSE: shared_experts_mlp(config)},
    )


def hy_v3_model(config: HyV3Config) -> Node:
    """Query and key norms."""
    return _listed_model(
        config,
        windows=[None] * config.num_hidden_layers,
        attention=lambda window: self_attention(config, window, qk_norm=True),
        mlp_types=config.mlp_types(),
        mlps={DENSE: _dense(config), SPARSE: shared_experts_mlp(config)},
    )


def _mimo_attention(config: MimoConfig, window: Num | None) -> Module:
    hidden, heads, bias = config.hidden_size, config.num_attention_heads, config.qkv_bias
    kv_heads = config.kv_heads if window is None else 2 * config.kv_heads
    children: dict[str, Node] = {
        "q_proj": linear(hidden, heads * config.head_dim, bias),
        "k_proj": linear(hidden, kv_heads * config.head_dim, bias),
        "v_proj": linear(hidden, kv_heads * config.v_head_dim, bias),
        "o_proj": linear(heads * config.v_head_dim, hidden),
        "": Attention(
            num_heads=heads,
            num_kv_heads=kv_heads,
            qk_head_dim=config.head_dim,
            v_head_dim=config.v_head_dim,
            causal=True,
            window=window,
        ),
    }
    if window is not None:
        children["sinks"] = Parameter(shape=(heads,))
    return Module(children=children, bucket="attention")


def mimo_model(config: MimoConfig) -> Node:
    """Keys wider than values."""
    experts = routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.n_routed_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
    )
    return _listed_model(
        config,
        windows=config.layer_windows(),
        attention=lambda window: _mimo_attention(config, window),
        mlp_types=config.mlp_types(),
        mlps={DENSE: _dense(config), SPARSE: experts},
    )


AFMOE_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")


def afmoe_model(config: AfmoeConfig) -> Node:
    """A gate for each output of the attention, a trained bias for each expert."""
    hidden = config.hidden_size
    gate = linear(hidden, config.num_attention_heads * config.head_width)
    bias = Parameter(shape=(config.n_routed_experts,), bucket="router")
    experts = with_children(shared_experts_mlp(config, router_name="router.gate"), {"expert_bias": bias})
    return _listed_model(
        config,
        windows=config.layer_windows(),
        attention=lambda window: with_children(self_attention(config, window, qk_norm=True), {"gate_proj": gate}),
        mlp_types=config.mlp_types(),
        mlps={DENSE: _dense(config), SPARSE: experts},
        block=lambda attention, mlp: block_with_norms(attention, mlp, rms_norm(hidden), AFMOE_NORMS),
    )


def ernie4_5_moe_model(config: Ernie45MoeConfig) -> Node:
    """A bias for each expert that is a tensor and not trained."""
    bias = Parameter(shape=(1, config.n_routed_experts), bucket="router")
    mlp = shared_experts_mlp(config)
    if config.n_shared_experts == 0:
        mlp = Module(children={name: child for name, child in mlp.children.items() if name != "shared_experts"})
    experts = with_children(mlp, {"gate.moe_statics.e_score_correction_bias": bias})
    return _listed_model(
        config,
        windows=[None] * config.num_hidden_layers,
        attention=lambda window: self_attention(config, window),
        mlp_types=config.mlp_types(),
        mlps={DENSE: _dense(config), SPARSE: experts},
    )


def _glm4_prediction(config: Glm4MoeConfig, _: Mapping[str, Any]) -> Node:
    """A layer with experts, and in GLM-4.5 tables of its own."""
    attention = self_attention(config, None, qk_norm=config.use_qk_norm)
    block = pre_norm_block(config.hidden_size, attention, shared_experts_mlp(config))
    return prediction_module(block.children, config.hidden_size, vocab_size=config.vocab_size)


def _ernie_prediction(config: Ernie45MoeConfig, _: Mapping[str, Any]) -> Node:
    """A dense layer behind two norms; the last norm is the model's."""
    hidden = config.hidden_size
    block = pre_norm_block(hidden, self_attention(config, None), _dense(config))
    norms = ("mtp_emb_norm.0", "mtp_hidden_norm.0")
    return prediction_module({"mtp_block.0": block}, hidden, joints={"mtp_linear_proj.0": 2 * hidden}, norms=norms)


FAMILIES = (
    decoder_family("afmoe", "Afmoe", AfmoeConfig, afmoe_model, omit=NO_LABELS),
    decoder_family(
        "dots1",
        "Dots1",
        Dots1Config,
        dots1_model,
        omit=NO_LABELS,
        beside=router_biases(dots1_model),
    ),
    decoder_family(
        "ernie4_5_moe",
        "Ernie4_5_Moe",
        Ernie45MoeConfig,
        ernie4_5_moe_model,
        omit=NO_LABELS,
        heads=Heads(lm_bias=lambda config: config.use_bias),
        prediction=Prediction(module=_ernie_prediction),
    ),
    decoder_family(
        "exaone_moe",
        "ExaoneMoe",
        ExaoneMoeConfig,
        dots1_model,
        omit=NO_LABELS,
        beside=router_biases(dots1_model),
    ),
    decoder_family(
        "glm4_moe",
        "Glm4Moe",
        Glm4MoeConfig,
        glm4_moe_model,
        omit=NO_LABELS,
        prediction=Prediction(module=_glm4_prediction),
        beside=router_biases(glm4_moe_model),
    ),
    decoder_family(
        "hy_v3",
        "HYV3",
        HyV3Config,
        hy_v3_model,
        omit=NO_LABELS,
        beside=router_biases(hy_v3_model),
    ),
    decoder_family(
        "mimo_v2_flash",
        "MiMoV2Flash",
        MimoConfig,
        mimo_model,
        omit=NO_LABELS,
        beside=router_biases(mimo_model),
    ),
    decoder_family(
        "sarvam_moe",
        "Glm4Moe",
        SarvamMoeConfig,
        glm4_moe_model,
        omit=NO_LABELS,
        beside=router_biases(glm4_moe_model),
    ),
    decoder_family(
        "solar_open",
        "SolarOpen",
        SolarOpenConfig,
        solar_open_model,
        omit=NO_LABELS,
        beside=router_biases(solar_open_model),
    ),
)
