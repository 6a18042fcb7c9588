"""Decoders whose MLPs are routed experts: Mixtral, Qwen2-MoE, Qwen3-MoE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layer_stack, layers, linear, stack
from planner.families.config import LARGEST_LAYER_COUNT, Count, Dimension, LayerCount, Names, require
from planner.families.decoder import (
    FULL,
    SLIDING,
    AttentionBiasConfig,
    DecoderConfig,
    Heads,
    SlidingConfig,
    decoder,
    decoder_family,
    pre_norm_block,
    require_kinds,
    self_attention,
    windowed_layers,
)
from planner.nodes import Experts, Linear, Module, Node, Stack
from planner.numeric import Num, all_true

DENSE = "dense"
SPARSE = "sparse"

LayerList = Annotated[list[Count], Field(max_length=LARGEST_LAYER_COUNT)]


def router(hidden_size: Num, num_experts: Num, bias: bool = False) -> Linear:
    """Product that scores the experts."""
    return Linear(in_features=hidden_size, out_features=num_experts, bias=bias, bucket="router")


def routed_mlp(
    *,
    hidden_size: Num,
    num_experts: Num,
    top_k: Num,
    intermediate_size: Num,
    shared: Mapping[str, Node] | None = None,
    router_name: str = "gate",
) -> Module:
    """Router and gated experts in place of an MLP.

    Parameters
    ----------
    hidden_size, intermediate_size : Num
        Width of the model and of one expert.
    num_experts, top_k : Num
        Experts, and how many of them a token visits.
    shared : mapping of str to Node, optional
        What every token passes through beside them, as the class names it.
    router_name : str
        What the class calls the router.
    """
    experts = Experts(
        num_experts=num_experts, top_k=top_k, hidden_size=hidden_size, intermediate_size=intermediate_size
    )
    return Module(children={router_name: router(hidden_size, num_experts), "experts": experts, **(shared or {})})


def gated_shared_expert(hidden_size: Num, intermediate_size: Num) -> dict[str, Node]:
    """Expert that every token visits, and the gate that scales what it says."""
    return {
        "shared_expert": gated_mlp(hidden_size, intermediate_size, bucket="experts.shared"),
        "shared_expert_gate": Module(children={"": linear(hidden_size, 1)}, bucket="experts.shared"),
    }


def check_top_k(top_k_key: str, top_k: Num, num_experts: Num) -> None:
    """A token cannot visit more experts than there are."""
    require(all_true(top_k <= num_experts), top_k_key, f"{top_k} experts a token, but there are {num_experts}")


def check_dense_layers(key: str, dense_layers: Num, num_layers: Num) -> None:
    """There cannot be more dense layers than layers."""
    require(
        all_true(dense_layers <= num_layers), key, f"{dense_layers} dense layers, but num_hidden_layers is {num_layers}"
    )


def dense_first(dense: Node, sparse: Node, dense_layers: int, num_layers: int) -> Stack:
    """A few dense blocks at the start, and blocks with experts after them."""
    return stack(layers(dense, dense_layers), layers(sparse, num_layers - dense_layers, start=dense_layers))


class SharedExpertsConfig(DecoderConfig):
    """Keys of routed experts beside shared ones, as DeepSeek named them. Defaults are set by each family."""

    # MTP layers are in the checkpoint and not in the class.
    accepted_keys: ClassVar[frozenset[str]] = DecoderConfig.accepted_keys | {
        "num_nextn_predict_layers",
        "num_mtp_layers",
        "moe_layer_freq",
        "ep_size",
    }

    moe_intermediate_size: Dimension = 2048
    n_shared_experts: Count = 1
    n_routed_experts: Dimension = Field(256, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 8

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.n_routed_experts)


class MlpTypesConfig(DecoderConfig):
    """A decoder of which a list says which layers are dense and which have experts."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    mlp_layer_types: Names | None = None

    def dense_layers(self) -> int:
        """Dense layers at the start where no list says which they are."""
        return 1

    def mlp_types(self) -> list[str]:
        """Kind of each layer's MLP."""
        if self.mlp_layer_types is not None:
            return self.mlp_layer_types
        return [DENSE if layer < self.dense_layers() else SPARSE for layer in range(self.num_hidden_layers)]

    def check(self) -> None:
        """Besides everything else, a list must name a kind for each layer."""
        super().check()
        if self.mlp_layer_types is not None:
            require_kinds("mlp_layer_types", self.mlp_layer_types, self.num_hidden_layers, (DENSE, SPARSE))


def shared_experts_mlp(config: SharedExpertsConfig, router_name: str = "gate") -> Module:
    """Routed experts beside shared ones, which are one MLP as wide as all of them."""
    shared_width = config.moe_intermediate_size * config.n_shared_experts
    shared = gated_mlp(config.hidden_size, shared_width, config.mlp_has_bias, bucket="experts.shared")
    return routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.n_routed_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        shared={"shared_experts": shared},
        router_name=router_name,
    )


class MixtralConfig(DecoderConfig):
    """Mixtral: every layer has experts, as wide as `intermediate_size`."""

    intermediate_size: Dimension = 14336
    num_key_value_heads: Dimension | None = 8
    sliding_window: Dimension | None = None
    num_local_experts: Dimension = Field(8, validation_alias=AliasChoices("num_local_experts", "num_experts"))
    num_experts_per_tok: Dimension = 2

    def windows(self) -> Num | None:
        """`sliding_window`, for every layer."""
        return self.sliding_window

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_local_experts)


def mixtral_model(config: MixtralConfig) -> Node:
    """Llama's decoder with experts in place of the MLP."""
    mlp = routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_local_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.intermediate_size,
    )
    blocks = windowed_layers(
        config, lambda window: pre_norm_block(config.hidden_size, self_attention(config, window), mlp)
    )
    return decoder(config, blocks)


class Qwen3MoeConfig(AttentionBiasConfig, SlidingConfig):
    """Qwen3-MoE: some layers may keep a dense MLP."""

    # Qwen3-Coder states what the class never asks: it has no bias by this key, no shared expert, and always a q/k norm.
    accepted_keys: ClassVar[frozenset[str]] = SlidingConfig.accepted_keys | {
        "qkv_bias",
        "shared_expert_intermediate_size",
        "use_qk_norm",
    }
    column_free_keys: ClassVar[frozenset[str]] = SlidingConfig.column_free_keys | {"decoder_sparse_step"}

    vocab_size: Dimension = 151936
    hidden_size: Dimension = 2048
    intermediate_size: Dimension = 6144
    num_hidden_layers: LayerCount = 24
    num_key_value_heads: Dimension | None = 4
    use_sliding_window: bool = False
    sliding_window: Dimension | None = 4096
    decoder_sparse_step: Dimension = 1
    mlp_only_layers: LayerList | None = None
    moe_intermediate_size: Dimension = 768
    num_experts: Dimension = Field(128, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 8

    def windows(self) -> Num | Sequence[Num | None] | None:
        """`sliding_window` for every layer, if it is used at all; the class knows no list of layer kinds."""
        return [self.sliding_window if self.use_sliding_window else None] * self.num_hidden_layers

    def has_experts(self, layer: int) -> bool:
        """Whether the MLP of a layer is routed."""
        return layer not in (self.mlp_only_layers or ()) and (layer + 1) % self.decoder_sparse_step == 0

    def check(self) -> None:
        """Besides the heads, no more experts a token than there are."""
        super().check()
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.num_experts)


class Qwen2MoeConfig(Qwen3MoeConfig):
    """Qwen1.5-MoE and Qwen2-MoE: a shared expert behind a gate, biases on q, k and v."""

    intermediate_size: Dimension = 5632
    num_attention_heads: Dimension = 16
    num_key_value_heads: Dimension | None = 16
    max_window_layers: int = 28
    qkv_bias_key: bool = Field(True, validation_alias=AliasChoices("qkv_bias"))
    moe_intermediate_size: Dimension = 1408
    shared_expert_intermediate_size: Dimension = 5632
    num_experts: Dimension = Field(60, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 4

    @property
    def qkv_bias(self) -> bool:
        """As the key `qkv_bias` says."""
        return self.qkv_bias_key

    @property
    def out_bias(self) -> bool:
        """Never."""
        return False

    def windows(self) -> Num | Sequence[Num | None] | None:
        """By the kind of each layer, which this class does know."""
        return SlidingConfig.windows(self)

    def default_layer_types(self) -> list[str]:
        """Window and full in turn, the window first, up to layer `max_window_layers`, where windows are used at all."""
        return [
            SLIDING if self.use_sliding_window and layer % 2 == 0 and layer < self.max_window_layers else FULL
            for layer in range(self.num_hidden_layers)
        ]


def _qwen_model(config: Qwen3MoeConfig, *, qk_norm: bool, shared: dict[str, Node]) -> Node:
    windows = config.windows()
    assert isinstance(windows, Sequence)  # noqa: S101 - the config of this family always lists them
    experts = routed_mlp(
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        shared=shared,
    )
    dense = gated_mlp(config.hidden_size, config.intermediate_size)

    def block(kind: tuple[bool, Num | None]) -> Node:
        routed, window = kind
        attention = self_attention(config, window, qk_norm=qk_norm)
        return pre_norm_block(config.hidden_size, attention, experts if routed else dense)

    kinds = [(config.has_experts(layer), window) for layer, window in enumerate(windows)]
    return decoder(config, layer_stack(kinds, block))


def qwen2_moe_model(config: Qwen2MoeConfig) -> Node:
    """Routed experts beside a shared one, whose output a gate scales."""
    shared = gated_shared_expert(config.hidden_size, config.shared_expert_intermediate_size)
    return _qwen_model(config, qk_norm=False, shared=shared)


def qwen3_moe_model(config: Qwen3MoeConfig) -> Node:
    """Routed experts, and norms on queries and keys."""
    return _qwen_model(config, qk_norm=True, shared={})


FAMILIES = (
    decoder_family("mixtral", "Mixtral", MixtralConfig, mixtral_model, heads=Heads()),
    decoder_family("qwen2_moe", "Qwen2Moe", Qwen2MoeConfig, qwen2_moe_model, heads=Heads()),
    decoder_family("qwen3_moe", "Qwen3Moe", Qwen3MoeConfig, qwen3_moe_model),
)
