"""Cache of models whose layers do not all keep every key, beside the formula that treats them as if they did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.cache import Requests, bytes_per_token, cache_bytes, storage
from planner.models import Model, load_model

MODELS = (
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-120b",
    "google/gemma-3-27b-it",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct",
)
"""Latents, windows in every other layer, in five of six, states in three of four, and pieces in three of four."""

CONTEXT = 131072
"""Tokens of the request. [token]"""

UNIFORM_KEYS = (
    ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    ("hidden_size", "n_embd", "d_model"),
    ("num_attention_heads", "n_head", "num_heads", "n_heads"),
)
"""What configs call layers, width and query heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheComparison:
    """One model at one context, in bf16 and on one device.

    Attributes
    ----------
    model : str
        Name.
    context : int
        Tokens of the request. [token]
    token_bytes, request_bytes : float
        What one more token of a long request takes, and what the request takes. [B]
    uniform_token_bytes, uniform_request_bytes : float
        The same, if every layer kept keys and values of its key/value heads for every token; NaN where the config
        states no heads. [B]
    """

    model: str
    context: int
    token_bytes: float
    request_bytes: float
    uniform_token_bytes: float
    uniform_request_bytes: float

    @property
    def ratio(self) -> float:
        """What the uniform formula says over what is kept. [-]"""
        return self.uniform_request_bytes / self.request_bytes


def compare_caches(names: Iterable[str] = MODELS, context: int = CONTEXT) -> tuple[CacheComparison, ...]:
    """Rows of the comparison, for models of the catalog."""
    return tuple(_compared(load_model(name, offline=True), name, context) for name in names)


def _compared(model: Model, name: str, context: int) -> CacheComparison:
    kept_in = storage("bf16", state="bf16")
    tree = model.tree
    uniform = uniform_token_bytes(model.raw) or float("nan")
    return CacheComparison(
        model=name,
        context=context,
        token_bytes=float(bytes_per_token(tree, kept_in)),
        request_bytes=float(cache_bytes(tree, Requests(tokens=context), kept_in).total_bytes),
        uniform_token_bytes=uniform,
        uniform_request_bytes=uniform * context,
    )


def uniform_token_bytes(raw: Mapping[str, Any], element_bytes: int = 2) -> int | None:
    """Keys and values of all key/value heads in all layers, as three of the peers compute every model. [B]

    A head is as wide as `head_dim` says, or else its share of the hidden state. None where the config states no heads.
    """
    text = raw.get("text_config")
    config = {**raw, **text} if isinstance(text, Mapping) else raw
    layers, hidden, heads = (next((config[key] for key in keys if config.get(key)), None) for keys in UNIFORM_KEYS)
    if layers is None or hidden is None or heads is None:
        return None
    width = config.get("head_dim") or hidden // heads
    kept = config.get("num_key_value_heads") or heads
    return int(2 * layers * kept * width * element_bytes)
