"""llama.cpp, transformers' generate, and the table of caches."""

from __future__ import annotations

import numpy as np
import pytest

from planner.cache import Requests, cache_bytes, storage
from planner.errors import UnknownNameError
from planner.formats import find_format
from planner.models import load_model
from planner.quantisation import stored_weights
from planner.serving.comparison import compare_caches
from planner.serving.generate import GenerateOptions, generate_memory
from planner.serving.llama_cpp import LlamaOptions, serve_llama

MIB, GIB = 2**20, 2**30
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"
LLAMA = "meta-llama/Llama-3.1-8B"


def test_layers_are_shared_with_the_output_matrix_as_one() -> None:
    # ollama/ollama#3158: 16228.09 and 14421.47 MiB of weights, 1062.50 and 937.50 of cache, 1083.28 of computing
    model = load_model(MIXTRAL, offline=True)
    served = serve_llama(model, LlamaOptions(bits_per_weight=5.52, gpus=2, ctx_size=16000))
    first, second = served.devices
    assert (len(first.layers), len(second.layers)) == (17, 15)
    assert (first.cache_bytes / MIB, second.cache_bytes / MIB) == (1062.5, 937.5)
    assert first.weights_bytes / MIB == pytest.approx(16228.09, rel=0.003)
    assert second.weights_bytes / MIB == pytest.approx(14421.47, rel=0.003)
    assert first.compute_bytes / MIB == pytest.approx(1083.28, rel=0.02)
    assert served.host.weights_bytes / MIB == pytest.approx(85.94, rel=0.05)


@pytest.mark.parametrize("weights", ["q4_k_m", "q8_0", "f16", "q5_k_m"])
@pytest.mark.parametrize("layers", [None, 0, 1, 20, 33, 99])
def test_devices_and_host_hold_the_file(weights: str, layers: int | None) -> None:
    model = load_model(LLAMA, offline=True)
    served = serve_llama(model, LlamaOptions(weights=weights, n_gpu_layers=layers, gpus=2))
    held = sum(device.weights_bytes for device in (*served.devices, served.host))
    stored = stored_weights(model.tree, find_format(f"gguf-{weights}"))
    assert held == stored.codes + stored.scales
    seen = [layer for device in (*served.devices, served.host) for layer in device.layers]
    assert sorted(seen) == list(range(32))


def test_a_tied_table_is_on_the_host_and_on_the_last_device() -> None:
    model = load_model("Qwen/Qwen2.5-0.5B", offline=True)
    served = serve_llama(model, LlamaOptions(weights="f16"))
    table = 151936 * 896 * 2
    assert served.host.weights_bytes == table
    stored = stored_weights(model.tree, find_format("gguf-f16"))
    assert served.devices[0].weights_bytes == stored.codes + stored.scales


def test_a_quantised_cache_and_flash_attention() -> None:
    model = load_model(LLAMA, offline=True)
    plain = serve_llama(model, LlamaOptions(weights="q4_k_m", ctx_size=8192)).devices[0]
    lean = serve_llama(
        model, LlamaOptions(weights="q4_k_m", ctx_size=8192, cache_type="q8_0", flash_attn=True)
    ).devices[0]
    # 34 bytes for 32 numbers
    assert lean.cache_bytes * 64 == plain.cache_bytes * 34
    assert lean.compute_bytes < plain.compute_bytes
    assert plain.total_bytes == sum(row.size_bytes for row in plain.rows)


def test_an_unknown_file_type_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="'gguf IQ4_K' is no type of a GGUF file"):
        serve_llama(load_model(LLAMA, offline=True), LlamaOptions(weights="gguf IQ4_K"))


def test_a_growing_cache_keeps_a_layer_twice() -> None:
    model = load_model(LLAMA, offline=True)
    memory = generate_memory(model, GenerateOptions(batch_size=64, prompt=16, new_tokens=8176))
    # 64 sequences, 8191 tokens before the last, keys of one layer: 8 * 128 * 2 B; and one token in each MLP
    keys = 64 * 8191 * 8 * 128 * 2
    assert memory.size_of("step") == keys + 64 * (3 * 14336 + 3 * 4096) * 2
    assert memory.size_of("cache: full") == 64 * 8192 * 131072
    # one position of each sequence, in bf16 and in fp32
    assert memory.size_of("logits") == 64 * 128256 * (2 + 4)
    assert memory.size_of("weights") == 8_030_261_248 * 2


def test_a_static_cache_is_as_long_as_it_will_be() -> None:
    model = load_model("google/gemma-3-1b-it", offline=True)
    memory = generate_memory(model, GenerateOptions(prompt=1000, new_tokens=7192, cache="static"))
    kept = cache_bytes(model.tree, Requests(tokens=8192), storage("bf16"), layout="static")
    assert {row.name: row.size_bytes for row in kept.rows}.items() <= {
        row.name: row.size_bytes for row in memory.rows
    }.items()


def test_generate_on_columns() -> None:
    model = load_model(LLAMA, offline=True)
    batches, prompts = [1, 4, 64], [16, 1024, 8192]
    column = generate_memory(
        model,
        GenerateOptions(batch_size=np.array(batches, dtype=np.float64), prompt=np.array(prompts, dtype=np.float64)),
    )
    alone = [
        generate_memory(model, GenerateOptions(batch_size=batch, prompt=prompt)).total_bytes
        for batch, prompt in zip(batches, prompts, strict=True)
    ]
    np.testing.assert_array_equal(column.total_bytes, alone)


def test_quantised_weights_of_generate() -> None:
    model = load_model(LLAMA, offline=True)
    memory = generate_memory(model, GenerateOptions(quantization="nf4"))
    stored = stored_weights(model.tree, find_format("nf4"))
    assert memory.size_of("weights") == stored.codes + stored.scales


def test_caches_that_the_uniform_formula_misses() -> None:
    rows = {row.model.rpartition("/")[2]: row for row in compare_caches()}
    # 61 layers * (512 + 64) * 2 B, against 2 * 61 * 128 heads * 56 * 2 B
    assert rows["DeepSeek-V3"].token_bytes == 61 * 576 * 2
    assert rows["DeepSeek-V3"].uniform_token_bytes == 1_748_992
    assert rows["DeepSeek-V3"].ratio == pytest.approx(24.9, abs=0.05)
    # gpt-oss-120b: 36 layers, half of them with a window of 128: 18 * 131,072 + 18 * 128 tokens of 2 * 8 * 64 * 2 B
    assert rows["gpt-oss-120b"].request_bytes == 18 * (131072 + 128) * 2048
    # Gemma-3-27B: 10 of 62 layers without a window of 1024, 2 * 16 * 128 * 2 B
    assert rows["gemma-3-27b-it"].request_bytes == (10 * 131072 + 52 * 1024) * 8192
    # Qwen3-Next: 12 of 48 layers keep 2 * 2 * 256 * 2 B a token; 36 keep states
    assert rows["Qwen3-Next-80B-A3B-Instruct"].token_bytes == 12 * 2048
    # Llama-4-Scout: 12 of 48 layers see everything, the others pieces of 8192: 2 * 8 * 128 * 2 B
    assert rows["Llama-4-Scout-17B-16E-Instruct"].request_bytes == (12 * 131072 + 36 * 8192) * 4096
