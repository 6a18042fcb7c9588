"""DeepSeek-V4: one shared key/value head, compressed keys of the distant past, residual streams that are mixed.

Every layer attends to a window. Most also attend to the whole past through keys that stand for several tokens each:
few tokens, of which an indexer chooses (compressed sparse attention), or many (heavily compressed attention).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import AliasChoices, Field

from planner.families.beside import (
    EXPERT_TABLES,
    ROUTER_BIASES,
    prediction_module,
    stated_whole,
    stated_words,
    tensor,
)
from planner.families.blocks import gated_mlp, layer_stack, layers, linear, rms_norm, stack, token_embedding
from planner.families.config import (
    LARGEST_LAYER_COUNT,
    Dimension,
    LayerCount,
    ModelConfig,
    Names,
    require,
    require_divides,
)
from planner.families.decoder import NO_LABELS, SLIDING, decoder_family, require_kinds
from planner.families.family import Prediction
from planner.families.moe import check_top_k, routed_mlp
from planner.nodes import Attention, Cached, Linear, Module, Node, Parameter, Product, Stack
from planner.numeric import Num, exact_quotient

SPARSE_ATTENTION = "compressed_sparse_attention"
HEAVY_ATTENTION = "heavily_compressed_attention"

RATIOS = {0: SLIDING, 4: SPARSE_ATTENTION, 128: HEAVY_ATTENTION}
"""Kind of a layer by the tokens that one of its keys stands for, as the released configs write it."""

Ratios = Annotated[list[int], Field(max_length=LARGEST_LAYER_COUNT)]


class DeepseekV4Config(ModelConfig):
    """Keys of DeepSeek-V4-Flash and Pro."""

    # There is one key/value head, one shared expert and no bias on attention, whatever these say. Layers that route by
    # a table have the same tensors as those that route by score. MTP layers are in the checkpoint, not in the class.
    accepted_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "num_key_value_heads",
            "n_shared_experts",
            "attention_bias",
            "qk_rope_head_dim",
            "num_hash_layers",
            "mlp_layer_types",
            "num_nextn_predict_layers",
            "max_position_embeddings",
            "expert_dtype",
            "hc_eps",
            "hc_sinkhorn_iters",
            "compress_rope_theta",
        }
    )
    column_free_keys: ClassVar[frozenset[str]] = frozenset({"num_hidden_layers"})

    vocab_size: Dimension = 129280
    hidden_size: Dimension = 4096
    moe_intermediate_size: Dimension = Field(
        2048, validation_alias=AliasChoices("moe_intermediate_size", "intermediate_size")
    )
    num_hidden_layers: LayerCount = 43
    num_attention_heads: Dimension = 64
    head_dim: Dimension = 512
    q_lora_rank: Dimension = 1024
    o_groups: Dimension = 8
    o_lora_rank: Dimension = 1024
    num_experts_per_tok: Dimension = 6
    n_routed_experts: Dimension = Field(256, validation_alias=AliasChoices("n_routed_experts", "num_local_experts"))
    mlp_bias: bool = False
    sliding_window: Dimension = 128
    layer_types: Names | None = None
    compress_ratios: Ratios | None = None
    compress_rates: dict[str, Dimension] | None = None
    compress_rate_csa: Dimension | None = None
    compress_rate_hca: Dimension | None = None
    index_n_heads: Dimension = 64
    index_head_dim: Dimension = 128
    index_topk: Dimension = 512
    hc_mult: Dimension = 4

    def rate(self, kind: str) -> Num:
        """Tokens that one key of a kind of layer stands for, under any of its names. [token]"""
        rates = self.compress_rates or {}
        if kind == SPARSE_ATTENTION:
            return rates.get(kind, 4) if self.compress_rate_csa is None else self.compress_rate_csa
        return rates.get(kind, 128) if self.compress_rate_hca is None else self.compress_rate_hca

    def attention_kinds(self) -> list[str]:
        """Kind of each layer; a list may go on into the layers that only the checkpoint has."""
        count = self.num_hidden_layers
        if self.layer_types is not None:
            return self.layer_types[:count]
        if self.compress_ratios is not None:
            return [RATIOS.get(ratio, str(ratio)) for ratio in self.compress_ratios[:count]]
        in_turn = [SPARSE_ATTENTION if layer % 2 else HEAVY_ATTENTION for layer in range(count - 2)]
        return [HEAVY_ATTENTION] * min(count, 2) + in_turn

    def check(self) -> None:
        """Groups must divide the heads, experts suffice, and the list of kinds name one for each layer."""
        require_divides(
            "o_groups", self.o_groups, "num_attention_heads * head_dim", self.num_attention_heads * self.head_dim
        )
        check_top_k("num_experts_per_tok", self.num_experts_per_tok, self.n_routed_experts)
        if self.layer_types is None and self.compress_ratios is not None:
            unknown = [ratio for ratio in self.compress_ratios if ratio not in RATIOS]
            known = ", ".join(map(str, RATIOS))
            require(not unknown, "compress_ratios", f"expected {known}, got {', '.join(map(str, unknown))}")
        key = "layer_types" if self.layer_types is not None else "compress_ratios"
        require_kinds(key, self.attention_kinds(), self.num_hidden_layers, tuple(RATIOS.values()))


def _compressor(config: DeepseekV4Config, *, width: Num, rate: Num) -> dict[str, Node]:
    """Pools the tokens that share a key: a gate with a bias for each place weighs them."""
    hidden = config.hidden_size
    return {
        "position_bias": Parameter(shape=(rate, width)),
        "kv_proj": linear(hidden, width),
        "gate_proj": linear(hidden, width),
    }


def _waiting(width: Num, *, overlaps: bool) -> Num:
    """What a compressor is given by a token: a vector and its weights, and two of each where windows overlap."""
    return 4 * width if overlaps else 2 * width


def _indexer(config: DeepseekV4Config) -> Module:
    hidden, heads, width = config.hidden_size, config.index_n_heads, config.index_head_dim
    rate = config.rate(SPARSE_ATTENTION)
    # The heads' scores are weighed element by element, so that there are no values to multiply.
    scores = Attention(
        num_heads=heads,
        qk_head_dim=width,
        v_head_dim=0,
        causal=True,
        keys="pooled",
        pool=rate,
        cached=Cached(heads=1, key_width=width, value_width=0, kind="indexer"),
        waiting=_waiting(width, overlaps=True),
        carried=width,
    )
    return Module(
        children={
            # Two series side by side, for windows that overlap by half.
            **_compressor(config, width=2 * width, rate=rate),
            "kv_norm": rms_norm(width),
            "q_b_proj": linear(config.q_lora_rank, heads * width),
            "scorer": Module(children={"weights_proj": linear(hidden, heads), "": scores}),
        },
        backward=False,
    )


def _compressors(config: DeepseekV4Config) -> Mapping[str, Module]:
    width = config.head_dim
    sparse = {
        **_compressor(config, width=2 * width, rate=config.rate(SPARSE_ATTENTION)),
        "kv_norm": rms_norm(width),
        "indexer": _indexer(config),
    }
    heavy = {
        **_compressor(config, width=width, rate=config.rate(HEAVY_ATTENTION)),
        "kv_norm": rms_norm(width),
    }
    return {SPARSE_ATTENTION: Module(children=sparse), HEAVY_ATTENTION: Module(children=heavy)}


def _attention(config: DeepseekV4Config, kind: str) -> Module:
    hidden, heads, width = config.hidden_size, config.num_attention_heads, config.head_dim
    inner = heads * width
    compressor = _compressors(config).get(kind)
    keys = Cached(heads=1, key_width=width, value_width=0)  # of all heads, and their values as well
    near = Attention(
        num_heads=heads,
        qk_head_dim=width,
        v_head_dim=width,
        causal=True,
        window=config.sliding_window,
        cached=keys,
        # The cache of a layer that has nothing else is of a class that knows of no such keys.
        cached_by_class=replace(keys, value_width=width) if compressor is None else None,
    )
    children: dict[str, Node] = {
        "sinks": Parameter(shape=(heads,)),
        "q_a_proj": linear(hidden, config.q_lora_rank),
        "q_a_norm": rms_norm(config.q_lora_rank),
        "q_b_proj": linear(config.q_lora_rank, inner),
        "kv_proj": linear(hidden, width),
        "kv_norm": rms_norm(width),
        # Each group of heads has a matrix of its own, one under another.
        "o_a_proj": linear(exact_quotient(inner, config.o_groups), config.o_groups * config.o_lora_rank),
        "o_b_proj": linear(config.o_groups * config.o_lora_rank, hidden),
        "": near,
    }
    if compressor is not None:
        far = Attention(
            num_heads=heads,
            qk_head_dim=width,
            v_head_dim=width,
            causal=True,
            keys="pooled",
            pool=config.rate(kind),
            selected=config.index_topk if kind == SPARSE_ATTENTION else None,
            cached=keys,
            waiting=_waiting(width, overlaps=kind == SPARSE_ATTENTION),
            carried=width if kind == SPARSE_ATTENTION else 0,
        )
        children |= {"compressor": compressor, "": Stack(parts=(near, far))}
    return Module(children=children, bucket="attention")


def _hyper_connection(config: DeepseekV4Config) -> Module:
    """Weights that collapse the streams, spread the output and mix them, from all streams together."""
    streams = config.hc_mult
    weights = (2 + streams) * streams
    return Module(
        children={
            "": Linear(in_features=streams * config.hidden_size, out_features=weights, weight_name="fn"),
            "base": Parameter(shape=(weights,)),
            "scale": Parameter(shape=(3,)),
        },
        bucket="hyper_connections",
    )


def _block(config: DeepseekV4Config, kind: str) -> Module:
    """Sublayers between hyper-connections."""
    hidden, streams = config.hidden_size, config.hc_mult
    shared = gated_mlp(hidden, config.moe_intermediate_size, config.mlp_bias, bucket="experts.shared")
    mlp = routed_mlp(
        hidden_size=hidden,
        num_experts=config.n_routed_experts,
        top_k=config.num_experts_per_tok,
        intermediate_size=config.moe_intermediate_size,
        shared={"shared_experts": shared},
    )
    mixing = Product(rows=streams, inner=streams, columns=hidden, bucket="hyper_connections")

    return Module(
        children={
            "self_attn": _attention(config, kind),
            "mlp": mlp,
            "input_layernorm": rms_norm(hidden),
            "post_attention_layernorm": rms_norm(hidden),
            "attn_hc": _hyper_connection(config),
            "ffn_hc": _hyper_connection(config),
            "": Stack(parts=(mixing, mixing)),
        }
    )


def _streams_head(config: DeepseekV4Config) -> Module:
    """Weighs the streams at the end."""
    hidden, streams = config.hidden_size, config.hc_mult
    return Module(
        children={
            "": Linear(in_features=streams * hidden, out_features=streams, weight_name="hc_fn"),
            "hc_base": Parameter(shape=(streams,)),
            "hc_scale": Parameter(shape=(1,)),
        },
        bucket="hyper_connections",
    )


def deepseek_v4_model(config: DeepseekV4Config) -> Node:
    """Blocks; at the end one more hyper-connection weighs the streams."""
    hidden = config.hidden_size
    return Module(
        children={
            "embed_tokens": token_embedding(config.vocab_size, hidden),
            "layers": layer_stack(config.attention_kinds(), lambda kind: _block(config, kind)),
            "norm": rms_norm(hidden),
            "hc_head": _streams_head(config),
        }
    )


def _prediction(config: DeepseekV4Config, _: Mapping[str, Any]) -> Node:
    """A layer without a compressor, and a head for its streams."""
    hidden = config.hidden_size
    block = {**_block(config, SLIDING).children, "hc_head": _streams_head(config)}
    return prediction_module(
        block, hidden, joints={"e_proj": hidden, "h_proj": hidden}, norms=("enorm", "hnorm", "norm")
    )


HASH_LAYERS = 3
"""Layers that route by a table, unless the config says otherwise."""


def _routing(config: DeepseekV4Config, raw: Mapping[str, Any]) -> Node:
    """The first layers route by a table, a row a token; the others have biases."""
    listed = stated_words(raw, "mlp_layer_types")
    by_table = stated_whole(raw, "num_hash_layers", HASH_LAYERS) if listed is None else listed.count("hash_moe")
    by_table = min(by_table, config.num_hidden_layers)
    table = tensor(EXPERT_TABLES, config.vocab_size, config.num_experts_per_tok)
    bias = tensor(ROUTER_BIASES, config.n_routed_experts)
    gates = (
        layers(Module(children={"mlp.gate.tid2eid": table}), by_table),
        layers(
            Module(children={"mlp.gate.e_score_correction_bias": bias}),
            config.num_hidden_layers - by_table,
            start=by_table,
        ),
    )
    return Module(children={"layers": stack(*gates)})


FAMILIES = (
    decoder_family(
        "deepseek_v4",
        "DeepseekV4",
        DeepseekV4Config,
        deepseek_v4_model,
        omit=NO_LABELS,
        prediction=Prediction(module=_prediction),
        beside=_routing,
    ),
)
