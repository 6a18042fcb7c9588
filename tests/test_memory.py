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
from planner.nodes import Embedding, Linear, Module, Norm
from planner.optimizers import find_optimizer, load_optimizers
from planner.precisions import find_precision, load_precisions

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


def test_double_quantisation_saves_what_qlora_says() -> None:
    # Dettmers et al. 2023: 0.373 bits a parameter less
    saved = _weights("nf4").total_bytes - _weights("nf4-double-quant").total_bytes
    assert 8 * saved / IN_LAYER_MATRICES == pytest.approx(0.373, abs=5e-4)


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


# A table of 200 * 96, a layer of 64 * 96 with bias and one of 160 * 64 without, a norm of 96 with bias
SMALL = Module(
    children={
        "table": Embedding(num_embeddings=200, embedding_dim=96, bucket="embeddings.token"),
        "up": Linear(in_features=96, out_features=64, bias=True, bucket="mlp"),
        "down": Linear(in_features=64, out_features=160, bucket="mlp"),
        "norm": Norm(dim=96, bias=True),
    }
)
MATRICES = 200 * 96 + 64 * 96 + 160 * 64
VECTORS = 64 + 96 + 96


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        # The classes themselves after two steps in fp32: torch, torchao 0.18, pytorch_optimizer 4.1, galore_torch 1.0
        ("adagrad", 143_360),
        ("adamw-4bit", 40_240),
        ("soap", 1_024_512),
        ("galore", 319_488),
    ],
)
def test_what_the_optimizer_itself_holds(optimizer: str, expected: int) -> None:
    memory = training_memory(SMALL, find_precision("fp32"), find_optimizer(optimizer))
    assert memory.size_of(OPTIMIZER) == expected


def test_a_4_bit_state_is_half_a_byte_a_scale_a_block_and_a_code_book() -> None:
    # The three matrices have 4096 elements and fill blocks of 128, the vectors stay in fp32.
    for optimizer in ("adam-4bit", "adamw-4bit"):
        memory = training_memory(SMALL, find_precision("fp32"), find_optimizer(optimizer))
        assert memory.size_of(OPTIMIZER) == 2 * (MATRICES // 2 + MATRICES // 128 * 4 + 3 * 64 + 4 * VECTORS)


def test_a_4_bit_state_wants_full_blocks() -> None:
    odd = Module(children={"up": Linear(in_features=65, out_features=64)})  # 4160 elements, 32.5 blocks
    memory = training_memory(odd, find_precision("bf16"), find_optimizer("adamw-4bit"))
    assert memory.size_of(OPTIMIZER) == 2 * 2 * 4160


def test_paging_moves_states_and_does_not_shrink_them() -> None:
    assert _states("bf16", "paged-adamw-8bit").total_bytes == _states("bf16", "adamw-8bit").total_bytes


def test_lamb_keeps_what_adam_keeps() -> None:
    assert _states("bf16", "lamb").total_bytes == _states("bf16", "adam").total_bytes


def test_shampoo_keeps_two_factors_two_roots_and_what_it_grafts() -> None:
    # Blocks of 1024: q and o of 4096 * 4096 have 2 mn in factors, as has every matrix whose sides are multiples
    memory = _states("fp32", "shampoo")
    norms = 65 * 4 * 1024**2
    head = 2 * (125 * 1024**2 + 256**2) * 4 + 2 * 126 * 4 * 1024**2
    factors = 2 * IN_LAYER_MATRICES + head + norms
    assert memory.size_of(OPTIMIZER) == 4 * (2 * factors + 2 * PARAMETERS)


def test_soap_has_no_matrix_for_a_large_side() -> None:
    # attention: both sides of 4096 and 1024; MLP, table and head: the side of 4096 alone
    squares = 32 * (2 * (4096**2 + 4096**2) + 2 * (1024**2 + 4096**2) + 3 * 4096**2) + 2 * 4096**2
    assert _states("bf16", "soap").size_of(OPTIMIZER) == 2 * (2 * PARAMETERS + 2 * squares)


def test_galore_projects_hidden_matrices_only() -> None:
    # r = 1024: two states of r * longer side, a projection of r * shorter side
    longer = 32 * (2 * 4096 + 2 * 4096 + 3 * 14336)
    shorter = 32 * (2 * 4096 + 2 * 1024 + 3 * 4096)
    kept = 2 * (PARAMETERS - IN_LAYER_MATRICES)
    assert _states("bf16", "galore-r1024").size_of(OPTIMIZER) == 2 * (1024 * (2 * longer + shorter) + kept)


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
def test_a_column_of_widths_equals_each_width_alone(optimizer: str) -> None:
    bert = family("bert")
    config, _ = read_config(bert.config, {"model_type": "bert"})
    widths = np.array([12.0, 768.0, 1020.0, 4096.0 * 3])
    build, precision, chosen = bert.classes["BertModel"], find_precision("bf16-master"), find_optimizer(optimizer)
    trained = training_memory(build(config.replaced({"hidden_size": widths})), precision, chosen)
    for index, width in enumerate(widths):
        alone = training_memory(build(config.replaced({"hidden_size": int(width)})), precision, chosen)
        assert np.asarray(trained.total_bytes)[index] == alone.total_bytes
