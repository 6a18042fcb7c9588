"""Qwen3-Next: the published total, delta nets and gated attention by hand, errors."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(**keys: Any) -> Model:
    return build_model(ConfigSource(name="test", raw={"model_type": "qwen3_next", **keys}, origin="config.json"))


def test_qwen3_next_80b() -> None:
    # The class's defaults; safetensors total of Qwen/Qwen3-Next-80B-A3B-Instruct on the hub, less its MTP module: a
    # layer with attention and experts (1,642,076,672), a matrix of both inputs and three norms.
    counts = count(model_of().tree)
    assert counts.total == 81_324_862_720 - 1_642_076_672 - 2 * 2048**2 - 3 * 2048
    # 12 layers: queries and their gates for 16 heads, keys and values for 2, the output
    assert counts.breakdown["attention"] == 12 * 2048 * 256 * (2 * 16 + 2 * 2 + 16)
    # 36 layers: queries and keys of 16 heads, values and gates of 32, each 128 wide, and two numbers a head; the
    # convolution over 4 of all but the gates; two numbers a head; the output
    queries, values = 16 * 128, 32 * 128
    mixer = 2048 * (2 * queries + 2 * values + 2 * 32) + 4 * (2 * queries + values) + 2 * 32 + values * 2048
    assert counts.breakdown["ssm"] == 36 * mixer
    # 10 of 512 experts
    assert counts.total - counts.active == 48 * 502 * 3 * 2048 * 512


def test_scans_of_three_layers_in_four() -> None:
    assert compute(model_of().tree, Step(sequence_length=3)).scans == 3 * 36 * 32 * 128 * 128 * 7


@pytest.mark.parametrize(
    ("keys", "full"),
    [
        ({"num_hidden_layers": 8}, [3, 7]),
        ({"num_hidden_layers": 8, "full_attention_interval": 2}, [1, 3, 5, 7]),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention", "linear_attention", "mamba"]}, [0]),
    ],
)
def test_which_layers_attend(keys: dict[str, Any], full: list[int]) -> None:
    kinds = model_of(**keys).config.kinds()  # type: ignore[attr-defined]
    assert [layer for layer, kind in enumerate(kinds) if kind == "full_attention"] == full


def test_layers_without_experts() -> None:
    dense = 3 * 2048 * 5632
    routed = 2048 * 512 + 512 * 3 * 2048 * 512 + 3 * 2048 * 512 + 2048
    some = count(model_of(mlp_only_layers=[0, 5]).tree).total
    assert some - count(model_of().tree).total == 2 * (dense - routed)
    assert count(model_of(decoder_sparse_step=2).tree).breakdown["mlp"] == 24 * dense
    assert count(model_of(num_experts=0).tree).breakdown["mlp"] == 48 * dense


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types: lists 1 layers, but num_hidden_layers is 48"),
        ({"layer_types": ["x"] * 48}, "layer_types: expected linear_attention or full_attention, got 'x'"),
        ({"linear_num_key_heads": 5}, "linear_num_key_heads: must divide linear_num_value_heads"),
        ({"num_experts_per_tok": 513}, "num_experts_per_tok: 513 experts a token, but there are 512"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**keys)
