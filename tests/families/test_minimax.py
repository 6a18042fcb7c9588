"""MiniMax-M2 and M3."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import Compute, compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

M3: dict[str, Any] = {
    "moe_layer_freq": [0] * 3 + [1] * 57,
    "sparse_attention_config": {"sparse_attention_freq": [0] * 3 + [1] * 57, "sparse_topk_blocks": 16},
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # hub total of MiniMaxAI/MiniMax-M2.7 less the router biases of 62 layers, which are no parameters of the class
        ("minimax_m2", {}, 228_689_764_864 - 62 * 256),
        # of MiniMaxAI/MiniMax-M3 less the same of 57 layers
        ("minimax_m3_vl", {"text_config": M3}, 427_040_140_160 - 57 * 128),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def test_what_a_token_meets(counts: Callable[..., Counts]) -> None:
    # the card's "230B total, 10B active" leaves the input table out
    assert counts("minimax_m2").active_excl_input_embedding == 10_415_940_608


TINY: dict[str, Any] = {
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_attention_heads": 6,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "vocab_size": 100,
}
TINY_M3: dict[str, Any] = {
    **TINY,
    "dense_intermediate_size": 40,
    "index_block_size": 4,
    "index_head_dim": 10,
    "index_n_heads": 2,
    "index_topk_blocks": 1,
    "shared_intermediate_size": 20,
}
ATTENTION = 64 * 96 + 2 * 64 * 32 + 96 * 64
EXPERTS = 8 * 3 * 64 * 24 + 64 * 8
SHARED = 3 * 64 * 20
DENSE = 3 * 64 * 40
REST = 2 * 100 * 64 + 5 * 64
# queries of 2 heads of 10, one key, two norms
INDEXER = 64 * 20 + 64 * 10 + 2 * 10
INDEXED, FULL = "minimax_m3_sparse", "full_attention"


@pytest.mark.parametrize(
    ("model_type", "keys", "flags", "total"),
    [
        # norms over all queries and over all keys
        ("minimax_m2", TINY, {}, 2 * (ATTENTION + 96 + 32 + EXPERTS)),
        # norms of each head; experts everywhere and no indexer where no list says otherwise
        ("minimax_m3_vl_text", TINY_M3, {}, 2 * (ATTENTION + 32 + EXPERTS + SHARED)),
        (
            "minimax_m3_vl_text",
            TINY_M3,
            {"moe_layer_freq": [0, 1], "layer_types": [INDEXED, FULL]},
            2 * (ATTENTION + 32) + INDEXER + DENSE + EXPERTS + SHARED,
        ),
        # the same lists as today's class writes them; the dimensions as the released config does
        (
            "minimax_m3",
            TINY_M3,
            {
                "index_head_dim": 7,
                "index_n_heads": 1,
                "mlp_layer_types": ["dense", "sparse"],
                "sparse_attention_config": {
                    "sparse_attention_freq": [0, 1],
                    "sparse_index_dim": 10,
                    "sparse_num_index_heads": 2,
                },
            },
            2 * (ATTENTION + 32) + INDEXER + DENSE + EXPERTS + SHARED,
        ),
    ],
)
def test_flags_by_hand(
    counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], flags: dict[str, Any], total: int
) -> None:
    assert counts(model_type, **{**keys, **flags}).total == total + REST


VISION: dict[str, Any] = {
    "hidden_size": 48,
    "image_size": 56,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "patch_size": 14,
}
# pairs of frames of 3 channels; four products with biases; two matrices with biases; norms of the layer and before it
TOWER = 3 * 2 * 14**2 * 48 + 4 * (48**2 + 48) + 2 * 48 * 40 + 40 + 48 + 3 * 2 * 48
# patches to 44 to 64, four of them to 44 to 64, all with biases
PROJECTOR = 48 * 44 + 44 + 44 * 64 + 64 + 256 * 44 + 44 + 44 * 64 + 64


def _with_images(images: int) -> Compute:
    raw = {
        "model_type": "minimax_m3_vl",
        "projector_hidden_size": 44,
        "text_config": TINY_M3,
        "vision_config": VISION,
    }
    model = build_model(ConfigSource(name="tiny", raw=raw, origin="config.json"))
    return compute(model.tree, Step(sequence_length=5, images=images))


def test_the_image_tower_and_its_projector(counts: Callable[..., Counts]) -> None:
    image = {"projector_hidden_size": 44, "text_config": TINY_M3, "vision_config": VISION}
    alone = counts("minimax_m3_vl_text", **TINY_M3)
    assert counts("minimax_m3_vl", **image).total - alone.total == TOWER + PROJECTOR
    tied = counts("minimax_m3_vl", **{**image, "text_config": {**TINY_M3, "tie_word_embeddings": True}})
    assert tied.total == alone.total + TOWER + PROJECTOR - 100 * 64


def test_an_image_is_16_patches_and_4_tokens() -> None:
    none, two = (_with_images(images).conventions["matmul"].forward for images in (0, 2))
    tower = 16 * (3 * 2 * 14**2 * 48 + 4 * 48**2 + 2 * 48 * 40) + 16**2 * 2 * 48
    projector = 16 * (48 * 44 + 44 * 64) + 4 * (256 * 44 + 44 * 64)
    assert two - none == 2 * 2 * (tower + projector)


def test_an_indexer_scores_and_passes_no_gradient() -> None:
    def flops(**flags: Any) -> Compute:
        raw = {"model_type": "minimax_m3", **TINY_M3, **flags}
        model = build_model(ConfigSource(name="tiny", raw=raw, origin="config.json"))
        return compute(model.tree, Step(sequence_length=7))

    plain, indexed = (flops(**flags).conventions for flags in ({}, {"layer_types": [INDEXED, FULL]}))
    # 3 products of 10 for 7 tokens, and 7 x 7 scores of 2 heads of 10
    assert indexed["matmul"].forward - plain["matmul"].forward == 2 * (7 * 3 * 64 * 10 + 49 * 2 * 10)
    assert indexed["matmul"].backward == plain["matmul"].backward
    # one block of 4 keys is kept: queries 5 to 7 lose 1 + 2 + 3 of them, 6 heads of 16
    kept = plain["masked"].forward - 2 * 6 * 6 * 32
    # the indexer itself sees what the causal mask leaves of its 49 scores
    assert indexed["masked"].forward == kept + 2 * (7 * 3 * 64 * 10 + 28 * 2 * 10)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"moe_layer_freq": [1]}, "moe_layer_freq: lists 1 layers, but num_hidden_layers is 2"),
        ({"mlp_layer_types": ["moe", "moe"]}, "mlp_layer_types: expected dense or sparse, got 'moe'"),
        ({"layer_types": ["sparse", FULL]}, "layer_types: expected minimax_m3_sparse or full_attention, got 'sparse'"),
        (
            {"sparse_attention_config": {"sparse_attention_freq": [1]}},
            "sparse_attention_config.sparse_attention_freq: lists 1 layers",
        ),
        ({"sparse_attention_config": {"sparse_index_dim": 0}}, "sparse_attention_config.sparse_index_dim: expected"),
        ({"num_experts_per_tok": 9}, "9 experts a token, but there are 8"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("minimax_m3", **{**TINY_M3, **flags})
