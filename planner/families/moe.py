"""Decoders whose MLPs are routed experts: Mixtral, Qwen2-MoE, Qwen3-MoE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import gated_mlp, layer_stack, linear
from planner.families.config import LARGEST_LAYER_COUNT, Count, Dimension, LayerCount, require
from planner.families.decoder import (
    DecoderConfig,
    SlidingConfig,
    decoder,
    decoder_family,
    pre_norm_block,
    self_attention,
    windowed_layers,
)
from planner.families.llama import Qwen2Config
from planner.nodes import Experts, Linear, Module, Node
from planner.numeric import Num, all_true

LayerList = Annotated[list[Count], Field(max_length=LARGEST_LAYER_COUNT)]


def router(hidden_size: Num, num_experts: Num, bias: bool = False) -> Linear:
    """Product that scores the experts."""
    return Linear(in_features=hidden_size, out_features=num_experts, bias=bias, bucket="router")


def check_top_k(top_k_key: str, top_k: Num, num_experts: Num) -> None:
    """A token cannot visit more experts than there are."""
    require(all_true(top_k <= num_experts), top_k_key, f"{top_k} experts a token, but there are {num_experts}")


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
    mlp = Module(
        children={
            "gate": router(config.hidden_size, config.num_local_experts),
            "experts": Experts(
                num_experts=config.num_local_experts,
                top_k=config.num_experts_per_tok,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
            ),
        }
    )
    blocks = windowed_layers(
        config, lambda window: pre_norm_block(config.hidden_size, self_attention(config, window), mlp)
    )
    return decoder(config, blocks)


class Qwen3MoeConfig(SlidingConfig):
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
    attention_bias: bool = False
    use_sliding_window: bool = False
    sliding_window: Dimension | None = 4096
    decoder_sparse_step: Dimension = 1
    mlp_only_layers: LayerList | None = None
    moe_intermediate_size: Dimension = 768
    num_experts: Dimension = Field(128, validation_alias=AliasChoices("num_experts", "num_local_experts"))
    num_experts_per_tok: Dimension = 8

    @property
    def qkv_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias

    @property
    def out_bias(self) -> bool:
        """As `attention_bias` says."""
        return self.attention_bias

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
        """As in Qwen2: windows from layer `max_window_layers` on."""
        return Qwen2Config.windows(self)


def _qwen_model(config: Qwen3MoeConfig, *, qk_norm: bool, shared: dict[str, Node]) -> Node:
    windows = config.windows()
    assert isinstance(windows, Sequence)  # noqa: S101 - the config of this family always lists them
    experts = Module(
        children={
            "gate": router(config.hidden_size, config.num_experts),
            "experts": Experts(
                num_experts=config.num_experts,
                top_k=config.num_experts_per_tok,
                hidden_size=config.hidden_size,
                intermediate_size=config.moe_intermediate_size,
            ),
            **shared,
        }
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
    shared: dict[str, Node] = {
        "shared_expert": gated_mlp(config.hidden_size, config.shared_expert_intermediate_size, bucket="experts.shared"),
        "shared_expert_gate": Module(children={"": linear(config.hidden_size, 1)}, bucket="experts.shared"),
    }
    return _qwen_model(config, qk_norm=False, shared=shared)


def qwen3_moe_model(config: Qwen3MoeConfig) -> Node:
    """Routed experts, and norms on queries and keys."""
    return _qwen_model(config, qk_norm=True, shared={})


FAMILIES = (
    decoder_family("mixtral", "Mixtral", MixtralConfig, mixtral_model),
    decoder_family("qwen2_moe", "Qwen2Moe", Qwen2MoeConfig, qwen2_moe_model),
    decoder_family("qwen3_moe", "Qwen3Moe", Qwen3MoeConfig, qwen3_moe_model),
)
