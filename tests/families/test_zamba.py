"""Zamba: one attention block whose weights many layers run, and the published total."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.nodes import walk
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(**keys: Any) -> Model:
    return build_model(ConfigSource(name="test", raw={"model_type": "zamba", **keys}, origin="config.json"))


NORMS_OF_BLOCK = 7424 + 3712


def test_zamba_7b() -> None:
    # the class's defaults; safetensors total of Zyphra/Zamba-7B-v1 on the hub
    counts = count(model_of().tree)
    assert counts.total == 7_232_490_496
    # layers 2 and, of the 73 after it, each sixth from the fifth on; a projection of their own in each
    assert counts.breakdown["other.misc"] == 13 * 3712 * 3712
    # the block is held once
    assert counts.breakdown["attention"] == 7424 * 3 * 7424 + 7424 * 3712
    assert counts.breakdown["mlp"] == 3 * 3712 * 14848


def test_the_shared_block_is_held_once_and_run_in_every_hybrid_layer() -> None:
    rows = [row for row in walk(model_of().tree) if row.path.endswith("shared_transf.self_attn.q_proj")]
    assert [row.copies for row in rows] == [1, 12]
    assert [row.tied_to for row in rows] == [None, "model.layers.2.shared_transf.self_attn.q_proj"]


def test_blocks_are_shared_by_the_switch_that_ties_the_head() -> None:
    tied, untied = count(model_of().tree), count(model_of(tie_word_embeddings=False).tree)
    block = 7424 * 3 * 7424 + 7424 * 3712 + 3 * 3712 * 14848 + NORMS_OF_BLOCK
    assert untied.total - tied.total == 32000 * 3712 + 12 * block


def test_inner_projections_are_one_matrix_a_head() -> None:
    step = Step(sequence_length=1)
    one, two = (compute(model_of(n_mamba_heads=heads).tree, step) for heads in (1, 2))
    # each of two heads reads half of the channels, and has outputs of its own; so does its step
    assert two.conventions["matmul"].forward == one.conventions["matmul"].forward
    assert one.scans == two.scans == 76 * 7424 * 16 * 9
    more = count(model_of(n_mamba_heads=2).tree).total - count(model_of(n_mamba_heads=1).tree).total
    assert more == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_mamba_heads": 3}, r"n_mamba_heads: must divide mamba_expand \* hidden_size"),
        ({"num_hidden_layers": 2}, "num_hidden_layers: expected 3 or more"),
        ({"layers_block_type": ["mamba"] * 5}, "layers_block_type: lists 5 layers, but num_hidden_layers is 76"),
        ({"layers_block_type": ["attention"] * 76}, "expected linear_attention or hybrid, got 'full_attention'"),
        ({"num_attention_heads": 15, "num_key_value_heads": 15}, r"must divide 2 \* hidden_size \(7424 / 15\)"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**keys)


def test_layers_by_their_former_names() -> None:
    listed = ["mamba", "mamba", "hybrid", *("hybrid" if layer % 6 == 4 else "mamba" for layer in range(73))]
    assert count(model_of(layers_block_type=listed).tree).total == 7_232_490_496


def test_no_hybrid_layer_at_all() -> None:
    counts = count(model_of(num_hidden_layers=2, layers_block_type=["mamba", "mamba"]).tree)
    assert "attention" not in counts.breakdown
