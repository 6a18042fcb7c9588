"""Bytes a parameter that papers and measurements give, not our own arithmetic."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from planner.counts import count
from planner.errors import UnknownNameError
from planner.families import family
from planner.families.config import read_config
from planner.formats import find_format, load_formats, plain_format
from planner.memory import (
    GRADIENTS,
    MASTERS,
    OPTIMIZER,
    SCALES,
    WEIGHTS,
    Memory,
    inference_memory,
    training_memory,
)
from planner.models import load_model
from planner.optimizers import find_optimizer, load_optimizers
from planner.precisions import find_precision, load_precisions
from planner.units import GIB

LLAMA = load_model("meta-llama/Llama-3.1-8B")
PARAMETERS = 8_030_261_248
# 32 layers * (attention 4096 * (4096 + 2 * 1024 + 4096) + MLP 3 * 4096 * 14336)
IN_LAYER_MATRICES = 6_979_321_856


def _weights(name: str) -> Memory:
    return inference_memory(LLAMA.tree, find_format(name))


def _states(precision: str, optimizer: str) -> Memory:
    return training_memory(LLAMA.tree, find_precision(precision), find_optimizer(optimizer))


@pytest.mark.parametrize(("name", "size"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
def test_a_plain_format_is_its_size_a_parameter(name: str, size: int) -> None:
    memory = _weights(name)
    assert memory.total_bytes == size * PARAMETERS
    assert [row.name for row in memory.rows] == [WEIGHTS]


def test_a_quantised_format_leaves_tables_head_and_norms_alone() -> None:
    memory = _weights("fp8")
    assert memory.size_of(WEIGHTS) == IN_LAYER_MATRICES + 2 * (PARAMETERS - IN_LAYER_MATRICES)
    # one fp32 scale for each of 7 matrices in 32 layers
    assert memory.size_of(SCALES) == 7 * 32 * 4


def test_int8_has_a_scale_for_every_output_row() -> None:
    rows = 4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096
    assert _weights("int8").size_of(SCALES) == 32 * rows * 4


def test_int4_has_a_scale_and_a_zero_for_every_128() -> None:
    memory = _weights("int4")
    assert memory.size_of(SCALES) == IN_LAYER_MATRICES // 128 * 20 // 8
    # vLLM reports 5.38 GiB for a w4a16 checkpoint with groups of 128, of which it pads some
    assert memory.total_bytes / GIB == pytest.approx(5.38, rel=0.01)


def test_double_quantisation_saves_what_qlora_says() -> None:
    # Dettmers et al. 2023: 0.373 bits a parameter less
    saved = _weights("nf4").total_bytes - _weights("nf4-double-quant").total_bytes
    assert 8 * saved / IN_LAYER_MATRICES == pytest.approx(0.373, abs=5e-4)
    # vLLM reports 5.354 GiB for bitsandbytes NF4
    assert _weights("nf4-double-quant").total_bytes / GIB == pytest.approx(5.354, rel=0.01)


def test_experts_are_quantised_and_routers_are_not() -> None:
    model = load_model("mistralai/Mixtral-8x7B-v0.1")
    counts = count(model.tree)
    quantised = counts.breakdown["experts.routed"] + counts.breakdown["attention"]
    memory = inference_memory(model.tree, find_format("fp8"))
    assert memory.size_of(WEIGHTS) == quantised + 2 * (counts.total - quantised)
    # a scale for each of 4 projections and 2 * 8 expert matrices in 32 layers
    assert memory.size_of(SCALES) == 32 * (4 + 2 * 8) * 4


@pytest.mark.parametrize(
    ("precision", "optimizer", "expected"),
    [
        ("bf16", "adamw", 8),
        ("autocast", "adamw", 16),
        ("fp32", "adamw", 16),
        ("bf16-master", "adamw", 16),  # Rajbhandari et al. 2020: 2 + 2 + 12
        ("megatron", "adamw", 18),  # Megatron-LM, docs of the distributed optimizer
        ("megatron", "sgd", 10),
        ("autocast", "momentum", 12),
        ("autocast", "lion", 12),
    ],
)
def test_bytes_a_parameter(precision: str, optimizer: str, expected: int) -> None:
    assert _states(precision, optimizer).total_bytes == expected * PARAMETERS


def test_rows_of_a_megatron_run() -> None:
    memory = _states("megatron", "adamw")
    assert {row.name: row.size_bytes // PARAMETERS for row in memory.rows} == {
        WEIGHTS: 2,
        GRADIENTS: 4,
        MASTERS: 4,
        OPTIMIZER: 8,
    }


def test_an_8_bit_state_is_a_byte_and_a_scale_a_block() -> None:
    # No tensor of this model is below 4096 elements.
    blocks = PARAMETERS // 256
    assert _states("bf16", "adamw-8bit").size_of(OPTIMIZER) == 2 * (PARAMETERS + 4 * blocks)


def test_small_tensors_keep_their_8_bit_states_in_fp32() -> None:
    model = load_model("bert-base-uncased", class_name="BertModel")
    matrices = 23_440_896 + 393_216 + 12 * (4 * 768**2 + 2 * 768 * 3072) + 768**2
    vectors = count(model.tree).total - matrices  # each below 4096 elements, the type table of 1536 too
    memory = training_memory(model.tree, find_precision("bf16"), find_optimizer("adamw-8bit"))
    assert memory.size_of(OPTIMIZER) == 2 * (matrices + 4 * (matrices // 256) + 4 * vectors)


def test_adafactor_keeps_a_row_and_a_column() -> None:
    config: dict[str, Any] = {"num_hidden_layers": 1}
    model = load_model("openai-community/gpt2", overrides=config)
    shapes = [(50257, 768), (1024, 768), (768, 2304), (768, 768), (768, 3072), (3072, 768)]
    vectors = 2304 + 768 + 3072 + 768 + 3 * 2 * 768
    memory = training_memory(model.tree, find_precision("fp32"), find_optimizer("adafactor"))
    assert memory.size_of(OPTIMIZER) == 4 * (sum(map(sum, shapes)) + vectors)


def test_muon_keeps_one_momentum_for_hidden_matrices_and_two_for_the_rest() -> None:
    memory = _states("bf16", "muon")
    assert memory.size_of(OPTIMIZER) == 2 * IN_LAYER_MATRICES + 4 * (PARAMETERS - IN_LAYER_MATRICES)


def test_every_row_says_where_it_comes_from() -> None:
    memories = [_weights(name) for name in load_formats()]
    memories += [_states(*names) for names in product(load_precisions(), load_optimizers())]
    assert all(row.source and row.basis == "exact" for memory in memories for row in memory.rows)


@pytest.mark.parametrize(
    ("find", "name", "hint"),
    [
        (find_format, "bfloat16", "bf16"),
        (find_optimizer, "adam-w", "adamw"),
        (find_precision, "megatron-lm", "megatron"),
    ],
)
def test_an_unknown_name_offers_the_near_miss(find: Any, name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=hint):
        find(name)


def test_a_quantised_format_is_no_training_dtype() -> None:
    with pytest.raises(UnknownNameError, match="expected a plain dtype"):
        plain_format("nf4")


@pytest.mark.parametrize("optimizer", load_optimizers())
@pytest.mark.parametrize("name", load_formats())
def test_a_column_of_widths_equals_each_width_alone(name: str, optimizer: str) -> None:
    bert = family("bert")
    config, _ = read_config(bert.config, {"model_type": "bert"})
    widths = np.array([12.0, 768.0, 1020.0, 4096.0 * 3])
    build, chosen, precision = bert.classes["BertModel"], find_format(name), find_precision("bf16-master")
    tree = build(config.replaced({"hidden_size": widths}))
    stored, trained = inference_memory(tree, chosen), training_memory(tree, precision, find_optimizer(optimizer))
    for index, width in enumerate(widths):
        alone = build(config.replaced({"hidden_size": int(width)}))
        assert np.asarray(stored.total_bytes)[index] == inference_memory(alone, chosen).total_bytes
        single = training_memory(alone, precision, find_optimizer(optimizer))
        assert np.asarray(trained.total_bytes)[index] == single.total_bytes
