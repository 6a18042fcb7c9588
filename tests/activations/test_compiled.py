"""What torch.compile's partitioner keeps of a Llama block, with torchtitan's list of kept operators and without it."""

from __future__ import annotations

import importlib
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from planner.activations.compiled import compiled_saved, gradients_at_work
from planner.validate.architecture import tree_of
from planner.workload import Step

HIDDEN, HEADS, SHARED, WIDTH, INNER = 256, 8, 2, 32, 704
SAMPLES, TOKENS = 2, 96
MODEL = {
    "layers": 2, "hidden": HIDDEN, "heads": HEADS, "kv_heads": SHARED, "head_dim": WIDTH, "ffn": INNER, "vocab": 100,
    "gated_mlp": True, "norm": "rmsnorm",
}  # fmt: skip


def block_bytes(*, per_op: bool, step: Step | None = None, **options: bool) -> Any:
    """Bytes that one block keeps."""
    step = step or Step(batch_size=SAMPLES, sequence_length=TOKENS)
    found = compiled_saved(tree_of(MODEL), step, per_op=per_op, **options)
    return sum(tensor.size_bytes for tensor in found if tensor.in_block)


# input, two normed inputs, the middle sum's second term; queries, keys, values, output; gate, up, product; 2 B each;
# two reciprocal roots and a log-sum-exp a head, 4 B each
WHOLE = 2 * (4 * HIDDEN + 2 * HEADS * WIDTH + 2 * SHARED * WIDTH + 3 * INNER) + 4 * (2 + HEADS)

# input, queries and values before they are turned, output, gate
PER_OP = 2 * (HIDDEN + HEADS * WIDTH + SHARED * WIDTH + HEADS * WIDTH + INNER) + 4 * HEADS


def test_a_fused_block_keeps_what_products_read() -> None:
    assert block_bytes(per_op=False) == SAMPLES * TOKENS * WHOLE


def test_per_operator_checkpointing_keeps_every_second_product() -> None:
    assert block_bytes(per_op=True) == SAMPLES * TOKENS * PER_OP
    # the eager cache keeps the last product too
    assert block_bytes(per_op=True, cached_results=True) == SAMPLES * TOKENS * (PER_OP + 2 * HIDDEN)


def test_autocast_keeps_a_wide_stream_and_copies_of_weights() -> None:
    matrices = HIDDEN * (2 * HEADS * WIDTH + 2 * SHARED * WIDTH + 3 * INNER)
    # the input and the second term in fp32: 2 B more for each of their elements
    expected = SAMPLES * TOKENS * (WHOLE + 2 * 2 * HIDDEN) + 2 * matrices
    assert block_bytes(per_op=False, autocast=True) == expected


def test_backward_of_a_gated_mlp_has_gradients_of_gate_and_up() -> None:
    step = Step(batch_size=SAMPLES, sequence_length=TOKENS)
    assert gradients_at_work(tree_of(MODEL), step) == 2 * SAMPLES * TOKENS * (2 * INNER + HIDDEN)


def test_columns_equal_their_elements() -> None:
    lengths = np.array([64.0, 4096.0])
    for per_op in (False, True):
        column = block_bytes(per_op=per_op, step=Step(batch_size=1, sequence_length=lengths))
        alone = [block_bytes(per_op=per_op, step=Step(batch_size=1, sequence_length=int(length))) for length in lengths]
        assert list(column) == alone


@pytest.mark.slow
@pytest.mark.parametrize("per_op", [False, True])
def test_the_partitioner_of_torch_keeps_as_much(per_op: bool) -> None:
    torch = pytest.importorskip("torch")
    assert _kept_by_torch(torch, per_op=per_op) == SAMPLES * TOKENS * (PER_OP if per_op else WHOLE)


def _kept_by_torch(torch: Any, *, per_op: bool) -> int:
    """Bytes of unique storages that a compiled block saves, without its parameters and what blocks share."""
    checkpoint: Any = importlib.import_module("torch.utils.checkpoint")

    functional, nn, aten = torch.nn.functional, torch.nn, torch.ops.aten

    class Block(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.RMSNorm(HIDDEN, eps=1e-5) for _ in range(2))
            widths = (HEADS * WIDTH, SHARED * WIDTH, SHARED * WIDTH)
            self.readers = nn.ModuleList(nn.Linear(HIDDEN, width, bias=False) for width in widths)
            self.writer = nn.Linear(HEADS * WIDTH, HIDDEN, bias=False)
            self.gate, self.up = (nn.Linear(HIDDEN, INNER, bias=False) for _ in range(2))
            self.down = nn.Linear(INNER, HIDDEN, bias=False)

        def forward(self, value: Any, cosines: Any, sines: Any) -> Any:
            shape = (SAMPLES, TOKENS, -1, WIDTH)
            query, key, values = (reader(self.norms[0](value)).view(shape) for reader in self.readers)
            query, key = (
                part * cosines + torch.cat((-part.chunk(2, -1)[1], part.chunk(2, -1)[0]), -1) * sines
                for part in (query, key)
            )
            mixed = functional.scaled_dot_product_attention(
                *(part.transpose(1, 2) for part in (query, key, values)), is_causal=True, enable_gqa=True
            )
            value = value + self.writer(mixed.transpose(1, 2).reshape(SAMPLES, TOKENS, -1))
            inner = self.norms[1](value)
            return value + self.down(functional.silu(self.gate(inner)) * self.up(inner))

    def context() -> Any:
        products: dict[bool, int] = defaultdict(int)

        def policy(ctx: Any, operator: Any, *_: object, **__: object) -> Any:
            if operator == aten.mm.default:
                products[ctx.is_recompute] += 1
            second = operator == aten.mm.default and products[ctx.is_recompute] % 2 == 0
            kept = operator in (aten.mm.default, aten._scaled_dot_product_flash_attention_for_cpu.default)
            chosen = checkpoint.CheckpointPolicy
            return chosen.MUST_SAVE if kept and not second else chosen.PREFER_RECOMPUTE

        return checkpoint.create_selective_checkpoint_contexts(policy)

    block = Block().to(torch.bfloat16)

    def run(*operands: Any) -> Any:
        if not per_op:
            return block(*operands)
        return checkpoint.checkpoint(block, *operands, use_reentrant=False, context_fn=context)

    tables = [torch.rand(TOKENS, 1, WIDTH, dtype=torch.bfloat16) for _ in range(2)]
    value = torch.randn(SAMPLES, TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*block.parameters(), *tables)}
    found: dict[int, int] = {}
    held = []

    def pack(tensor: Any) -> Any:
        held.append(tensor.detach())
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return held[-1]

    compiled = torch.compile(run, backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compiled(value, *tables)
    return sum(found.values())
