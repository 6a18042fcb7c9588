"""What litgpt's own modules keep: bytes that saved-tensor hooks counted on litgpt 0.5.3 in bf16 on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.activations.litgpt import Tuning, litgpt_saved
from planner.nodes import Node, Row
from planner.validate.architecture import tree_of
from planner.workload import Step

STABLELM = {
    "layers": 4, "hidden": 4096, "heads": 32, "kv_heads": 32, "ffn": 16384, "vocab": 50688,
    "gated_mlp": False, "norm": "layernorm", "bias": True,
}  # fmt: skip
LLAMA = {
    "layers": 4, "hidden": 4096, "heads": 32, "kv_heads": 32, "ffn": 11008, "vocab": 32000,
    "gated_mlp": True, "norm": "rmsnorm",
}  # fmt: skip


def queries_and_values(row: Row) -> bool:
    return row.path.endswith(("q_proj", "v_proj"))


LORA = Tuning(method="lora", adapted=queries_and_values)


def per_token(tree: Node, tuning: Tuning, samples: int, tokens: int, device: str = "cpu") -> dict[int | str, Any]:
    """Bytes of a token that each block keeps, and what stands behind the blocks."""
    step = Step(batch_size=samples, sequence_length=tokens)
    found: dict[int | str, Any] = {}
    for tensor in litgpt_saved(tree, step, tuning, device=device):  # type: ignore[arg-type]
        for place in tensor.indices[0] or () if tensor.indices else ("behind",):
            found[place] = found.get(place, 0) + tensor.size_bytes / (samples * tokens)
    return found


@pytest.mark.parametrize(
    ("model", "tuning", "samples", "tokens", "expected"),
    [
        # the first block's norm and MLP see no gradient
        (STABLELM, LORA, 1, 256, {0: 74144, 1: 123304, 2: 123304, 3: 123304, "behind": 8196}),
        (LLAMA, LORA, 1, 256, {0: 156644, 1: 181288, 2: 181288, 3: 181288, "behind": 16452}),
    ],
)
def test_lora_keeps_what_hooks_count(
    model: dict[str, object], tuning: Tuning, samples: int, tokens: int, expected: dict[int | str, float]
) -> None:
    assert per_token(tree_of(model), tuning, samples, tokens) == pytest.approx(expected, rel=1e-12)


def test_an_adapter_below_its_first_block_keeps_what_hooks_count() -> None:
    # blocks 0 and 1 have no prompt; with it, the kernel of a masked product differs between a CPU and CUDA
    found = per_token(tree_of(LLAMA), Tuning(method="adapter_v2"), 2, 96)
    assert found[0] == pytest.approx(249561 + 1 / 3)
    assert found[1] == pytest.approx(266034 + 2 / 3)
    assert found["behind"] == pytest.approx(96857 + 1 / 3)


def test_an_adapter_keeps_nothing_below_its_prompt() -> None:
    found = per_token(tree_of(LLAMA), Tuning(method="adapter"), 2, 96)
    assert {0, 1}.isdisjoint(found)
    # queries, which the prompt's product reads, its output and its log-sum-exp; the second norm and the MLP
    prompt = 2 * 4096 + 2 * 4096 + 4 * 32
    norm = 4 * 4096 + 4 + 4 * 4096 / 192
    assert found[2] == pytest.approx(prompt + norm + 3 * 2 * 11008)


def test_a_mask_is_a_byte_on_cuda() -> None:
    on_cpu = per_token(tree_of(LLAMA), LORA, 1, 256)
    on_cuda = per_token(tree_of(LLAMA), LORA, 1, 256, "cuda")
    assert on_cpu[1] - on_cuda[1] == 4096


def test_a_packed_matrix_keeps_its_input() -> None:
    packed = Tuning(method="lora", adapted=queries_and_values, packed=True)
    plain, kept = per_token(tree_of(LLAMA), LORA, 1, 256), per_token(tree_of(LLAMA), packed, 1, 256)
    # inputs of the matrix of queries, keys and values, of gate and up, and of down; attention's output is kept anyway
    assert kept[1] - plain[1] == 2 * (4096 + 4096 + 11008)


def test_full_training_keeps_every_input_once() -> None:
    found = per_token(tree_of(LLAMA), Tuning(), 1, 256)
    # two fp32 copies and roots, normalised vectors in fp32, two normed inputs, queries, keys, the fused matrix, the
    # output with its log-sum-exps, gate, up, activated gate and their product
    norms = 2 * (4 * 4096 + 4 + 4 * 4096 + 2 * 4096 + 4 * 4096 / 256)
    attention = 2 * 4096 * (1 + 1 + 3 + 1) + 4 * 32
    assert found[1] == pytest.approx(norms + attention + 4 * 2 * 11008)


def test_columns_equal_their_elements() -> None:
    lengths = np.array([128.0, 1304.0])
    tree = tree_of(LLAMA)
    column = litgpt_saved(tree, Step(batch_size=2, sequence_length=lengths), LORA)
    for position, length in enumerate(lengths):
        alone = litgpt_saved(tree, Step(batch_size=2, sequence_length=int(length)), LORA)
        sizes = [np.broadcast_to(tensor.size_bytes, 2)[position] for tensor in column]
        assert sizes == [tensor.size_bytes for tensor in alone]
