"""DBRX: flat experts and nested keys."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts, tensors
from planner.errors import ConfigError
from planner.models import build_model
from planner.nodes import Experts, walk
from planner.sources import ConfigSource
from planner.workload import Step

# the public config of databricks/dbrx-base: 132B parameters, of which a token meets 36B
BASE: dict[str, Any] = {
    "attn_config": {"kv_n_heads": 8},
    "d_model": 6144,
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    "n_heads": 48,
    "n_layers": 40,
    "vocab_size": 100352,
}

TINY: dict[str, Any] = {
    "attn_config": {"kv_n_heads": 2},
    "d_model": 64,
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 2},
    "n_heads": 4,
    "n_layers": 1,
    "vocab_size": 100,
}


def test_the_base_model(counts: Callable[..., Counts]) -> None:
    # table and head; queries, 2 x 8 heads of 128 and output; 16 experts of three matrices and their router; norms
    layer = 2 * 6144**2 + 6144 * 2 * 8 * 128 + 16 * 3 * 6144 * 10752 + 6144 * 16 + 2 * 6144
    found = counts("dbrx", **BASE)
    assert found.total == 2 * 100352 * 6144 + 40 * layer + 6144 == 131_596_523_520
    assert found.active == found.total - 40 * 12 * 3 * 6144 * 10752 == 36_469_708_800


def test_experts_are_three_flat_tensors() -> None:
    model = build_model(ConfigSource(name="tiny", raw={"model_type": "dbrx", **TINY}, origin="config.json"))
    (leaf,) = (row.leaf for row in walk(model.tree) if isinstance(row.leaf, Experts))
    assert {tensor.name: tensor.shape for tensor in tensors(leaf)} == dict.fromkeys(("w1", "v1", "w2"), (8 * 24, 64))
    # 5 tokens visit two experts each
    assert compute(model.tree, Step(sequence_length=5)).components["experts.routed"].forward == 2 * 10 * 3 * 64 * 24


def test_the_names_that_transformers_gives_the_same_keys(counts: Callable[..., Counts]) -> None:
    names = {"d_model": "hidden_size", "n_heads": "num_attention_heads", "n_layers": "num_hidden_layers"}
    assert counts("dbrx", **{names.get(key, key): value for key, value in TINY.items()}) == counts("dbrx", **TINY)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"n_heads": 5}, r"n_heads: must divide d_model \(64 / 5\)"),
        ({"attn_config": {"kv_n_heads": 3}}, "attn_config.kv_n_heads: must divide n_heads"),
        ({"attn_config": {"kv_n_heads": 0}}, "attn_config.kv_n_heads: expected a positive number"),
        ({"ffn_config": {"moe_top_k": 5}}, "ffn_config.moe_top_k: 5 experts a token, but there are 4"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: expected false"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("dbrx", **{**TINY, **flags})
