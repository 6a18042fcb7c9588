"""RecurrentGemma: the published total, gates in blocks, windows, errors."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.nodes import Attention, walk
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(**keys: Any) -> Model:
    raw = {"model_type": "recurrent_gemma", **GEMMA_2B, **keys}
    return build_model(ConfigSource(name="test", raw=raw, origin="config.json"))


GEMMA_2B: dict[str, Any] = {"intermediate_size": 15360, "num_key_value_heads": 1}


def test_recurrentgemma_2b() -> None:
    # safetensors total of google/recurrentgemma-2b on the hub
    counts = count(model_of().tree)
    assert counts.total == 2_682_862_080
    # 18 of 26 layers: two projections in and one out with biases, a convolution over 4, and the recurrence: two gates
    # of 10 blocks with biases, and a decay
    recurrence = 2 * (2560 * 256 + 2560) + 2560
    assert counts.breakdown["ssm"] == 18 * (3 * (2560 * 2560 + 2560) + 2560 * 5 + recurrence)
    # the key counts gate and up together
    assert counts.breakdown["mlp"] == 26 * (3 * 2560 * 7680 + 2 * 7680 + 2560)


def test_a_gate_multiplies_block_by_block() -> None:
    step = Step(sequence_length=1)
    flops = compute(model_of().tree, step).components["ssm"].forward
    # 10 blocks of 256 by 256 in each of two gates
    assert flops == 18 * 2 * (3 * 2560 * 2560 + 2560 * 4 + 2 * 10 * 256 * 256)
    assert compute(model_of().tree, step).scans == 18 * 2560 * 6


def test_attention_sees_a_window() -> None:
    leaves = [row.leaf for row in walk(model_of(attention_window_size=7).tree) if isinstance(row.leaf, Attention)]
    assert [leaf.window for leaf in leaves] == [7]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"tie_word_embeddings": False}, 256000 * 2560),
        # q, and one head of k and v
        ({"attention_bias": True}, 8 * (2560 + 2 * 256)),
        ({"num_key_value_heads": None}, 8 * 2 * 9 * 2560 * 256),
        # layer 26 would be the third of the pattern: attention, an MLP and two norms
        ({"num_hidden_layers": 27}, 2560 * (2560 * 2 + 2 * 256) + 2560 + 3 * 2560 * 7680 + 2 * 7680 + 2560 + 2 * 2560),
        ({"_block_types": ["attention"]}, 0),
    ],
)
def test_flags(changes: dict[str, Any], difference: int) -> None:
    assert count(model_of(**changes).tree).total - count(model_of().tree).total == difference


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"block_types": ["recurrent", "mamba"]}, "block_types: expected recurrent or attention, got 'mamba'"),
        ({"block_types": []}, "block_types: is empty"),
        ({"lru_width": 2561}, "num_attention_heads: must divide lru_width"),
        ({"intermediate_size": 15361}, "must divide intermediate_size"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**keys)
