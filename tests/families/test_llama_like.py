"""Decoders that are Llama but for a default, a bias or a norm."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError
from planner.families.decoder import FULL, SLIDING
from planner.families.llama_like import SmolLM3Config

TINY: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 100,
}
# V H; queries and output, keys and values; gate, up and down; three norms
LLAMA = 100 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 3 * 64
QKV_BIAS, OUT_BIAS, MLP_BIAS = 64 + 2 * 32, 64, 2 * 96 + 64


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        (
            "granite",  # hub total of ibm-granite/granite-3.1-8b-instruct, its head tied
            {
                "intermediate_size": 12800,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "tie_word_embeddings": True,
                "vocab_size": 49155,
            },
            8_170_848_256,
        ),
        ("exaone", {"num_layers": 32}, 7_818_448_896),  # LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct
        ("smollm3", {}, 3_075_098_624),  # HuggingFaceTB/SmolLM3-3B; the class's defaults
        ("helium", {}, 2_172_643_840),  # kyutai/helium-1-preview-2b; the class's defaults
        ("ernie4_5", {}, 360_748_032),  # baidu/ERNIE-4.5-0.3B-PT; the class's defaults
        ("seed_oss", {"hidden_size": 5120}, 36_151_104_512),  # ByteDance-Seed/Seed-OSS-36B-Base
        ("stablelm", {}, 2_795_443_200),  # card of stabilityai/stablelm-3b-4e1t; the class's defaults
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


@pytest.mark.parametrize(
    ("model_type", "flags", "extra"),
    [
        ("granite", {}, 0),
        ("granite", {"attention_bias": True, "mlp_bias": True}, QKV_BIAS + OUT_BIAS + MLP_BIAS),
        ("exaone", {}, 0),
        ("exaone", {"attention_bias": True}, QKV_BIAS + OUT_BIAS),
        ("smollm3", {}, 0),
        ("smollm3", {"mlp_bias": True}, MLP_BIAS),
        ("helium", {}, 0),
        # its output projection has no bias in any case
        ("helium", {"attention_bias": True, "mlp_bias": True}, QKV_BIAS + MLP_BIAS),
        ("ministral3", {}, 0),
        ("ernie4_5", {}, 0),
        ("ernie4_5", {"use_bias": True}, QKV_BIAS + OUT_BIAS + MLP_BIAS),
        ("seed_oss", {}, QKV_BIAS),
        ("seed_oss", {"attention_bias": False, "attention_out_bias": True}, OUT_BIAS),
        ("hunyuan_v1_dense", {}, 2 * 16),
        ("hunyuan_v1_dense", {"attention_bias": True}, 2 * 16 + QKV_BIAS + OUT_BIAS),
        # three norms with a bias
        ("stablelm", {}, 3 * 64),
        ("stablelm", {"use_qkv_bias": True}, 3 * 64 + QKV_BIAS),
        # parallel sublayers share a norm
        ("stablelm", {"use_parallel_residual": True}, 3 * 64 - 2 * 64),
        # a gain for each of 4 heads of queries and 2 of keys
        ("stablelm", {"qk_layernorm": True}, 3 * 64 + 6 * 16),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], extra: int) -> None:
    assert counts(model_type, **TINY, **flags).total == LLAMA + extra


def test_windows_of_layers_without_rotary_positions() -> None:
    windowed: dict[str, Any] = {"num_hidden_layers": 4, "sliding_window": 8, "use_sliding_window": True}
    assert SmolLM3Config(**windowed, no_rope_layer_interval=2).windows() == [None, 8, None, 8]
    assert SmolLM3Config(**windowed, no_rope_layers=[1, 1, 0, 1]).windows() == [None, None, 8, None]
    assert SmolLM3Config(**windowed, layer_types=[SLIDING, FULL, FULL, FULL]).windows() == [8, None, None, None]
    assert SmolLM3Config(**{**windowed, "use_sliding_window": False}).windows() == [None] * 4


@pytest.mark.parametrize(
    ("model_type", "keys", "message"),
    [
        ("helium", {"head_dim": 8}, "head_dim: heads must fill hidden_size"),
        ("smollm3", {"no_rope_layers": [1]}, "no_rope_layers: lists 1 layers, but num_hidden_layers is 36"),
        ("granite", {"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads"),
        ("exaone", {"num_layers": 2, "num_hidden_layers": 3}, "but its other name num_layers is 2"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(model_type, **keys)
