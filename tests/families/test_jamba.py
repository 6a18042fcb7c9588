"""Jamba: the published total, which layers are which, and errors."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(**keys: Any) -> Model:
    return build_model(ConfigSource(name="test", raw={"model_type": "jamba", **keys}, origin="config.json"))


def test_jamba_v01() -> None:
    # the class's defaults; safetensors total of ai21labs/Jamba-v0.1 on the hub
    counts = count(model_of().tree)
    assert counts.total == 51_570_323_328
    # 2 of 16 experts in each second layer
    assert counts.total - counts.active == 16 * 14 * 3 * 4096 * 14336
    # a norm of each of step, input and output matrix in 28 layers, two norms in all 32, one at the end
    assert counts.breakdown["norms"] == 28 * (256 + 16 + 16) + 32 * 2 * 4096 + 4096


def test_which_layers_have_what() -> None:
    config = model_of(num_hidden_layers=8, attn_layer_period=4, attn_layer_offset=1).config
    kinds = [config.kind(layer) for layer in range(8)]  # type: ignore[attr-defined]
    assert [attends for attends, _ in kinds] == [layer in (1, 5) for layer in range(8)]
    assert [routed for _, routed in kinds] == [False, True] * 4


def test_one_expert_is_a_dense_mlp() -> None:
    one, many = count(model_of(num_experts=1).tree), count(model_of().tree)
    assert "router" not in one.breakdown
    assert many.total - one.total == 16 * (15 * 3 * 4096 * 14336 + 4096 * 16)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attn_layer_offset": 8}, "attn_layer_offset: 8, but attn_layer_period is 8"),
        ({"expert_layer_offset": 2}, "expert_layer_offset: 2, but expert_layer_period is 2"),
        ({"num_experts_per_tok": 17}, "num_experts_per_tok: 17 experts a token, but there are 16"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**keys)


def test_scans_of_the_layers_without_attention() -> None:
    assert compute(model_of().tree, Step(sequence_length=3)).scans == 3 * 28 * 8192 * 16 * 9
