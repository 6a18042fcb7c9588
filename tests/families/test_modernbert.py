"""ModernBERT: windows on both sides."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.modernbert import ModernBertConfig
from planner.workload import Step

LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 2624,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
}


# tensors of the checkpoints of answerdotai/ModernBERT-base (the class's defaults) and -large
@pytest.mark.parametrize(("keys", "total"), [({}, 149_655_232), (LARGE, 395_881_664)])
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("modernbert", **keys).total == total


@pytest.mark.parametrize(
    ("flag", "changed", "more"),
    [
        ("attention_bias", True, 22 * 4 * 768),
        ("mlp_bias", True, 22 * (2 * 1152 + 768)),
        # 22 before the MLPs, 21 before the attention of all layers but the first, embedding, last and head
        ("norm_bias", True, (22 + 21 + 3) * 768),
        ("classifier_bias", True, 768),
        ("decoder_bias", False, -50_368),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flag: str, changed: bool, more: int) -> None:
    assert counts("modernbert", **{flag: changed}).total - counts("modernbert").total == more


def test_windows_reach_to_both_sides() -> None:
    build = family("modernbert").classes["ModernBertModel"]
    conventions = compute(build(ModernBertConfig()), Step(sequence_length=1000)).conventions
    # 14 layers of 22 see 64 tokens to each side, fewer near the ends
    full, banded = 1000 * 1000, 1000 * 129 - 64 * 65
    scores = 2 * 2 * 768
    assert conventions["matmul"].forward - conventions["masked"].forward == 14 * (full - banded) * scores
    assert conventions["causal"] == conventions["matmul"]


def test_a_short_sequence_lies_within_every_window() -> None:
    build = family("modernbert").classes["ModernBertModel"]
    conventions = compute(build(ModernBertConfig()), Step(sequence_length=40)).conventions
    assert conventions["matmul"] == conventions["masked"]


def test_layers_may_be_listed(counts: Callable[..., Counts]) -> None:
    listed = ["full_attention", "sliding_attention", "sliding_attention"]
    assert ModernBertConfig(num_hidden_layers=3, layer_types=listed).kinds() == listed
    assert ModernBertConfig(num_hidden_layers=3).kinds() == listed
    with pytest.raises(ConfigError, match="layer_types: lists 3 layers, but num_hidden_layers is 22"):
        counts("modernbert", layer_types=listed)
    with pytest.raises(ConfigError, match="expected sliding_attention or full_attention, got 'x'"):
        counts("modernbert", num_hidden_layers=1, layer_types=["x"])
