"""Bytes at rest: by hand, and as the Hugging Face Trainer measured them."""

from typing import Any

import numpy as np
import pytest

from planner.adapters import Adapter, finetune_states
from planner.adapters.states import ADAPTER, BUFFERS, PAGED
from planner.formats import find_format
from planner.memory import GRADIENTS, OPTIMIZER, SCALES, WEIGHTS, MemoryRow
from planner.models import build_model
from planner.nodes import Linear, Module, Node, Norm
from planner.optimizers import find_optimizer
from planner.sources import ConfigSource

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def one_block() -> Module:
    return Module(
        children={
            "norm": Norm(dim=64),
            "q_proj": Linear(in_features=64, out_features=64, bucket="attention"),
            "down_proj": Linear(in_features=64, out_features=64, bucket="mlp"),
        }
    )


def by_name(rows: tuple[MemoryRow, ...]) -> dict[str, Any]:
    return {row.name: row.size_bytes for row in rows}


def test_a_frozen_base_keeps_its_weights_alone() -> None:
    lora = Adapter(method="lora", rank=4, target_modules=("q_proj",))
    rows = by_name(finetune_states(one_block(), lora, find_format("bf16"), find_optimizer("adamw")))
    base, added = 2 * 64 * 64 + 64, 4 * (64 + 64)
    assert rows == {WEIGHTS: 2 * base, ADAPTER: 4 * added, GRADIENTS: 4 * added, OPTIMIZER: 8 * added}
    idle = by_name(finetune_states(one_block(), lora, find_format("bf16"), find_optimizer("adamw"), gradients=False))
    assert GRADIENTS not in idle


def test_trained_parts_of_the_base_are_in_its_dtype() -> None:
    adapter = Adapter(method="frozen", trained_modules=("down_proj",))
    rows = by_name(finetune_states(one_block(), adapter, find_format("bf16"), find_optimizer("adamw")))
    assert rows == {WEIGHTS: 2 * (2 * 64 * 64 + 64), GRADIENTS: 2 * 64 * 64, OPTIMIZER: 4 * 64 * 64}


def test_a_copy_of_a_module_stands_beside_the_module() -> None:
    adapter = Adapter(method="lora", rank=4, target_modules=("q_proj",), modules_to_save=("down_proj",))
    rows = by_name(finetune_states(one_block(), adapter, find_format("bf16"), find_optimizer("sgd")))
    assert rows[WEIGHTS] == 2 * (2 * 64 * 64 + 64)
    assert rows[ADAPTER] == 4 * 4 * (64 + 64) + 2 * 64 * 64


def test_states_follow_from_each_tensor() -> None:
    lora = Adapter(method="lora", rank=8, target_modules=("q_proj",))
    rows = by_name(finetune_states(one_block(), lora, find_format("bf16"), find_optimizer("paged-adamw-8bit")))
    # 8 * 64 elements are fewer than 4096, so that both states of both factors stay in fp32
    assert rows[PAGED] == 2 * 2 * 8 * 64 * 4
    rows = by_name(finetune_states(one_block(), lora, find_format("bf16"), find_optimizer("adafactor")))
    # a row and a column of each factor, in fp32
    assert rows[OPTIMIZER] == 2 * (8 + 64) * 4


def test_norms_or_all_that_is_not_quantised_is_cast() -> None:
    lora = Adapter(method="lora", rank=4, target_modules=("q_proj",))

    def rest(upcast: Any) -> Any:
        rows = finetune_states(one_block(), lora, find_format("nf4"), find_optimizer("adamw"), upcast=upcast)
        return by_name(rows)[WEIGHTS] - 2 * 64 * 64 // 2

    assert [rest(upcast) for upcast in ("none", "norms", "all")] == [2 * 64, 4 * 64, 4 * 64]


def test_fixed_matrices_have_a_row_of_their_own() -> None:
    vera = Adapter(method="vera", rank=16, target_modules=("q_proj",))
    rows = by_name(finetune_states(one_block(), vera, find_format("bf16"), find_optimizer("adamw")))
    assert rows[BUFFERS] == 4 * (16 * 64 + 64 * 16)
    assert rows[ADAPTER] == 4 * (64 + 16)


def test_a_column_of_ranks_equals_each_alone() -> None:
    ranks = np.array([2.0, 16.0, 128.0])

    def rows(rank: Any) -> dict[str, Any]:
        lora = Adapter(method="lora", rank=rank, target_modules=("q_proj",))
        return by_name(finetune_states(one_block(), lora, find_format("nf4"), find_optimizer("adamw-8bit")))

    column = rows(ranks)
    for name, size in column.items():
        assert np.broadcast_to(size, 3).tolist() == [rows(int(rank))[name] for rank in ranks]


def llama(hidden: int, vocabulary: int, ffn: int) -> Node:
    raw = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }
    return build_model(ConfigSource(name="own", raw=raw, origin="own")).tree


WORKSPACES = 2 * (4096 * 2 + 16 * 8) * 1024
"""cuBLAS keeps one for forward and one for backward; torch's size of it on an A100 (:4096:2:16:8). [B]"""

# allocated between steps: foundation-model-stack/fms-acceleration, scripts/benchmarks/refs/a100_80gb.csv, 876e2ed
MEASURED: list[tuple[int, str, Any, int, int]] = [
    (32000, "bf16", "none", 4, 14664493056),
    (32000, "bf16", "none", 8, 14664886272),
    (32000, "nf4-double-quant", "norms", 4, 4307028992),
    (32000, "nf4-double-quant", "none", 4, 4306496512),
    (128256, "bf16", "none", 4, 16241584128),
    (128256, "nf4-double-quant", "norms", 4, 5884111872),
]


@pytest.mark.parametrize(("vocabulary", "base", "upcast", "batch", "measured"), MEASURED)
def test_states_and_what_is_known_beside_them_are_what_was_allocated(
    vocabulary: int, base: str, upcast: Any, batch: int, measured: int
) -> None:
    adapter = Adapter(method="lora", rank=16, target_modules=ATTENTION)
    rows = finetune_states(
        llama(4096, vocabulary, 14336),
        adapter,
        find_format(base),
        find_optimizer("adamw"),
        upcast=upcast,
        gradients=False,
    )
    assert (SCALES in by_name(rows)) == (base != "bf16")
    # the last batch of 4096 tokens a sample: input_ids, attention_mask and labels as int64
    last_batch = 3 * 8 * batch * 4096
    rest = measured - sum(row.size_bytes for row in rows) - last_batch - WORKSPACES
    # tables of rotations, losses, and 512 B for each tensor however small
    assert 0 <= rest < 64 * 1024
