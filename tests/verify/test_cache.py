"""The caches that real models fill, byte for byte and layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from planner.cache import Requests, cache_bytes, cache_groups, storage
from planner.errors import UnsupportedError
from planner.models import Model, load_model
from planner.verify.cache import CacheCheck, check_cache, measure_cache
from planner.verify.cache_run import Layer
from planner.workload import Step

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

CHANGES: dict[str, dict[str, Any]] = {
    # the class multiplies its state with the width of the model, and runs with no other width of attention
    "rwkv": {"attention_hidden_size": 48},
}

AS_LONG = {"t5": {"num_decoder_layers": 2}, "mt5": {"num_decoder_layers": 2}}
"""A static cache of transformers has as many layers as T5's encoder."""

NO_STATIC = {
    "deepseek_v4": "compressed_sparse_attention",
    "rwkv": "takes no static cache",
}
"""Model types whose classes have none, and what is said then."""

NO_FAKE = {
    "dbrx": "loop over the experts",
    "deepseek_v4": "cannot build",
    "longcat_flash": "loop over the experts",
}
"""Model types that cannot run without values."""


def _check(tiny_model: TinyModel, model_type: str, step: Step, **options: Any) -> CacheCheck | None:
    """What is found of a model that generates; None for one that does not."""
    changes = CHANGES.get(model_type, {}) | (AS_LONG.get(model_type, {}) if options.get("cache") == "static" else {})
    model = tiny_model(model_type, **changes)
    if not cache_groups(model.tree):
        with pytest.raises(UnsupportedError, match="keeps no cache"):
            measure_cache(model, step)
        return None
    return check_cache(model, step, **options)


# beyond the windows of 8, where pools of 2 and 5 are not whole; token by token; before any window is full
@pytest.mark.parametrize(("past", "new"), [(0, 23), (22, 1), (2, 3)])
def test_growing_caches(tiny_model: TinyModel, tiny_type: str, past: int, new: int) -> None:
    step = Step(batch_size=2, past=past, sequence_length=new, source_length=9)
    found = _check(tiny_model, tiny_type, step)
    assert found is None or (found.measured and found.differences == [] and found.exact)


# longer than the windows, and shorter
@pytest.mark.parametrize("new", [23, 5])
def test_static_caches(tiny_model: TinyModel, tiny_type: str, new: int) -> None:
    # T5Gemma's would see its encoder through a window of 8
    step = Step(batch_size=2, sequence_length=new, source_length=8)
    if tiny_type in NO_STATIC:
        with pytest.raises(UnsupportedError, match=NO_STATIC[tiny_type]):
            _check(tiny_model, tiny_type, step, cache="static")
        return
    found = _check(tiny_model, tiny_type, step, cache="static")
    assert found is None or (found.measured and found.differences == [] and found.exact)


def test_fake_tensors_in_bf16(tiny_model: TinyModel, tiny_type: str) -> None:
    step = Step(batch_size=3, sequence_length=13, source_length=9)
    if tiny_type in NO_FAKE:
        with pytest.raises(UnsupportedError, match=NO_FAKE[tiny_type]):
            _check(tiny_model, tiny_type, step, tensors="fake")
        return
    found = _check(tiny_model, tiny_type, step, tensors="fake")
    assert found is None or (found.measured and found.differences == [] and found.exact)


@pytest.mark.parametrize("model_type", ["mamba", "mamba2", "jamba", "zamba", "nemotron_h", "qwen3_next", "deepseek_v4"])
def test_states_stay_in_fp32_where_a_model_runs_in_bf16(tiny_model: TinyModel, model_type: str) -> None:
    found = _check(tiny_model, model_type, Step(sequence_length=23), dtype=torch.bfloat16)
    assert found is not None
    assert found.differences == []


@pytest.mark.parametrize(
    "model_type", ["gemma3", "gemma4", "llama4", "llava", "mllama", "paligemma", "qwen2_vl", "qwen3_vl"]
)
def test_images(tiny_model: TinyModel, model_type: str) -> None:
    model = tiny_model(model_type)
    for step in (Step(batch_size=2, sequence_length=12, images=1), Step(past=12, sequence_length=1, images=1)):
        assert check_cache(model, step).differences == []


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gemma3_text", "gpt_oss", "llama4_text", "phi3"])
def test_what_a_slice_holds_on_to(tiny_model: TinyModel, model_type: str) -> None:
    model = tiny_model(model_type)
    requests, fp32 = Requests(sequences=2, tokens=23), storage("fp32", activations="fp32")
    # A slice of a prompt holds on to all of it; with the next token, it is made anew and holds a window.
    after_prompt = measure_cache(model, Step(batch_size=2, sequence_length=23)).held_bytes
    after_token = measure_cache(model, Step(batch_size=2, past=22, sequence_length=1)).held_bytes
    # 2 sequences in fp32
    unwindowed = sum(group.copies * group.elements_per_key * 23 * 2 * 4 for group in cache_groups(model.tree))
    assert after_prompt == unwindowed
    assert after_token == cache_bytes(model.tree, requests, fp32).total_bytes


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # bf16, 2 sequences of 1,500 tokens: 131,072 B a token
        ("meta-llama/Meta-Llama-3-8B", 2 * 1500 * 131_072),
        # 70,272 B: latents, and not the keys and values that are made of them
        ("deepseek-ai/DeepSeek-V3", 2 * 1500 * 70_272),
        # and 61 keys of an indexer, 128 wide
        ("deepseek-ai/DeepSeek-V3.2", 2 * 1500 * (70_272 + 61 * 128 * 2)),
        # 10 layers keep all and 52 the last 1,023: 8,192 B a token and layer
        ("google/gemma-3-27b-it", 2 * 8192 * (10 * 1500 + 52 * 1023)),
        # 12 layers keep all and 12 the last 127: 2,048 B
        ("openai/gpt-oss-20b", 2 * 2048 * 12 * (1500 + 127)),
        # 12 layers of 2,048 B a token; 36 with 4 inputs of 8,192 channels and 32 states of 128 * 128 in fp32
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 2 * (12 * 2048 * 1500 + 36 * (4 * 8192 * 2 + 32 * 128 * 128 * 4))),
        # 8,192 tokens of a chunk are more than there are: 48 layers of 4,096 B
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 2 * 1500 * 48 * 4096),
    ],
)
def test_models_of_full_size(name: str, size: int) -> None:
    step = Step(batch_size=2, sequence_length=1500)
    found = check_cache(load_model(name, offline=True), step, tensors="fake")
    assert found.differences == []
    assert sum(found.measured.values()) == size


def test_a_difference_is_told_by_layer() -> None:
    expected: dict[Layer, int] = {("self", 0): 8, ("self", 1): 8}
    measured: dict[Layer, int] = {("self", 0): 8, ("cross", 2): 4}
    check = CacheCheck(expected=expected, measured=measured, held_bytes=12)
    assert not check.exact
    assert check.differences == [
        "cross layer 2: 0 B expected, 4 B in the real cache",
        "self layer 1: 8 B expected, 0 B in the real cache",
    ]


@pytest.mark.parametrize(
    ("model_type", "class_name", "changes"),
    [
        ("bert", "BertLMHeadModel", {"is_decoder": True}),
        ("roberta", "RobertaForCausalLM", {"is_decoder": True}),
        # the decoder alone holds its cross-attention and does not use it; its cache has as many layers as the encoder
        ("bart", "BartForCausalLM", {"decoder_layers": 2}),
        ("falcon", None, {"new_decoder_architecture": False, "multi_query": True}),
        ("falcon", None, {"new_decoder_architecture": False, "multi_query": False, "num_kv_heads": None}),
        ("gpt_neo", None, {"window_size": 8}),
        ("qwen3_moe", None, {"use_sliding_window": True, "sliding_window": 8}),
    ],
)
def test_other_classes_and_switches(
    tiny_model: TinyModel, model_type: str, class_name: str | None, changes: dict[str, object]
) -> None:
    found = check_cache(tiny_model(model_type, class_name, **changes), Step(batch_size=2, sequence_length=23))
    assert found.measured
    assert found.differences == []
