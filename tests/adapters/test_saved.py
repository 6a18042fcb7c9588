"""What LoRA keeps for backward: by hand, and byte for byte what peft's layers keep."""

import collections
import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.activations import SavedTensor
from planner.adapters import Adapter, adapter_saved, keeps_own_input
from planner.errors import UnsupportedError
from planner.models import build_model
from planner.nodes import Linear, Module
from planner.sources import ConfigSource
from planner.workload import Step

TinyConfig = Callable[..., dict[str, Any]]

STEP = Step(batch_size=2, sequence_length=8)
TOKENS = 16


def sizes(saved: tuple[SavedTensor, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in saved:
        found[one.name] = found.get(one.name, 0) + one.size_bytes * one.copies
    return found


def one_matrix(**values: Any) -> tuple[Module, Adapter]:
    tree = Module(children={"q_proj": Linear(in_features=32, out_features=48, bucket="attention")})
    return tree, Adapter(rank=4, target_modules=("q_proj",), **values)


def test_an_input_is_kept_once_where_dtypes_agree_and_copied_where_not() -> None:
    tree, adapter = one_matrix(method="lora")
    # 16 tokens * 32 * 4 B, 16 * 4 * 4 B
    assert sizes(adapter_saved(tree, adapter, STEP, dtype="fp32")) == {"adapter input": 2048, "low rank": 256}
    assert sizes(adapter_saved(tree, adapter, STEP, dtype="bf16")) == {"input copy": 2048, "low rank": 256}
    # under autocast what is multiplied is bf16, the weights as well: (4 * 32 + 48 * 4) * 2 B
    under = sizes(adapter_saved(tree, adapter, STEP, dtype="bf16", autocast="bf16"))
    assert under == {"input copy": 1024, "low rank": 128, "weight casts": 640}
    assert [keeps_own_input(adapter, dtype) for dtype in ("fp32", "bf16")] == [False, True]


def test_a_dropped_input_leaves_a_mask_on_cuda_and_a_factor_elsewhere() -> None:
    tree, adapter = one_matrix(method="lora", dropout=0.1)
    assert sizes(adapter_saved(tree, adapter, STEP, dtype="bf16", device="cuda"))["dropout"] == TOKENS * 32
    assert sizes(adapter_saved(tree, adapter, STEP, dtype="bf16"))["dropout"] == TOKENS * 32 * 4


def test_a_frozen_first_factor_needs_no_input() -> None:
    tree, adapter = one_matrix(method="lora-fa")
    assert sizes(adapter_saved(tree, adapter, STEP, dtype="bf16")) == {"low rank": 256}


def test_modules_that_read_one_tensor_keep_it_once(tiny_config: TinyConfig) -> None:
    model = build_model(ConfigSource(name="llama", raw=tiny_config("llama"), origin="tiny"))
    adapter = Adapter(method="lora", rank=4, target_modules="all-linear")
    kept = [one.path.rpartition(".")[2] for one in adapter_saved(model.tree, adapter, STEP, dtype="fp32")]
    names = [one.name for one in adapter_saved(model.tree, adapter, STEP, dtype="fp32")]
    inputs = [path for path, name in zip(kept, names, strict=True) if name == "adapter input"]
    assert inputs == ["q_proj", "o_proj", "gate_proj", "down_proj"]


def test_columns_equal_each_row_alone() -> None:
    ranks, lengths = np.array([2.0, 4.0, 9.0]), np.array([8.0, 16.0, 128.0])
    tree, _ = one_matrix(method="dora")

    def kept(rank: Any, length: Any) -> dict[str, Any]:
        adapter = Adapter(method="dora", rank=rank, target_modules=("q_proj",))
        return sizes(adapter_saved(tree, adapter, Step(batch_size=2, sequence_length=length), dtype="bf16"))

    column = kept(ranks, lengths)
    alone = [kept(int(rank), int(length)) for rank, length in zip(ranks, lengths, strict=True)]
    for name, size in column.items():
        assert np.broadcast_to(size, 3).tolist() == [one[name] for one in alone]


def test_other_methods_are_refused() -> None:
    tree = one_matrix(method="lora")[0]
    with pytest.raises(UnsupportedError, match="what 'vera' keeps"):
        adapter_saved(tree, Adapter(method="vera", target_modules=("q_proj",)), STEP, dtype="fp32")


class _Held:
    """A tensor that autograd keeps; alive for as long as autograd keeps it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor.detach()


def alive(model: Any, run: Callable[[], Any]) -> dict[int, int]:
    """Storages that autograd keeps beside the model's own, and their sizes."""
    import torch

    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    held: weakref.WeakSet[_Held] = weakref.WeakSet()

    def pack(tensor: Any) -> _Held:
        one = _Held(tensor)
        held.add(one)
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
        output = run()
    gc.collect()
    storages = {one.tensor.untyped_storage() for one in held}
    found = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in own}
    del output
    return found


CASES: list[dict[str, Any]] = [
    {"dtype": "fp32"},
    {"dtype": "bf16"},
    {"dtype": "bf16", "adapter": "bf16"},
    {"dtype": "fp32", "dropout": 0.1},
    {"dtype": "bf16", "dropout": 0.1},
    {"dtype": "bf16", "autocast": "bf16"},
    {"dtype": "bf16", "autocast": "bf16", "dropout": 0.1},
    {"dtype": "fp32", "method": "dora"},
    {"dtype": "bf16", "method": "dora"},
    {"dtype": "bf16", "method": "dora", "dropout": 0.1},
    {"dtype": "bf16", "method": "dora", "autocast": "bf16"},
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_one_layer_keeps_what_pefts_layer_keeps(case: dict[str, Any]) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    method, dropout, own = case.get("method", "lora"), case.get("dropout", 0.0), case.get("adapter", "fp32")

    class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = torch.nn.Linear(32, 48, bias=False)

        def forward(self, tokens: Any) -> Any:
            return self.q_proj(tokens)

    config = peft.LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=dropout, use_dora=method == "dora")
    net = peft.get_peft_model(Net().to(dtypes[case["dtype"]]), config, autocast_adapter_dtype=own == "fp32")
    tokens = torch.randn(2, 8, 32, dtype=dtypes[case["dtype"]], requires_grad=True)
    autocast = case.get("autocast")

    def run() -> Any:
        under: Any = torch.autocast("cpu", dtype=dtypes[autocast]) if autocast else contextlib.nullcontext()
        with under:
            return net.train()(tokens)

    tree, adapter = one_matrix(method=method, dtype=own, dropout=dropout)
    saved = adapter_saved(tree, adapter, STEP, dtype=case["dtype"], autocast=autocast)
    assert sum(alive(net, run).values()) == sum(one.size_bytes for one in saved)


def whole_model(raw: dict[str, Any], class_name: str, dtype: Any, config: Any) -> dict[int, int]:
    import peft
    import torch

    from planner.real.build import build

    real: Any = build(raw, class_name, "tiny", dtype=dtype, device="cpu", attention="sdpa", experts="grouped_mm")
    # what enters the blocks has a gradient, as with enable_input_require_grads
    real.get_input_embeddings().register_forward_hook(lambda _, __, output: output.requires_grad_(True))
    run_on = real.requires_grad_(False) if config is None else peft.get_peft_model(real, config)
    tokens = torch.zeros((2, 8), dtype=torch.long) + torch.arange(8)
    return alive(run_on, lambda: run_on.train()(input_ids=tokens, labels=tokens).loss)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_whole_model_keeps_so_much_more_than_its_frozen_base(tiny_config: TinyConfig) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    raw = tiny_config("llama")
    model = build_model(ConfigSource(name="llama", raw=raw, origin="tiny"))
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapter = Adapter(method="lora", rank=4, target_modules=tuple(names))
    config = peft.LoraConfig(r=4, target_modules=names)
    frozen = whole_model(raw, "LlamaForCausalLM", torch.bfloat16, None)
    with_lora = whole_model(raw, "LlamaForCausalLM", torch.bfloat16, config)
    saved = adapter_saved(model.tree, adapter, STEP, dtype="bf16")
    assert sum(with_lora.values()) - sum(frozen.values()) == sum(sizes(saved).values())
    frozen = whole_model(raw, "LlamaForCausalLM", torch.float32, None)
    with_lora = whole_model(raw, "LlamaForCausalLM", torch.float32, config)
    saved = adapter_saved(model.tree, adapter, STEP, dtype="fp32")
    # what o_proj reads is the attention's output, which its kernel keeps anyway
    shared = sum(
        one.size_bytes * one.copies for one in saved if one.path.endswith("o_proj") and one.name == "adapter input"
    )
    assert sum(with_lora.values()) - sum(frozen.values()) == sum(sizes(saved).values()) - shared


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fused_experts_keep_their_weights_with_the_update(tiny_config: TinyConfig) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    raw = tiny_config("qwen3_moe")
    model = build_model(ConfigSource(name="qwen3_moe", raw=raw, origin="tiny"))
    targets = ("experts.gate_up_proj", "experts.down_proj")
    adapter = Adapter(method="lora", rank=4, target_parameters=targets)
    config = peft.LoraConfig(r=4, target_modules=[], target_parameters=list(targets))
    frozen = whole_model(raw, "Qwen3MoeForCausalLM", torch.bfloat16, None)
    with_lora = whole_model(raw, "Qwen3MoeForCausalLM", torch.bfloat16, config)
    saved = adapter_saved(model.tree, adapter, STEP, dtype="bf16")
    assert sum(with_lora.values()) - sum(frozen.values()) == sum(sizes(saved).values())
    assert collections.Counter(one.name for one in saved)["gate_up_proj with its update"] == 1
