"""Dimensions and blocks of measured Megatron models, with what its argument parser and tokenizers imply.

Dimensions that arguments leave open are those that Megatron takes for them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.families.blocks import attention, gated_mlp, layer_norm, linear, plain_mlp, rms_norm
from planner.families.moe import router
from planner.families.recurrence import mamba2_mixer
from planner.nodes import Attention, Cached, Experts, Module, Node, Norm
from planner.validate.reading import Skipped

GPT2_VOCABULARY = 50257
"""Megatron's functional tests of GPT, MoE and hybrid models read a GPT-2 byte-pair vocabulary."""

WORDPIECE_UNCASED = 30522
"""`BertWordPieceLowerCase`, the default tokenizer of `pretrain_bert.py`."""

WORDPIECE_CASED = 28996 + 100
"""`BertWordPieceCase` and the 100 sentinels that `pretrain_t5.py` adds (`--vocab-extra-ids`)."""

DEEPSEEK_LATENTS = {"q_lora": 1536, "kv_lora": 512, "qk_nope": 128, "qk_rope": 64, "v_head": 128}
"""Latents of DeepSeek-V3, which models follow that name heads of 128 channels (`--kv-channels`) and no latents."""

PARSER_LATENTS = {"q_lora": None, "kv_lora": 32, "qk_nope": 128, "qk_rope": 64, "v_head": 128}
"""Latents of `--multi-latent-attention` where a command line names nothing else."""

MAMBA_HEAD, MAMBA_STATE, MAMBA_GROUPS, MAMBA_KERNEL = 64, 128, 8, 4
"""`--mamba-head-dim`, `--mamba-state-dim`, `--mamba-num-groups` and the convolution's width in megatron/core/ssm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Dimensions of a model as a row states them, with what Megatron takes for those that it does not."""

    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool
    rms: bool
    bias: bool
    tied: bool
    positions: int
    moe: Mapping[str, Any]
    latents: Mapping[str, Any] | None
    qk_norm: bool
    prediction_layers: int

    def norm(self, dim: int | None = None) -> Norm:
        """A norm of the model's kind."""
        size = self.hidden if dim is None else dim
        return rms_norm(size) if self.rms else layer_norm(size)


def dimensions(row: Mapping[str, Any]) -> Dimensions:
    """Dimensions of a row's model."""
    model = row.get("model") or {}
    family = str(model.get("family") or "gpt")
    hidden, heads = whole(model, "hidden"), whole(model, "heads")
    arguments = (row.get("extra") or {}).get("megatron_args") or {}
    vocab = model.get("vocab") or arguments.get("vocab-size") or _vocabulary(family)
    learned = model.get("position") == "learned_absolute" or model.get("learned_positions")
    positions = model.get("learned_positions") or row.get("seq_len") or 512
    latent = model.get("multi-latent-attention") or model.get("mla")
    return Dimensions(
        family=family,
        hidden=hidden,
        heads=heads,
        kv_heads=model.get("kv_heads") or heads,
        head_dim=model.get("head_dim") or model.get("kv_channels") or hidden // heads,
        ffn=_width(model, arguments, hidden),
        vocab=int(vocab),
        gated=bool(model.get("gated_mlp")),
        rms=model.get("norm") == "rmsnorm",
        bias=bool(model.get("bias")),
        tied=bool(model.get("tied_embeddings")),
        positions=int(positions) if learned else 0,
        moe=model.get("moe") or {},
        latents=_latents(model) if latent else None,
        qk_norm=bool(arguments.get("qk-layernorm") or model.get("qk_norm")),
        prediction_layers=int(model.get("mtp-num-layers") or 0),
    )


def _latents(model: Mapping[str, Any]) -> Mapping[str, Any]:
    stated = model.get("mla")
    if isinstance(stated, Mapping):
        return stated
    return DEEPSEEK_LATENTS if model.get("kv_channels") else PARSER_LATENTS


def _width(model: Mapping[str, Any], arguments: Mapping[str, Any], hidden: int) -> int:
    """Width of the MLP: where arguments leave it open, Megatron makes a gated one as large as a plain one."""
    if arguments.get("swiglu") and not arguments.get("ffn-hidden-size"):
        return int(4 * hidden * 2 / 3) // 64 * 64
    return int(model.get("ffn") or 4 * hidden)


def _vocabulary(family: str) -> int:
    return {"bert": WORDPIECE_UNCASED, "t5": WORDPIECE_CASED}.get(family, GPT2_VOCABULARY)


def whole(model: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A dimension that is a whole number of at least 1."""
    value = model.get(key, default)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Skipped(f"the model's '{key}' is {value!r}, expected a whole number of at least 1")
    return value


def expert_layers(moe: Mapping[str, Any], count: int) -> list[bool]:
    """Which layers have experts: `--moe-layer-freq` is a period, or a list that Python can read."""
    if not moe:
        return [False] * count
    frequency = moe.get("layer_freq")
    if isinstance(frequency, str):
        kinds = _pattern_of(frequency)
        if len(kinds) != count:
            raise Skipped(f"'{frequency}' lists {len(kinds)} layers, the model has {count}")
        return kinds
    if isinstance(frequency, int) and frequency > 1:
        return [layer % frequency == 0 for layer in range(count)]
    dense = int(moe.get("dense_layers") or 0)
    return [layer >= dense for layer in range(count)]


def _pattern_of(text: str) -> list[bool]:
    """Lists of zeros and ones and sums of their multiples, such as ``([0]*3+[1]*11)``."""
    kinds: list[bool] = []
    for values, times in re.findall(r"\[([01,\s]*)\](?:\s*\*\s*(\d+))?", text):
        kinds += [value == "1" for value in re.findall("[01]", values)] * int(times or 1)
    return kinds


def block_of(found: Dimensions, *, routed: bool) -> Module:
    """A block of attention and an MLP or experts, a norm before each."""
    return Module(
        children={
            "self_attn": attention_of(found),
            "mlp": experts_of(found) if routed else mlp_of(found),
            "input_layernorm": found.norm(),
            "post_attention_layernorm": found.norm(),
        }
    )


def attention_of(found: Dimensions, *, causal: bool = True) -> Module:
    """Attention of the model's kind."""
    if found.latents is not None:
        return _latent_attention(found, found.latents)
    return attention(
        hidden_size=found.hidden,
        num_heads=found.heads,
        num_kv_heads=found.kv_heads,
        head_dim=found.head_dim,
        causal=causal,
        qkv_bias=found.bias,
        out_bias=found.bias,
        qk_norm=found.qk_norm,
    )


def _latent_attention(found: Dimensions, latents: Mapping[str, Any]) -> Module:
    """MLA, whose down-projections every rank holds."""
    hidden, heads = found.hidden, found.heads
    nope, rope, value = latents["qk_nope"], latents["qk_rope"], latents["v_head"]
    query, latent = latents.get("q_lora"), latents["kv_lora"]
    queries: dict[str, Node] = {"q_proj": linear(hidden, heads * (nope + rope), found.bias)}
    if query:
        queries = {
            "q_a_proj": linear(hidden, query),
            "q_a_layernorm": found.norm(query),
            "q_b_proj": linear(query, heads * (nope + rope)),
        }
    return Module(
        children={
            **queries,
            "kv_a_proj_with_mqa": linear(hidden, latent + rope),
            "kv_a_layernorm": found.norm(latent),
            "kv_b_proj": linear(latent, heads * (nope + value)),
            "o_proj": linear(heads * value, hidden, found.bias),
            "": Attention(
                num_heads=heads,
                qk_head_dim=nope + rope,
                v_head_dim=value,
                causal=True,
                cached=Cached(heads=1, key_width=latent, value_width=rope, kind="latent"),
            ),
        },
        bucket="attention",
    )


def mlp_of(found: Dimensions, width: int | None = None, bucket: str = "mlp") -> Module:
    """MLP of the model's kind, as wide as it says where nothing else is said."""
    ffn = width or found.ffn
    if found.gated:
        return gated_mlp(found.hidden, ffn, found.bias, bucket=bucket)
    return plain_mlp(found.hidden, ffn, "up_proj", "down_proj", bias=found.bias, bucket=bucket)


def experts_of(found: Dimensions) -> Module:
    """Router, experts, and those that every token visits."""
    moe = found.moe
    shared = moe.get("shared_ffn") or moe.get("shared")
    children: dict[str, Node] = {
        "gate": router(found.hidden, moe["experts"]),
        "experts": Experts(
            num_experts=moe["experts"],
            top_k=moe.get("topk") or 1,
            hidden_size=found.hidden,
            intermediate_size=moe.get("moe_ffn") or found.ffn,
            gated=found.gated,
        ),
    }
    if shared:
        children["shared_experts"] = mlp_of(found, int(shared), "experts.shared")
    return Module(children=children)


def mamba_of(found: Dimensions) -> Module:
    """Mamba-2 with the widths that Megatron takes by default."""
    inner = 2 * found.hidden
    return mamba2_mixer(
        hidden_size=found.hidden,
        num_heads=inner // MAMBA_HEAD,
        head_dim=MAMBA_HEAD,
        num_groups=MAMBA_GROUPS,
        state_size=MAMBA_STATE,
        kernel_size=MAMBA_KERNEL,
        bias=False,
        conv_bias=True,
    )
