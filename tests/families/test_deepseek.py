"""Latent attention: DeepSeek-V2 to V3.2 and those that follow them."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

V2_LITE: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "q_lora_rank": None,
}

V2: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 60,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # hub totals of deepseek-ai/DeepSeek-V2-Lite and DeepSeek-V2
        ("deepseek_v2", V2_LITE, 15_706_484_224),
        ("deepseek_v2", V2, 235_741_434_880),
        # hub total of deepseek-ai/DeepSeek-V3.2 less its MTP module (a layer, the projection of two states, three
        # norms, copies of embedding and head) and the router biases of 58 layers and that module
        (
            "deepseek_v32",
            {},
            685_355_329_792 - (11_521_245_440 + 2 * 7168**2 + 3 * 7168 + 2 * 129280 * 7168) - 59 * 256,
        ),
        # hub total of fine-tunes of zai-org/GLM-4.7-Flash
        ("glm4_moe_lite", {}, 29_943_390_976),
        # DeepSeek-V3 without its MTP module, as the paper's 671B
        ("deepseek_v3", {}, 671_026_404_352),
        # the layers of V3.2 with 64 heads and 192 experts: the report's 519B
        ("axk1", {}, 518_983_052_288),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "kv_lora_rank": 16,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
    "vocab_size": 100,
}
# queries through 20, keys and values through 16 beside a rope part of 6, two norms of the latents, output
ATTENTION = 64 * 20 + 20 + 20 * 4 * 16 + 64 * (16 + 6) + 16 + 16 * 4 * (10 + 12) + 4 * 12 * 64
DENSE = 3 * 64 * 96
SPARSE = 8 * 3 * 64 * 24 + 64 * 8 + 3 * 64 * 2 * 24
# table, head, and norms of two layers and the end
REST = 2 * 100 * 64 + 5 * 64
# queries of 3 heads of 14 out of the latent, one key, its norm with a bias, weights of the heads
INDEXER = 20 * 3 * 14 + 64 * 14 + 2 * 14 + 64 * 3
INDEX: dict[str, Any] = {"index_head_dim": 14, "index_n_heads": 3, "index_topk": 5}


@pytest.mark.parametrize(
    ("model_type", "flags", "total"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 1}, 2 * ATTENTION + DENSE + SPARSE),
        ("deepseek_v3", {"first_k_dense_replace": 0}, 2 * ATTENTION + 2 * SPARSE),
        ("deepseek_v3", {"first_k_dense_replace": 2}, 2 * ATTENTION + 2 * DENSE),
        # biases of both latents' projections and of the output
        (
            "deepseek_v3",
            {"first_k_dense_replace": 1, "attention_bias": True},
            2 * (ATTENTION + 20 + 22 + 64) + DENSE + SPARSE,
        ),
        # queries without a latent
        (
            "deepseek_v2",
            {"q_lora_rank": None},
            2 * (ATTENTION - (64 * 20 + 20 + 20 * 4 * 16) + 64 * 4 * 16) + 2 * SPARSE,
        ),
        # biases of the shared experts, which are one MLP of width 48
        ("deepseek_v2", {"mlp_bias": True}, 2 * ATTENTION + 2 * (SPARSE + 48 + 48 + 64)),
        ("glm4_moe_lite", {}, 2 * ATTENTION + DENSE + SPARSE),
        ("glm4_moe_lite", {"mlp_layer_types": ["sparse", "sparse"]}, 2 * ATTENTION + 2 * SPARSE),
        ("deepseek_v32", {**INDEX, "first_k_dense_replace": 1}, 2 * (ATTENTION + INDEXER) + DENSE + SPARSE),
        ("glm_moe_dsa", INDEX, 2 * (ATTENTION + INDEXER) + 2 * DENSE),
        # the second layer takes over what the first chose
        ("glm_moe_dsa", {**INDEX, "indexer_types": ["full", "shared"]}, 2 * ATTENTION + INDEXER + 2 * DENSE),
        ("glm_moe_dsa", {**INDEX, "index_topk_pattern": "FS"}, 2 * ATTENTION + INDEXER + 2 * DENSE),
        (
            "glm_moe_dsa",
            {**INDEX, "index_topk_freq": 2, "index_skip_topk_offset": 1},
            2 * ATTENTION + INDEXER + 2 * DENSE,
        ),
        # a norm behind the experts; every second layer has some
        ("axk1", {"first_k_dense_replace": 0, "moe_layer_freq": 2}, 2 * ATTENTION + SPARSE + 64 + DENSE),
        ("mistral4", {}, 2 * ATTENTION + 2 * SPARSE),
        ("sarvam_mla", {}, 2 * ATTENTION + DENSE + SPARSE),
        ("youtu", {"tie_word_embeddings": False}, 2 * ATTENTION + 2 * DENSE),
        # values as wide as 64 / 4
        (
            "minicpm3",
            {"tie_word_embeddings": False, "v_head_dim": None},
            2 * (ATTENTION + 16 * 4 * 4 + 4 * 4 * 64) + 2 * DENSE,
        ),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], total: int) -> None:
    assert counts(model_type, **{**TINY, **flags}).total == total + REST


def test_sarvam_has_names_of_its_own(counts: Callable[..., Counts]) -> None:
    renamed = {key: value for key, value in TINY.items() if key not in ("n_routed_experts", "n_shared_experts")}
    own = counts("sarvam_mla", **renamed, num_experts=8, num_shared_experts=2)
    assert own == counts("sarvam_mla", **TINY)


def _flops(model_type: str, convention: str, **flags: Any) -> Any:
    raw = {"model_type": model_type, **TINY, **flags}
    model = build_model(ConfigSource(name=model_type, raw=raw, origin="config.json"))
    return compute(model.tree, Step(sequence_length=7)).conventions[convention]


def test_an_indexer_multiplies_every_key_and_passes_no_gradient() -> None:
    plain = _flops("glm4_moe_lite", "matmul", mlp_layer_types=["dense", "dense"])
    indexed = _flops("glm_moe_dsa", "matmul", **INDEX)
    # its matrices for 7 tokens; 7 x 7 pairs of 3 heads of 14, and the sum over the heads
    indexer = 2 * 2 * (7 * (INDEXER - 2 * 14) + 7 * 7 * 3 * (14 + 1))
    assert indexed.forward == plain.forward + indexer
    assert indexed.backward == plain.backward == 2 * plain.forward


def test_the_mask_keeps_the_keys_that_were_chosen() -> None:
    few, all_of_them = (_flops("glm_moe_dsa", "masked", **{**INDEX, "index_topk": kept}).forward for kept in (5, 7))
    # queries 6 and 7 see 5 keys and not 6 and 7, in 2 layers of 4 heads with keys of 16 and values of 12
    assert all_of_them - few == 2 * (1 + 2) * 2 * 4 * (16 + 12)


@pytest.mark.parametrize(
    ("model_type", "flags", "message"),
    [
        ("deepseek_v2", {"num_experts_per_tok": 9}, "num_experts_per_tok: 9 experts a token, but there are 8"),
        ("deepseek_v2", {"num_experts_per_tok": None}, "num_experts_per_tok: is missing"),
        (
            "deepseek_v3",
            {"first_k_dense_replace": 3},
            "first_k_dense_replace: 3 dense layers, but num_hidden_layers is 2",
        ),
        (
            "glm4_moe_lite",
            {"mlp_layer_types": ["dense"]},
            "mlp_layer_types: lists 1 layers, but num_hidden_layers is 2",
        ),
        ("glm4_moe_lite", {"mlp_layer_types": ["dense", "moe"]}, "expected dense or sparse, got 'moe'"),
        ("glm_moe_dsa", {"index_topk_pattern": "FX"}, "index_topk_pattern: expected full or shared, got 'X'"),
        (
            "glm_moe_dsa",
            {"indexer_types": ["shared", "full"]},
            "indexer_types: the first layer has no indexer before it",
        ),
        ("minicpm3", {"v_head_dim": None, "num_attention_heads": 5}, "num_attention_heads: must divide hidden_size"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(model_type, **{**TINY, **flags})
