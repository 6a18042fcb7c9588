"""A model from the bare dimensions that a measured row states, through the blocks that families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.errors import PlannerError
from planner.families.blocks import (
    attention,
    gated_mlp,
    layer_norm,
    layers,
    output_head,
    plain_mlp,
    position_embedding,
    rms_norm,
    stack,
    token_embedding,
)
from planner.families.decoder import pre_norm_block
from planner.families.moe import routed_mlp
from planner.models import build_model, load_model
from planner.nodes import Module, Node
from planner.sources import ConfigSource
from planner.validate.reading import Skipped

REQUIRED = ("layers", "hidden", "heads", "ffn", "vocab")
"""Dimensions without which no decoder is known."""


def tree_of(model: Mapping[str, Any]) -> Node:
    """Tree of the `model` of a measured row.

    Parameters
    ----------
    model : mapping
        Dimensions under the names that measured rows use: ``layers``, ``hidden``, ``heads``, ``kv_heads``,
        ``head_dim``, ``ffn``, ``vocab``, ``gated_mlp``, ``norm``, ``bias``, ``tied_embeddings``,
        ``learned_positions``, ``moe``, ``mla``; or a name that the catalog knows.

    Raises
    ------
    Skipped
        A dimension is missing, and the catalog does not know the name either.
    """
    missing = [key for key in REQUIRED if model.get(key) is None]
    if missing:
        return _named_tree(model, missing)
    try:
        return latent_tree(model) if model.get("mla") else decoder_tree(model)
    except PlannerError as error:
        raise Skipped(f"the dimensions fit no architecture: {error}") from None


def _named_tree(model: Mapping[str, Any], missing: list[str]) -> Node:
    for name in (model.get("hf_id"), model.get("name"), model.get("name_alias")):
        if isinstance(name, str):
            try:
                return load_model(name, offline=True).tree
            except PlannerError:
                continue
    raise Skipped(f"the model's {', '.join(missing)} is not stated, and the catalog does not know its name")


def decoder_tree(model: Mapping[str, Any]) -> Node:
    """Decoder with grouped key/value heads, a gated or plain MLP, or routed experts."""
    hidden, heads = model["hidden"], model["heads"]
    head_dim = model.get("head_dim") or model.get("kv_channels") or hidden // heads
    bias = bool(model.get("bias"))
    norm = layer_norm(hidden) if model.get("norm") == "layernorm" else rms_norm(hidden)
    self_attn = attention(
        hidden_size=hidden,
        num_heads=heads,
        num_kv_heads=model.get("kv_heads") or heads,
        head_dim=head_dim,
        causal=True,
        qkv_bias=bias,
        out_bias=bias,
    )

    def block(mlp: Node) -> Module:
        made = pre_norm_block(hidden, self_attn, mlp)
        return Module(
            children={name: norm if name.endswith("layernorm") else child for name, child in made.children.items()}
        )

    dense = (
        gated_mlp(hidden, model["ffn"], bias) if model.get("gated_mlp") else plain_mlp(hidden, model["ffn"], bias=bias)
    )
    count = model["layers"]
    experts = model.get("moe")
    if experts:
        first = experts.get("dense_layers") or 0
        blocks: Node = stack(layers(block(dense), first), layers(block(_routed(hidden, experts)), count - first, first))
    else:
        blocks = layers(block(dense), count)
    inside: dict[str, Node] = {"embed_tokens": token_embedding(model["vocab"], hidden)}
    if model.get("learned_positions"):
        inside["embed_positions"] = position_embedding(model["learned_positions"], hidden)
    inside |= {"layers": blocks, "norm": norm}
    tied = "model.embed_tokens" if model.get("tied_embeddings") else None
    return Module(children={"model": Module(children=inside), "lm_head": output_head(hidden, model["vocab"], tied)})


def _routed(hidden: int, experts: Mapping[str, Any]) -> Module:
    shared_width = experts.get("shared_ffn") or experts.get("shared")
    shared = {"shared_experts": gated_mlp(hidden, shared_width, bucket="experts.shared")} if shared_width else None
    return routed_mlp(
        hidden_size=hidden,
        num_experts=experts["experts"],
        top_k=experts["topk"],
        intermediate_size=experts["moe_ffn"],
        shared=shared,
    )


def latent_tree(model: Mapping[str, Any]) -> Node:
    """Decoder with MLA, and routed experts after a few dense layers."""
    latent, experts = model["mla"], model.get("moe") or {}
    width = experts.get("moe_ffn") or model["ffn"]
    raw = {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "hidden_size": model["hidden"],
        "vocab_size": model["vocab"],
        "num_hidden_layers": model["layers"],
        "num_attention_heads": model["heads"],
        "num_key_value_heads": model["heads"],
        "intermediate_size": model["ffn"],
        "q_lora_rank": latent.get("q_lora"),
        "kv_lora_rank": latent["kv_lora"],
        "qk_nope_head_dim": latent["qk_nope"],
        "qk_rope_head_dim": latent["qk_rope"],
        "v_head_dim": latent["v_head"],
        "n_routed_experts": experts.get("experts") or 1,
        "num_experts_per_tok": experts.get("topk") or 1,
        "moe_intermediate_size": width,
        "n_shared_experts": (experts.get("shared_ffn") or 0) // width,
        "first_k_dense_replace": experts.get("dense_layers", 0) if experts else model["layers"],
        "tie_word_embeddings": bool(model.get("tied_embeddings")),
    }
    return build_model(ConfigSource(name=str(model.get("name")), origin="measured row", raw=raw)).tree
