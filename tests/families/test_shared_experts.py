"""Experts beside shared ones, with grouped-query attention."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

AIR: dict[str, Any] = {"attention_bias": True, "head_dim": 128}
GLM: dict[str, Any] = {
    **AIR,
    "first_k_dense_replace": 3,
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "num_hidden_layers": 92,
    "use_qk_norm": True,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # hub total of zai-org/GLM-4.5-Air less its MTP module (a layer, the projection of two states, three norms,
        # copies of embedding and head) and the router biases of 45 layers and that module
        (
            "glm4_moe",
            AIR,
            110_468_824_832 - (2_341_492_736 + 2 * 4096**2 + 3 * 4096 + 2 * 151552 * 4096) - 46 * 128,
        ),
        # of zai-org/GLM-4.6 less the same, without copies
        ("glm4_moe", GLM, 356_785_898_816 - (3_935_625_472 + 2 * 5120**2 + 3 * 5120) - 90 * 160),
        # baidu/ERNIE-4.5-21B-A3B, the class's default
        ("ernie4_5_moe", {}, 21_825_437_888),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def test_what_a_token_meets_of_glm(counts: Callable[..., Counts]) -> None:
    # the report's "355B-A32B" leaves the input table out
    assert counts("glm4_moe", **GLM).active_excl_input_embedding == 32_856_305_664


TINY: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 24,
    "num_attention_heads": 6,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "vocab_size": 100,
}
DEEPSEEK_NAMES: dict[str, Any] = {"n_routed_experts": 8, "n_shared_experts": 2}
PLAIN_NAMES: dict[str, Any] = {"num_experts": 8, "num_shared_experts": 2}
ERNIE_NAMES: dict[str, Any] = {"moe_num_experts": 8, "moe_num_shared_experts": 2}

ATTENTION = 64 * 96 + 2 * 64 * 32 + 96 * 64
BIASES = 96 + 2 * 32
DENSE = 3 * 64 * 96
SPARSE = 8 * 3 * 64 * 24 + 64 * 8 + 3 * 64 * 2 * 24
# table, head, and norms of two layers and the end
REST = 2 * 100 * 64 + 5 * 64
QK_NORMS = 2 * 2 * 16
MIMO: dict[str, Any] = {"n_routed_experts": 8, "v_head_dim": 10}
MIMO_SPARSE = 8 * 3 * 64 * 24 + 64 * 8
# keys and values of 2 heads, of 3, and of twice 3 with sinks of 6 query heads where there is a window
MIMO_FULL = 64 * 96 + 64 * 32 + 64 * 20 + 60 * 64
MIMO_THREE = 64 * 96 + 64 * 48 + 64 * 30 + 60 * 64
MIMO_SIX = 64 * 96 + 64 * 96 + 64 * 60 + 60 * 64 + 6


@pytest.mark.parametrize(
    ("model_type", "flags", "total"),
    [
        ("glm4_moe", DEEPSEEK_NAMES, 2 * ATTENTION + DENSE + SPARSE),
        ("glm4_moe", {**DEEPSEEK_NAMES, "first_k_dense_replace": 0}, 2 * ATTENTION + 2 * SPARSE),
        # biases of queries, keys and values, none of the output
        ("glm4_moe", {**DEEPSEEK_NAMES, "attention_bias": True}, 2 * (ATTENTION + BIASES) + DENSE + SPARSE),
        ("glm4_moe", {**DEEPSEEK_NAMES, "use_qk_norm": True}, 2 * ATTENTION + QK_NORMS + DENSE + SPARSE),
        ("sarvam_moe", PLAIN_NAMES, 2 * ATTENTION + QK_NORMS + DENSE + SPARSE),
        (
            "sarvam_moe",
            {**DEEPSEEK_NAMES, "use_qkv_bias": True, "use_qk_norm": False},
            2 * (ATTENTION + BIASES) + DENSE + SPARSE,
        ),
        ("solar_open", DEEPSEEK_NAMES, 2 * ATTENTION + 2 * SPARSE),
        ("dots1", DEEPSEEK_NAMES, 2 * ATTENTION + QK_NORMS + 2 * SPARSE),
        (
            "dots1",
            {**DEEPSEEK_NAMES, "attention_bias": True, "first_k_dense_replace": 1},
            2 * (ATTENTION + BIASES + 64) + QK_NORMS + DENSE + SPARSE,
        ),
        ("hy_v3", PLAIN_NAMES, 2 * ATTENTION + QK_NORMS + DENSE + SPARSE),
        # biases of the dense MLP and of the shared experts
        (
            "hy_v3",
            {**PLAIN_NAMES, "mlp_bias": True},
            2 * ATTENTION + QK_NORMS + DENSE + (96 + 96 + 64) + SPARSE + (48 + 48 + 64),
        ),
        ("exaone_moe", PLAIN_NAMES, 2 * ATTENTION + QK_NORMS + DENSE + SPARSE),
        (
            "exaone_moe",
            {**PLAIN_NAMES, "mlp_layer_types": ["sparse", "dense"], "first_k_dense_replace": 2},
            2 * ATTENTION + QK_NORMS + DENSE + SPARSE,
        ),
        # no shared experts, and values of 10
        ("mimo_v2_flash", {**MIMO, "layer_types": ["full_attention"] * 2}, 2 * MIMO_FULL + DENSE + MIMO_SPARSE),
        # the second layer has a window
        ("mimo_v2_flash", {**MIMO, "num_key_value_heads": 3}, MIMO_THREE + MIMO_SIX + DENSE + MIMO_SPARSE),
        (
            "mimo_v2_flash",
            {**MIMO, "num_key_value_heads": 3, "mlp_layer_types": ["dense"] * 2, "attention_bias": True},
            MIMO_THREE + (96 + 48 + 30) + MIMO_SIX + (96 + 96 + 60) + 2 * DENSE,
        ),
        # two more norms a layer, a gate as wide as the queries, a bias for each expert
        ("afmoe", PLAIN_NAMES, 2 * (ATTENTION + 64 * 96 + 2 * 64) + QK_NORMS + DENSE + SPARSE + 8),
        # a bias for each expert
        ("ernie4_5_moe", ERNIE_NAMES, 2 * ATTENTION + DENSE + SPARSE + 8),
        (
            "ernie4_5_moe",
            {**ERNIE_NAMES, "moe_num_shared_experts": 0, "moe_layer_start_index": 0, "moe_layer_interval": 2},
            2 * ATTENTION + DENSE + SPARSE + 8 - 3 * 64 * 48,
        ),
        ("ernie4_5_moe", {**ERNIE_NAMES, "moe_layer_end_index": 0}, 2 * ATTENTION + 2 * DENSE),
        # one key for the biases of the attention, of both MLPs, and of the head
        (
            "ernie4_5_moe",
            {**ERNIE_NAMES, "use_bias": True},
            2 * (ATTENTION + BIASES + 64) + DENSE + (96 + 96 + 64) + SPARSE + (48 + 48 + 64) + 8 + 100,
        ),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], total: int) -> None:
    assert counts(model_type, **{**TINY, **flags}).total == total + REST


def test_a_tied_head_keeps_its_bias(counts: Callable[..., Counts]) -> None:
    untied, tied = (
        counts("ernie4_5_moe", **{**TINY, **ERNIE_NAMES, "use_bias": True, "tie_word_embeddings": tied}).total
        for tied in (False, True)
    )
    assert untied - tied == 100 * 64


@pytest.mark.parametrize(
    ("model_type", "flags", "full"),
    [
        ("dots1", {**DEEPSEEK_NAMES, "sliding_window": 3, "max_window_layers": 1}, 1),
        ("dots1", {**DEEPSEEK_NAMES, "sliding_window": 3}, 2),
        ("exaone_moe", {**PLAIN_NAMES, "sliding_window": 3, "sliding_window_pattern": 2}, 1),
        ("afmoe", {**PLAIN_NAMES, "sliding_window": 3}, 0),
        ("afmoe", {**PLAIN_NAMES, "sliding_window": 3, "global_attn_every_n_layers": 1}, 2),
        # a second key states the window without the query itself
        ("mimo_v2_flash", {"n_routed_experts": 8, "v_head_dim": 16, "sliding_window_size": 2}, 1),
    ],
)
def test_windows(model_type: str, flags: dict[str, Any], full: int) -> None:
    raw = {"model_type": model_type, **TINY, "num_attention_heads": 4, **flags}
    model = build_model(ConfigSource(name=model_type, raw=raw, origin="config.json"))
    result = compute(model.tree, Step(sequence_length=5))
    masked, executed = (result.conventions[name].forward for name in ("masked", "matmul"))
    # 5 x 5 pairs, of which a causal mask keeps 15 and a window of 3 keeps 12; 4 heads of 16
    assert executed - masked == 2 * 4 * 32 * (full * (25 - 15) + (2 - full) * (25 - 12))


@pytest.mark.parametrize(
    ("model_type", "flags", "message"),
    [
        ("glm4_moe", {**DEEPSEEK_NAMES, "first_k_dense_replace": 3}, "first_k_dense_replace: 3 dense layers, but"),
        ("glm4_moe", {**DEEPSEEK_NAMES, "num_experts_per_tok": 9}, "9 experts a token, but there are 8"),
        ("glm4_moe", {**DEEPSEEK_NAMES, "num_key_value_heads": 4}, "num_key_value_heads: must divide"),
        ("dots1", {"n_shared_experts": 1}, "n_routed_experts: is missing"),
        ("afmoe", {**PLAIN_NAMES, "num_dense_layers": 3}, "num_dense_layers: 3 dense layers, but"),
        ("hy_v3", {**PLAIN_NAMES, "mlp_layer_types": ["sparse"] * 3}, "mlp_layer_types: lists 3 layers, but"),
        ("mimo_v2_flash", {"num_key_value_heads": 2}, "num_key_value_heads: must divide .* where windows double it"),
        ("exaone_moe", {**PLAIN_NAMES, "layer_types": ["full"] * 2}, "layer_types: expected sliding_attention or"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(model_type, **{**TINY, **flags})
