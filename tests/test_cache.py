"""Sizes of caches that papers and engines' logs state, and what the fold says of whole models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.cache import (
    CacheGroup,
    Layout,
    Requests,
    Storage,
    bytes_per_token,
    cache_bytes,
    cache_groups,
    fixed_bytes,
    paged,
    pool_bytes_per_token,
    row_name,
    state_block_size,
    storage,
)
from planner.errors import UnknownNameError, UnsupportedError
from planner.families import family
from planner.families.config import read_config
from planner.models import Model, load_model
from planner.nodes import Module, Node
from planner.numeric import Num

TinyConfig = Callable[..., dict[str, Any]]
TinyModel = Callable[..., Model]

BF16 = storage("bf16")


def _tree(name: str) -> Node:
    return load_model(name, offline=True).tree


def _kinds(tree: Node) -> dict[str, tuple[Num, Num | None]]:
    """Layers and window by kind."""
    return {group.kind: (group.copies, group.window) for group in cache_groups(tree)}


@pytest.mark.parametrize(
    ("name", "kept_in", "size"),
    [
        # 2 (k, v) * 32 layers * 8 heads * 128 * 2 B
        ("meta-llama/Meta-Llama-3-8B", BF16, 131_072),
        ("meta-llama/Meta-Llama-3-8B", storage("fp8"), 65_536),
        ("meta-llama/Meta-Llama-3-8B", storage("fp32"), 262_144),
        # 2 * 32 * 8 * (128 / 32 blocks of 34 B)
        ("meta-llama/Meta-Llama-3-8B", storage("q8_0"), 69_632),
        # as many key/value heads as query heads: 2 * 32 * 32 * 128 * 2
        ("codellama/CodeLlama-7b-hf", BF16, 524_288),
        # 61 * (512 + 64) * 2, arXiv:2412.19437: one latent for all heads
        ("deepseek-ai/DeepSeek-V3", BF16, 70_272),
        ("deepseek-ai/DeepSeek-V3", storage("fp8"), 35_136),
        # 61 * 656: FlashMLA's row
        ("deepseek-ai/DeepSeek-V3", storage("fp8-ds-mla"), 40_016),
        # and an indexer's key in every layer: 61 * (656 + 132), or 61 * (576 + 128) * 2
        ("deepseek-ai/DeepSeek-V3.2", storage("fp8-ds-mla"), 48_068),
        ("deepseek-ai/DeepSeek-V3.2", BF16, 85_888),
        ("deepseek-ai/DeepSeek-V3.2", storage("bf16", indexer="fp8-ds-mla"), 61 * (1152 + 132)),
        # only 10 of 62 layers grow: 2 * 10 * 16 * 128 * 2
        ("google/gemma-3-27b-it", BF16, 81_920),
        # only 12 of 24: 2 * 12 * 8 * 64 * 2
        ("openai/gpt-oss-20b", BF16, 24_576),
        # only 12 of 48: 2 * 12 * 2 * 256 * 2
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", BF16, 24_576),
        # only 12 of 48: 2 * 12 * 8 * 128 * 2
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", BF16, 49_152),
        # 21 layers with a key of 512 for 4 tokens and an indexer's of 128, 20 with one of 512 for 128 tokens
        ("deepseek-ai/DeepSeek-V4-Flash", BF16, 21 * (512 + 128) * 2 // 4 + 20 * 512 * 2 // 128),
        ("state-spaces/mamba-2.8b-hf", BF16, 0),
    ],
)
def test_growth_of_a_token(name: str, kept_in: Storage, size: int) -> None:
    assert bytes_per_token(_tree(name), kept_in) == size


LOGS = [
    # name, ranks, format, GiB for the cache, tokens in it, slots of a block
    ("codellama/CodeLlama-7b-hf", 1, "bf16", 61.66, 126_256, 16),
    ("deepseek-ai/DeepSeek-V2-Lite", 1, "bf16", 43.61, 1_505_552, 16),
    ("google/gemma-2-27b", 1, "bf16", 20.59, 58_672, 16),
    ("google/gemma-3-27b-it", 1, "bf16", 19.53, 36_560, 16),
    ("meta-llama/Llama-3.1-8B", 1, "fp8", 58.11, 952_032, 16),
    ("meta-llama/Llama-3.1-8B", 1, "fp32", 42.8, 175_296, 16),
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 4, "bf16", 16.75, 365_968, 16),
    ("mistralai/Mixtral-8x7B-v0.1", 2, "bf16", 28.44, 465_936, 16),
    ("openai/gpt-oss-20b", 1, "bf16", 58.47, 1_277_184, 16),
    ("openai/gpt-oss-20b", 2, "bf16", 59.32, 2_591_776, 16),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", 2, "bf16", 44.59, 973_760, 544),
]
"""Start-up logs of vLLM 0.19.0 on an H100: github jgchn/llm-d-planner@56dc5b7, accuracy/results/v0.19.0/logs; the last
of vLLM 0.10.2, public file index id 7292846353."""


@pytest.mark.parametrize(("name", "tp", "kv", "gib", "tokens", "block"), LOGS)
def test_pools_of_vllm(name: str, tp: int, kv: str, gib: float, tokens: int, block: int) -> None:
    reserved = tokens * pool_bytes_per_token(_tree(name), storage(kv), tp=tp)
    one_block = reserved / tokens * block
    # The log has two decimals, and what is less than a block is left over.
    assert reserved - 0.005 * 2**30 <= gib * 2**30 <= reserved + one_block + 0.005 * 2**30


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # without groups: 62 layers * 2 * 16 * 128 * 2 and not 70
        ("google/gemma-3-27b-it", 507_904),
        # 12 layers with attention alone
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 24_576),
    ],
)
def test_a_pool_without_groups(name: str, size: int) -> None:
    assert pool_bytes_per_token(_tree(name), BF16, grouped=False) == size


def test_heads_are_copied_where_ranks_exceed_them_and_latents_always() -> None:
    qwen, deepseek = _tree("Qwen/Qwen2.5-7B"), _tree("deepseek-ai/DeepSeek-V3")
    # 4 key/value heads: 28 * 2 * 1 * 128 * 2 on 4 ranks and on 8
    assert [pool_bytes_per_token(qwen, BF16, tp=tp) for tp in (1, 2, 4, 8)] == [57_344, 28_672, 14_336, 14_336]
    assert [bytes_per_token(deepseek, BF16, tp=tp) for tp in (1, 8)] == [70_272, 70_272]


def test_a_block_of_a_hybrid_pool_holds_a_state() -> None:
    # vLLM 0.10.2 on 2 ranks, public file index id 7292846353: 544, its states in the type of the model
    assert state_block_size(_tree("Qwen/Qwen3-Next-80B-A3B-Instruct"), storage("bf16", state="bf16"), tp=2) == 544
    with pytest.raises(UnsupportedError, match="only one of them"):
        state_block_size(_tree("meta-llama/Meta-Llama-3-8B"), BF16)


def test_layers_with_a_window_stop_growing() -> None:
    memory = cache_bytes(_tree("google/gemma-3-27b-it"), Requests(tokens=131_072), BF16)
    # 10 layers keep all, 52 the last 1,024; 2 * 16 * 128 * 2 = 8,192 B a token and layer
    assert memory.size_of("cache: full") == 10 * 8192 * 131_072
    assert memory.size_of("cache: sliding") == 52 * 8192 * 1024
    assert {row.basis for row in memory.rows} == {"exact"}
    short = cache_bytes(_tree("google/gemma-3-27b-it"), Requests(tokens=1000, sequences=3), BF16)
    assert short.total_bytes == 3 * 62 * 8192 * 1000


def test_a_window_keeps_a_piece_of_a_prompt_as_well() -> None:
    tree = _tree("openai/gpt-oss-20b")
    memory = cache_bytes(tree, Requests(tokens=16_384, new_tokens=2048), BF16)
    # 12 layers of 2,048 B a token: 127 tokens that the first new one sees, and 2,048 new ones
    assert memory.size_of("cache: sliding") == 12 * 2048 * (127 + 2048)
    assert memory.size_of("cache: full") == 12 * 2048 * 16_384


def test_kinds_of_layers() -> None:
    assert _kinds(_tree("meta-llama/Llama-4-Scout-17B-16E-Instruct")) == {"chunked": (36, 8192), "full": (12, None)}
    assert _kinds(_tree("openai/gpt-oss-20b")) == {"sliding": (12, 128), "full": (12, None)}
    assert _kinds(_tree("Qwen/Qwen3-Next-80B-A3B-Instruct")).keys() == {"full", "state", "convolution"}
    # 25 layers with a window and 5 without; none looks at another's keys
    assert _kinds(_tree("google/gemma-4-26B-A4B")) == {"sliding": (25, 1024), "full": (5, None)}
    assert _kinds(_tree("bert-base-uncased")) == {}


def test_a_layer_that_looks_at_anothers_keys_keeps_none(tiny_model: TinyModel) -> None:
    # 5 layers, of which the last 2 share
    assert sum(group.copies for group in cache_groups(tiny_model("gemma4_text").tree)) == 3


def test_states_of_fixed_size() -> None:
    # 64 layers * 5,120 channels * (3 inputs in bf16 + 16 numbers in fp32)
    assert fixed_bytes(_tree("state-spaces/mamba-2.8b-hf"), BF16) == 64 * 5120 * (3 * 2 + 16 * 4)
    # 36 layers: 8,192 channels * 3 inputs in bf16, 32 heads * 128 * 128 in fp32
    assert fixed_bytes(_tree("Qwen/Qwen3-Next-80B-A3B-Instruct"), BF16) == 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    # 12 layers of 768: the last input of both mixings in bf16, three numbers a channel in fp32
    assert fixed_bytes(_tree("RWKV/rwkv-4-169m-pile"), BF16) == 12 * 768 * (2 * 2 + 3 * 4)
    short, long = (
        cache_bytes(_tree("state-spaces/mamba-2.8b-hf"), Requests(tokens=tokens), BF16) for tokens in (1, 10**6)
    )
    assert short == long


def test_an_encoders_tokens_are_cached_once_a_request() -> None:
    t5 = cache_bytes(_tree("google-t5/t5-base"), Requests(tokens=10, source_tokens=512, sequences=4), BF16)
    # 12 layers * 2 * 12 heads * 64 * 2 B
    assert t5.size_of("cache: full") == 4 * 10 * 36_864
    assert t5.size_of("cache: cross") == 4 * 512 * 36_864
    # Whisper's encoder has 1,500 positions whatever is said; small: 12 layers * 2 * 768 * 2 B
    whisper = cache_bytes(_tree("openai/whisper-small"), Requests(tokens=10), BF16)
    assert whisper.size_of("cache: cross") == 1500 * 36_864


def test_images_are_cached_by_the_layers_that_look_at_them() -> None:
    tree = _tree("meta-llama/Llama-3.2-11B-Vision-Instruct")
    memory = cache_bytes(tree, Requests(tokens=100, images=2), BF16)
    # 8 layers * 2 * 8 heads * 128 * 2 B for 4 tiles of 1,601 positions, and 32 layers for the text
    assert memory.size_of("cache: image") == 2 * 4 * 1601 * 8 * 4096
    assert memory.size_of("cache: full") == 100 * 32 * 4096


def test_stages_add_up_to_the_model() -> None:
    tree = _tree("google/gemma-3-27b-it")
    requests = Requests(tokens=5000, sequences=2)
    stages = [range(31), range(31, 62)]
    parts = [cache_bytes(tree, requests, BF16, layers=stage).total_bytes for stage in stages]
    assert sum(parts) == cache_bytes(tree, requests, BF16).total_bytes
    # every sixth layer from the sixth on is full: 5 of the first 31
    assert [group.copies for group in cache_groups(tree, layers=stages[0])] == [26, 5]


def test_blocks_are_whole() -> None:
    tree = _tree("meta-llama/Meta-Llama-3-8B")
    requests = paged(Requests(tokens=17, sequences=2), 16)
    assert cache_bytes(tree, requests, BF16).total_bytes == 2 * 32 * 131_072


def test_layouts_of_transformers() -> None:
    tree = _tree("google/gemma-3-27b-it")
    layouts: tuple[Layout, ...] = ("engine", "dynamic", "static")
    memories = [cache_bytes(tree, Requests(tokens=10_000), BF16, layout=layout) for layout in layouts]
    # a window of 1,024, of which the growing cache keeps what the next token sees; 52 layers of 8,192 B a token
    assert [memory.size_of("cache: sliding") for memory in memories] == [
        52 * 8192 * kept for kept in (1024, 1023, 1024)
    ]
    mamba = _tree("state-spaces/mamba-130m-hf")
    inputs = [cache_bytes(mamba, Requests(tokens=1), BF16, layout=layout).rows[0].size_bytes for layout in layouts]
    # 24 layers * 1,536 channels * 2 B of the 3 inputs that a kernel of 4 needs; transformers keeps 4
    assert inputs == [24 * 1536 * 2 * kept for kept in (3, 4, 4)]


def test_a_row_names_its_sources() -> None:
    (row,) = cache_bytes(_tree("meta-llama/Meta-Llama-3-8B"), Requests(tokens=1), storage("fp8")).rows
    assert row.name == row_name("full")
    assert "fp8" in row.source
    assert "vLLM" in row.source


def test_a_format_of_latents_refuses_other_models() -> None:
    with pytest.raises(UnsupportedError, match="no keys"):
        bytes_per_token(_tree("meta-llama/Meta-Llama-3-8B"), storage("fp8-ds-mla"))
    with pytest.raises(UnknownNameError):
        storage("bf61")


def test_columns_of_requests_and_ranks_equal_their_elements(tiny_model: TinyModel, tiny_type: str) -> None:
    tree = tiny_model(tiny_type).tree
    tokens, sequences = np.array([0.0, 5.0, 8.0, 23.0]), np.array([1.0, 2.0, 3.0, 4.0])
    source, tp = np.array([3.0, 9.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0, 8.0])
    columns = Requests(tokens=tokens, sequences=sequences, source_tokens=source, images=1)
    found = cache_bytes(tree, columns, BF16, tp=tp)
    for at in range(4):
        single = Requests(tokens=int(tokens[at]), sequences=int(sequences[at]), source_tokens=int(source[at]), images=1)
        alone = cache_bytes(tree, single, BF16, tp=int(tp[at]))
        assert [row.name for row in alone.rows] == [row.name for row in found.rows]
        for row in alone.rows:
            assert np.broadcast_to(found.size_of(row.name), (4,))[at] == row.size_bytes
    for fold in (bytes_per_token, pool_bytes_per_token, fixed_bytes):
        column = np.broadcast_to(fold(tree, BF16, tp=tp), (4,))
        assert list(column) == pytest.approx([fold(tree, BF16, tp=int(each)) for each in tp], rel=1e-15)


@pytest.mark.parametrize(
    ("model_type", "columns"),
    [
        ("llama", {"num_hidden_layers": [1, 5], "num_key_value_heads": [2, 6], "head_dim": [16, 64]}),
        ("deepseek_v3", {"kv_lora_rank": [16, 512], "qk_rope_head_dim": [4, 64]}),
        ("mamba", {"state_size": [6, 16], "num_hidden_layers": [2, 3], "intermediate_size": [56, 64]}),
        ("mistral", {"sliding_window": [4, 4096]}),
    ],
)
def test_columns_of_dimensions_equal_their_elements(
    tiny_config: TinyConfig, model_type: str, columns: dict[str, list[int]]
) -> None:
    raw, known = tiny_config(model_type), family(model_type)
    config, _ = read_config(known.config, raw, "tiny")
    build = known.classes[known.default_class]
    requests = Requests(tokens=100, sequences=2)
    both = config.replaced({key: np.array(values, dtype=float) for key, values in columns.items()})
    found = np.asarray(cache_bytes(build(both), requests, BF16).total_bytes)
    for at in range(2):
        single = config.replaced({key: values[at] for key, values in columns.items()})
        assert found[at] == cache_bytes(build(single), requests, BF16).total_bytes


def test_a_swept_number_of_layers_has_no_stages(tiny_config: TinyConfig) -> None:
    known = family("llama")
    config, _ = read_config(known.config, tiny_config("llama"), "tiny")
    swept = known.classes[known.default_class](config.replaced({"num_hidden_layers": np.array([2.0, 3.0])}))
    with pytest.raises(UnsupportedError, match="swept"):
        cache_groups(swept, layers=range(2))


def test_symbols_give_the_formula() -> None:
    sympy = pytest.importorskip("sympy")
    known = family("llama")
    config, _ = read_config(known.config, {"model_type": "llama"}, "tiny")
    heads, width, layers = sympy.symbols("heads width layers", positive=True, integer=True)
    tree = known.classes[known.default_class](
        config.replaced({"num_key_value_heads": heads, "head_dim": width, "num_hidden_layers": layers})
    )
    (group,) = cache_groups(tree)
    assert group.copies * group.elements_per_key == 2 * layers * heads * width


def test_a_module_that_keeps_nothing() -> None:
    assert cache_groups(Module()) == ()
    assert cache_bytes(Module(), Requests(tokens=5), BF16).rows == ()
    assert CacheGroup(kind="state", paths=(), copies=1, indices=None).elements_per_key == 0
