"""DeepSeek-V4: compressed keys, grouped output, streams that are mixed."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import Compute, compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

FLASH: dict[str, Any] = {"compress_ratios": [0, 0, *[4, 128] * 20, 4, 0]}
PRO: dict[str, Any] = {
    "compress_ratios": [128, 128, *[4, 128] * 29, 4, 0],
    "hidden_size": 7168,
    "index_topk": 1024,
    "moe_intermediate_size": 3072,
    "n_routed_experts": 384,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "o_groups": 16,
    "q_lora_rank": 1536,
}


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # hub total of deepseek-ai/DeepSeek-V4-Flash less its MTP module (a layer with a window alone, two projections,
        # three norms, a head over the streams), router biases of 40 layers and the module, tables of 3 hashed layers
        (
            FLASH,
            290_944_616_402 - (6_576_416_374 + 2 * 4096**2 + 3 * 4096 + 65_541) - (41 * 256 + 3 * 129280 * 6),
        ),
        # of DeepSeek-V4-Pro less the same
        (
            PRO,
            1_598_839_674_782 - (25_737_248_950 + 2 * 7168**2 + 3 * 7168 + 114_693) - (59 * 384 + 3 * 129280 * 6),
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("deepseek_v4", **keys).total == total


WINDOW, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"

TINY: dict[str, Any] = {
    "head_dim": 16,
    "hc_mult": 3,
    "hidden_size": 64,
    "index_head_dim": 14,
    "index_n_heads": 5,
    "index_topk": 2,
    "layer_types": [WINDOW],
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 1,
    "o_groups": 2,
    "o_lora_rank": 10,
    "q_lora_rank": 20,
    "sliding_window": 3,
    "vocab_size": 100,
}
# queries through 20, one key/value head, both with a norm, sinks, two groups of 2 heads to 10, those to 64
ATTENTION = 64 * 20 + 20 + 20 * 64 + 64 * 16 + 16 + 4 + 2 * 10 * 32 + 20 * 64
# experts, router and one shared expert; norms; two hyper-connections with 3 + 3 + 9 weights of 3 streams
LAYER = ATTENTION + (8 + 1) * 3 * 64 * 24 + 64 * 8 + 2 * 64 + 2 * (15 * 3 * 64 + 15 + 3)
# table, head, last norm, and the weights of the streams at the end
REST = 2 * 100 * 64 + 64 + 3 * 3 * 64 + 3 + 1
# keys and gates of one series, biases of 128 places, a norm
HEAVY_COMPRESSOR = 2 * 64 * 16 + 128 * 16 + 16
# of two series and 4 places
SPARSE_COMPRESSOR = 2 * 64 * 32 + 4 * 32 + 16
INDEXER = 2 * 64 * 28 + 4 * 28 + 14 + 20 * 5 * 14 + 64 * 5


@pytest.mark.parametrize(
    ("flags", "extra"),
    [
        ({}, 0),
        ({"layer_types": [HEAVY]}, HEAVY_COMPRESSOR),
        ({"layer_types": [SPARSE]}, SPARSE_COMPRESSOR + INDEXER),
        # a list that goes on into layers that only the checkpoint has
        ({"layer_types": None, "compress_ratios": [128, 0]}, HEAVY_COMPRESSOR),
        # without a list the first two layers are heavily compressed
        ({"layer_types": None}, HEAVY_COMPRESSOR),
        # other rates change the biases alone
        ({"layer_types": [HEAVY], "compress_rate_hca": 8}, HEAVY_COMPRESSOR - 120 * 16),
        ({"layer_types": [HEAVY], "compress_rates": {HEAVY: 8}}, HEAVY_COMPRESSOR - 120 * 16),
        ({"layer_types": [SPARSE], "compress_rate_csa": 2}, SPARSE_COMPRESSOR + INDEXER - 2 * (32 + 28)),
        ({"mlp_bias": True}, 24 + 24 + 64),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], extra: int) -> None:
    assert counts("deepseek_v4", **{**TINY, **flags}).total == LAYER + REST + extra


def _compute(**flags: Any) -> Compute:
    raw = {"model_type": "deepseek_v4", **TINY, **flags}
    return compute(build_model(ConfigSource(name="tiny", raw=raw, origin="config.json")).tree, Step(sequence_length=11))


def test_every_fourth_token_leaves_a_key_for_the_distant_past() -> None:
    result = _compute(layer_types=[SPARSE])
    # 4 heads of 16: 11 x 11 pairs in the window, 11 x 2 with the keys of 8 tokens; 5 heads of 14 score those
    pairs = 4 * (16 + 16)
    assert result.components["attention.scores"].forward == 2 * ((121 + 22) * pairs + 22 * 5 * 14)
    plain = _compute()
    # queries 1 to 3 see 1, 2, 3 tokens and then always 3; 4 to 7 see one key more, 8 to 11 two
    seen = (1 + 2 + 9 * 3) * pairs
    far = (4 * 1 + 4 * 2) * pairs
    masked = result.conventions["masked"].forward - plain.conventions["masked"].forward
    unmasked = result.conventions["matmul"].forward - plain.conventions["matmul"].forward
    assert unmasked - masked == 2 * (22 * pairs + 22 * 5 * 14 - far - 12 * 5 * 14)
    assert plain.conventions["matmul"].forward - plain.conventions["masked"].forward == 2 * (121 * pairs - seen)


def test_an_indexer_leaves_a_query_no_more_keys_than_it_may() -> None:
    two, one = (_compute(layer_types=[SPARSE], index_topk=kept).conventions["masked"].forward for kept in (2, 1))
    # queries 8 to 11, 4 heads of 16
    assert two - one == 2 * 4 * 4 * (16 + 16)


def test_streams_are_mixed_twice_a_layer() -> None:
    # 11 tokens: 15 weights of 3 streams and a product of 3 x 3 with 3 x 64, twice; 3 weights at the end
    expected = 2 * 11 * (2 * (15 * 3 * 64 + 3 * 3 * 64) + 3 * 3 * 64)
    assert _compute().components["hyper_connections"].forward == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"o_groups": 3}, "o_groups: must divide num_attention_heads \\* head_dim"),
        ({"layer_types": ["full_attention"]}, "layer_types: expected sliding_attention or"),
        ({"layer_types": []}, "layer_types: lists 0 layers, but num_hidden_layers is 1"),
        ({"layer_types": None, "compress_ratios": [7]}, "compress_ratios: expected 0, 4, 128, got 7"),
        ({"num_experts_per_tok": 9}, "9 experts a token, but there are 8"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("deepseek_v4", **{**TINY, **flags})
