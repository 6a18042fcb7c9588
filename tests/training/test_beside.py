"""What adapters keep beside a matrix, against peft's own layers and by hand."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from planner.adapters import Adapter
from planner.nodes import Linear, Module, Node
from planner.training.beside import kept_beside, load_kept, shares_input
from planner.workload import Step

TOKENS, READ, WRITTEN = 64, 128, 192
STEP = Step(batch_size=1, sequence_length=TOKENS)

MEASURABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "ia3": ("IA3Config", {"feedforward_modules": []}),
    "loha": ("LoHaConfig", {"r": 4}),
    "lokr": ("LoKrConfig", {"r": 4}),
    "vera": ("VeraConfig", {"r": 4, "vera_dropout": 0.0}),
    "fourierft": ("FourierFTConfig", {"n_frequency": 10}),
    "hira": ("HiraConfig", {"r": 4}),
    "glora": ("GloraConfig", {"r": 4}),
    "randlora": ("RandLoraConfig", {"r": 4, "randlora_dropout": 0.0}),
}


def _tree() -> Node:
    return Module(children={"lin": Linear(in_features=READ, out_features=WRITTEN)}, bucket="mlp")


def _kept(method: str) -> float:
    adapter = Adapter(method=method, target_modules=("lin",))
    kept = kept_beside(_tree(), adapter, STEP, dtype="bf16", autocast=None, fused=False)
    return float(sum(tensor.size_bytes for tensors in kept.values() for tensor in tensors))


def test_an_update_as_large_as_the_weight_and_a_copy_of_the_input() -> None:
    # fp32: 64 * 128 of the input, and 128 * 192 of the update
    assert _kept("loha") == 4 * (64 * 128 + 128 * 192)


def test_fused_kernels_keep_what_dropout_left_and_nothing_of_the_rank() -> None:
    adapter = Adapter(method="lora", rank=4, target_modules=("lin",), dropout=0.1)
    kept = kept_beside(_tree(), adapter, STEP, dtype="bf16", autocast=None, fused=True)
    assert [tensor.size_bytes for tensor in kept["lin"]] == [2 * 64 * 128]


def test_every_method_of_the_table_is_one_of_the_planner() -> None:
    assert all(Adapter(method=method, target_modules=("lin",)).method == method for method in load_kept())


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
@pytest.mark.parametrize("method", sorted(MEASURABLE))
def test_it_is_what_pefts_layer_keeps(method: str) -> None:
    import peft
    import torch

    name, options = MEASURABLE[method]
    config = getattr(peft, name, None)
    if config is None:
        pytest.skip(f"this peft has no {name}")
    torch.manual_seed(0)
    net = torch.nn.Sequential()
    net.add_module("lin", torch.nn.Linear(READ, WRITTEN, bias=False))
    model = peft.get_peft_model(net.to(torch.bfloat16), config(target_modules=["lin"], **options)).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    read = torch.randn(1, TOKENS, READ, dtype=torch.bfloat16, requires_grad=True) * 1
    sizes: dict[int, int] = {}
    alive = []

    def pack(tensor: Any) -> Any:
        alive.append(tensor.detach())
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(read)
    input_is_kept = read.untyped_storage().data_ptr() in sizes
    measured = sum(size for key, size in sizes.items() if key not in own and key != read.untyped_storage().data_ptr())
    # what has the width of the rank or of a vector is not in the table
    assert _kept(method) == pytest.approx(measured, abs=8 * (TOKENS * 4 + READ + WRITTEN))
    row = next(iter(__import__("planner.nodes", fromlist=["walk"]).walk(_tree())))
    assert shares_input(row, Adapter(method=method, target_modules=("lin",))) == input_is_kept
