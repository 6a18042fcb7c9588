"""DBRX: experts in every layer as three flat tensors, norms without bias, keys in nested configs."""

from __future__ import annotations

from operator import attrgetter
from typing import ClassVar

from pydantic import AliasChoices, Field

from planner.families.blocks import fused_attention, layers, rms_norm, token_embedding
from planner.families.config import ComposedConfig, Dimension, LayerCount, ModelConfig, require, require_divides
from planner.families.decoder import NO_LABELS, Heads, decoder_family
from planner.families.moe import check_top_k, router
from planner.nodes import Experts, Module, Node
from planner.numeric import exact_quotient


class DbrxAttentionConfig(ModelConfig):
    """Nested keys of the attention."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"clip_qkv"})

    kv_n_heads: Dimension = 1


class DbrxFFNConfig(ModelConfig):
    """Nested keys of the experts; the width of the model is the outer config's."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {"ffn_act_fn", "moe_jitter_eps", "moe_loss_weight", "moe_normalize_expert_weights", "hidden_size"}
    )

    ffn_hidden_size: Dimension = 3584
    moe_num_experts: Dimension = 4
    moe_top_k: Dimension = 1


class DbrxConfig(ComposedConfig):
    """Keys of DBRX, whose class knows no tied head."""

    accepted_keys: ClassVar[frozenset[str]] = frozenset({"max_seq_len", "move_model_to_device"})

    vocab_size: Dimension = 32000
    d_model: Dimension = Field(2048, validation_alias=AliasChoices("d_model", "hidden_size"))
    n_heads: Dimension = Field(16, validation_alias=AliasChoices("n_heads", "num_attention_heads"))
    n_layers: LayerCount = Field(24, validation_alias=AliasChoices("n_layers", "num_hidden_layers"))
    attn_config: DbrxAttentionConfig = DbrxAttentionConfig()
    ffn_config: DbrxFFNConfig = DbrxFFNConfig()

    def check(self) -> None:
        """Heads must divide the width and share keys evenly, and no token may visit more experts than there are."""
        super().check()
        require_divides("n_heads", self.n_heads, "d_model", self.d_model)
        require_divides("attn_config.kv_n_heads", self.attn_config.kv_n_heads, "n_heads", self.n_heads)
        check_top_k("ffn_config.moe_top_k", self.ffn_config.moe_top_k, self.ffn_config.moe_num_experts)
        require(not self.tie_word_embeddings, "tie_word_embeddings", "expected false: the class has no tied head")


def dbrx_model(config: DbrxConfig) -> Node:
    """Decoder that keeps the two norms of a block beside its attention."""
    hidden, ffn = config.d_model, config.ffn_config
    attention = fused_attention(
        hidden_size=hidden,
        num_heads=config.n_heads,
        num_kv_heads=config.attn_config.kv_n_heads,
        head_dim=exact_quotient(hidden, config.n_heads),
        qkv_name="Wqkv",
        out_name="out_proj",
    )
    experts = Experts(
        num_experts=ffn.moe_num_experts,
        top_k=ffn.moe_top_k,
        hidden_size=hidden,
        intermediate_size=ffn.ffn_hidden_size,
        flat=("w1", "v1", "w2"),
    )
    block = Module(
        children={
            "norm_attn_norm": Module(
                children={"norm_1": rms_norm(hidden), "attn": attention, "norm_2": rms_norm(hidden)}
            ),
            "ffn": Module(children={"router.layer": router(hidden, ffn.moe_num_experts), "experts.mlp": experts}),
        }
    )
    return Module(
        children={
            "wte": token_embedding(config.vocab_size, hidden),
            "blocks": layers(block, config.n_layers),
            "norm_f": rms_norm(hidden),
        }
    )


HEADS = Heads(base="transformer", table="wte", width=attrgetter("d_model"))

FAMILIES = (decoder_family("dbrx", "Dbrx", DbrxConfig, dbrx_model, omit=NO_LABELS, heads=HEADS),)
