"""ALBERT: shared layers."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts, count
from planner.errors import ConfigError
from planner.families import family
from planner.families.albert import AlbertConfig
from planner.workload import Step

BASE: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # KerasHub's presets albert_base, _large, _extra_large and _extra_extra_large_en_uncased
        (BASE, 11_683_584),
        (
            {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24},
            17_683_968,
        ),
        (
            {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16, "num_hidden_layers": 24},
            58_724_864,
        ),
        # the class's defaults
        ({}, 222_595_584),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("albert", "AlbertModel", **keys).total == total


def test_the_masked_language_model_has_a_narrow_head_instead_of_a_pooler(counts: Callable[..., Counts]) -> None:
    model, masked = counts("albert", "AlbertModel", **BASE), counts("albert", "AlbertForMaskedLM", **BASE)
    # dense to 128 channels and its bias, norm, and a bias a token
    head = 768 * 128 + 128 + 2 * 128 + 30_000
    assert masked.breakdown["other.lm_head"] == head
    assert masked.total == model.total - (768 * 768 + 768) + head
    assert masked.total_with_untied_head == masked.total + 30_000 * 128


def test_layers_share_parameters_and_not_products() -> None:
    build = family("albert").classes["AlbertModel"]
    step = Step(batch_size=2, sequence_length=128)
    deep = build(AlbertConfig(**BASE, num_hidden_layers=12))
    shallow = build(AlbertConfig(**BASE, num_hidden_layers=3))
    assert count(deep).total == count(shallow).total
    # a layer: 4 d^2 + 2 d f weights and 2 * 128 * d for the scores, 2 FLOPs each, at 2 * 128 tokens
    layer = 2 * 256 * (4 * 768**2 + 2 * 768 * 3072 + 2 * 128 * 768)
    flops = [compute(tree, step).conventions["matmul"].forward for tree in (deep, shallow)]
    assert flops[0] - flops[1] == 9 * layer


def test_groups_have_weights_of_their_own() -> None:
    build = family("albert").classes["AlbertModel"]
    one, three = (
        build(AlbertConfig(**BASE, num_hidden_groups=groups, inner_group_num=inner))
        for groups, inner in ((1, 1), (3, 2))
    )
    layer = 4 * (768**2 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert count(three).total - count(one).total == 5 * layer
    step = Step(sequence_length=16)
    flops = [compute(tree, step).conventions["matmul"].forward for tree in (one, three)]
    # each of the 12 runs is one of two layers
    inner = 2 * 16 * (4 * 768**2 + 2 * 768 * 3072 + 2 * 16 * 768)
    assert flops[1] - flops[0] == 12 * inner


def test_groups_must_divide_the_layers(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match=r"num_hidden_groups: must divide num_hidden_layers \(12 / 5\)"):
        counts("albert", num_hidden_groups=5)
