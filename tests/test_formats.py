"""Sizes that others publish for quantised checkpoints, and what each format does to each kind of tensor."""

from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

import planner
from planner import formats
from planner.counts import count
from planner.errors import CatalogError, UnknownNameError
from planner.families import family
from planner.families.config import read_config
from planner.formats import LayerRule, find_dtype, find_format, load_dtypes, load_formats
from planner.memory import SCALES, WEIGHTS, Memory, inference_memory
from planner.models import load_model
from planner.nodes import Convolution, Embedding, Linear, Module, Node, Norm, Tied, walk
from planner.numeric import Num
from planner.quantisation import layers_chosen_below, spans
from planner.sweep import sweep
from planner.units import GB, GIB, MIB

LLAMA_8B = "meta-llama/Llama-3.1-8B"
LLAMA_70B = "meta-llama/Llama-3.1-70B"
LLAMA_2_7B = "meta-llama/Llama-2-7b-hf"
MIXTRAL = "mistralai/Mixtral-8x7B-v0.1"


@cache
def _tree(model: str) -> Node:
    return load_model(model).tree


def _memory(model: str, name: str) -> Memory:
    return inference_memory(_tree(model), find_format(name))


def _bytes(model: str, name: str) -> float:
    total = _memory(model, name).total_bytes
    assert isinstance(total, int)
    return total


# GGUF ---------------------------------------------------------------------------------------------------------------

# llama.cpp, tools/quantize/README.md: bits a weight of every mixture, of 8,030,261,248 parameters
BITS_PER_WEIGHT = {
    "IQ1_S": 2.0042,
    "IQ1_M": 2.1460,
    "IQ2_XXS": 2.3824,
    "IQ2_XS": 2.5882,
    "IQ2_S": 2.7403,
    "IQ2_M": 2.9294,
    "IQ3_XXS": 3.2548,
    "IQ3_XS": 3.4977,
    "IQ3_S": 3.6606,
    "IQ3_M": 3.7628,
    "IQ4_XS": 4.4597,
    "IQ4_NL": 4.6818,
    "Q2_K_S": 2.9697,
    "Q2_K": 3.1593,
    "Q3_K_S": 3.6429,
    "Q3_K_M": 3.9960,
    "Q3_K_L": 4.2979,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_S": 5.5704,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
}


@pytest.mark.parametrize(("name", "bits"), BITS_PER_WEIGHT.items())
def test_a_mixture_has_the_bits_a_weight_that_llama_cpp_publishes(name: str, bits: float) -> None:
    assert 8 * _bytes(LLAMA_8B, name) / 8_030_261_248 == pytest.approx(bits, abs=6e-5)  # four decimals


# huggingface.co/ddh0/UnquantizedEmbeddingTesting, sizes.txt: files of Meta-Llama-3-8B-Instruct, to the byte
FILE_BYTES = {
    "Q2_K": 3_179_131_168,
    "Q3_K_S": 3_664_498_976,
    "Q3_K_M": 4_018_917_664,
    "Q3_K_L": 4_321_956_128,
    "Q4_K_S": 4_692_668_704,
    "Q4_K_M": 4_920_733_984,
}
BF16_FILE_BYTES = 16_068_890_912


@pytest.mark.parametrize(("name", "size"), FILE_BYTES.items())
def test_a_file_is_its_tensors_and_the_tokenizer(name: str, size: int) -> None:
    # What a file has beside its tensors, names and tokenizer, is the same in all of them: that of the bf16 file.
    beside = BF16_FILE_BYTES - _bytes(LLAMA_8B, "gguf-bf16")
    assert 7 * MIB < beside < 8 * MIB
    assert _bytes(LLAMA_8B, name) + beside == size


# Tables of files on huggingface.co, GB of 10**9; they say no more digits. A file has up to 20 MB beside its tensors.
FILES: Mapping[str, Mapping[str, float]] = {
    # mradermacher/Llama-2-7b-hf-GGUF; Q4_0 to Q5_1 and IQ3 from RichardErkhov/huggyllama_-_llama-7b-gguf
    LLAMA_2_7B: {
        "IQ3_XS": 2.80,
        "IQ3_S": 2.95,
        "IQ3_M": 3.11,
        "IQ4_XS": 3.65,
        "IQ4_NL": 3.85,
        "Q2_K": 2.53,
        "Q3_K_S": 2.95,
        "Q3_K_M": 3.30,
        "Q3_K_L": 3.60,
        "Q4_0": 3.83,
        "Q4_1": 4.24,
        "Q4_K_S": 3.86,
        "Q4_K_M": 4.08,
        "Q5_0": 4.65,
        "Q5_1": 5.06,
        "Q5_K_S": 4.65,
        "Q5_K_M": 4.78,
        "Q6_K": 5.53,
        "Q8_0": 7.16,
    },
    # bartowski/Meta-Llama-3.1-70B-Instruct-GGUF and ThomasBaruzier's: 80 layers have a rule of their own
    LLAMA_70B: {
        "Q2_K": 26.4,
        "Q3_K_S": 30.9,
        "Q3_K_M": 34.3,
        "Q3_K_L": 37.1,
        "Q4_K_S": 40.3,
        "Q4_K_M": 42.5,
        "Q5_K_S": 48.7,
        "Q5_K_M": 49.9,
    },
    # mradermacher/Mixtral-8x7B-v0.1-GGUF and MaziyarPanahi's: so have eight experts
    MIXTRAL: {
        "IQ3_XS": 19.4,
        "IQ3_S": 20.4,
        "IQ3_M": 21.4,
        "IQ4_XS": 25.4,
        "IQ4_NL": 26.7,
        "Q2_K": 17.3,
        "Q3_K_S": 20.4,
        "Q3_K_M": 22.5,
        "Q3_K_L": 24.2,
        "Q4_0": 26.4,
        "Q4_1": 29.3,
        "Q4_K_S": 26.7,
        "Q4_K_M": 28.4,
        "Q5_K_S": 32.2,
        "Q5_K_M": 33.2,
        "Q6_K": 38.4,
        "Q8_0": 49.6,
    },
    # ggml-org/Qwen3-32B-GGUF
    "Qwen/Qwen3-32B": {"Q4_K_M": 19.8, "Q8_0": 34.8, "F16": 65.5},
    # bartowski/Qwen2.5-7B-Instruct-GGUF: its 28 heads make rows of 3584, which is 14 blocks
    "Qwen/Qwen2.5-7B": {"Q4_K_S": 4.46, "Q4_K_M": 4.68},
    # benhaotang/gpt-oss-coder-20B-GGUF and DevQuasar/openai.gpt-oss-20b-GGUF: rows of 2880 do not fill blocks of 256
    "openai/gpt-oss-20b": {"MXFP4_MOE": 12.1, "Q8_0": 22.3},
}


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, files in FILES.items() for name in files])
def test_a_mixture_is_as_large_as_published_files(model: str, name: str) -> None:
    published = FILES[model][name]
    rounding = 0.005 if model in (LLAMA_2_7B, "Qwen/Qwen2.5-7B") else 0.05
    assert published - rounding - 0.02 <= _bytes(model, name) / GB <= published + rounding


def test_deepseek_is_as_large_as_the_parts_of_its_files() -> None:
    # unsloth/DeepSeek-R1-GGUF: nine parts, each rounded to 0.1 GB
    parts = [48.3, 49.4, 49.5, 48.3, 49.4, 48.3, 49.4, 46.9, 14.8]
    assert _bytes("deepseek-ai/DeepSeek-V3", "Q4_K_M") / GB == pytest.approx(sum(parts), abs=9 * 0.05)


# Sum over every tensor of the type that llama.cpp chooses for it, tests/snapshots/*.schema, times the size of the type
SNAPSHOTS = {
    (LLAMA_70B, "Q3_K_S"): 30_904_188_928,
    (LLAMA_70B, "Q4_K_M"): 42_512_531_456,
    (LLAMA_70B, "IQ3_M"): 31_929_171_968,
    ("Qwen/Qwen3-14B", "Q3_K_M"): 7_315_353_600,
    ("Qwen/Qwen3-14B", "IQ3_XS"): 6_369_341_440,
    ("Qwen/Qwen3-14B", "IQ1_S"): 3_573_975_040,
    # Rows of 2880 fall back to types with blocks of 32.
    ("openai/gpt-oss-120b", "Q2_K"): 66_140_414_208,
    ("openai/gpt-oss-120b", "Q4_K_M"): 87_837_965_568,
    ("openai/gpt-oss-120b", "MXFP4_MOE"): 63_374_323_968,
    # kv_b_proj is stored as two tensors, the rows of one of them 128 wide.
    ("deepseek-ai/DeepSeek-V3", "Q2_K"): 244_142_912_512,
    ("deepseek-ai/DeepSeek-V3", "Q4_K_M"): 404_488_787_968,
    ("deepseek-ai/DeepSeek-V3", "MXFP4_MOE"): 365_348_429_824,
}


@pytest.mark.parametrize(("model", "name"), SNAPSHOTS)
def test_every_tensor_has_the_type_that_llama_cpp_chooses(model: str, name: str) -> None:
    assert _bytes(model, name) == SNAPSHOTS[model, name]


# The same for gemma-3-4b-it, whose head is its token table; its tower, a file of its own, has 416,866,032 + 2,950,272
@pytest.mark.parametrize(
    ("name", "size"), [("Q4_0", 3_196_603_360), ("Q4_K_M", 3_322_985_440), ("IQ2_M", 2_371_073_760)]
)
def test_a_tied_table_has_the_type_of_the_head(name: str, size: int) -> None:
    assert _bytes("google/gemma-3-4b-it", name) == size


def test_an_importance_matrix_saves_bits_in_the_first_layers() -> None:
    # 4 of 32 layers have ffn_down in IQ4_XS and not in Q5_K: 4096 * 14336 / 256 blocks of 136 and not 176 bytes
    saved = _bytes(LLAMA_8B, "IQ4_XS") - _bytes(LLAMA_8B, "gguf-iq4_xs-imatrix")
    assert saved == 4 * 4096 * 14336 // 256 * (176 - 136)


def test_blocks_split_into_codes_and_scales() -> None:
    memory = _memory(LLAMA_8B, "Q8_0")
    matrices = 8_030_261_248 - 65 * 4096  # all but 65 norms
    assert memory.size_of(WEIGHTS) == matrices + 65 * 4096 * 4
    assert memory.size_of(SCALES) == matrices // 32 * 2


# Sizes of GGML's types, gguf-py/gguf/constants.py, GGML_QUANT_SIZES: elements and bytes of a block
GGML_QUANT_SIZES = {
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "iq2_xxs": (256, 66),
    "iq2_xs": (256, 74),
    "iq3_xxs": (256, 98),
    "iq1_s": (256, 50),
    "iq4_nl": (32, 18),
    "iq3_s": (256, 110),
    "iq2_s": (256, 82),
    "iq4_xs": (256, 136),
    "iq1_m": (256, 56),
    "tq1_0": (256, 54),
    "tq2_0": (256, 66),
    "ggml-mxfp4": (32, 17),
    "ggml-nvfp4": (64, 36),
}


def test_types_have_the_sizes_of_ggml() -> None:
    found = {
        name: (dtype.block_elements, (dtype.code_bits + dtype.scale_bits) // 8)
        for name, dtype in load_dtypes().items()
        if dtype.fallback is not None
    }
    assert found == GGML_QUANT_SIZES


@pytest.mark.parametrize(
    ("model", "name", "basis"),
    [
        (LLAMA_8B, "Q4_K_M", "exact"),
        ("google/gemma-3-4b-it", "Q4_K_M", "exact"),
        ("deepseek-ai/DeepSeek-V3", "Q4_K_M", "exact"),
        ("deepseek-ai/DeepSeek-V3", "IQ1_S", "modelled"),  # llama.cpp counts shared experts as layers there
        ("google-t5/t5-base", "Q4_K_M", "modelled"),  # two lists of layers
        ("google-t5/t5-base", "Q8_0", "exact"),
        ("google-t5/t5-base", "nf4", "exact"),
    ],
)
def test_a_row_says_whether_the_rules_are_known_to_hold(model: str, name: str, basis: str) -> None:
    assert {row.basis for row in _memory(model, name).rows} == {basis}


def test_falcon_has_rules_that_are_not_here() -> None:
    rows = inference_memory(_built("falcon"), find_format("Q6_K")).rows
    assert {row.basis for row in rows} == {"modelled"}


# Others -------------------------------------------------------------------------------------------------------------


def test_deepseek_has_a_scale_for_every_square_of_128() -> None:
    memory = _memory("deepseek-ai/DeepSeek-V3", "fp8-block128")
    # A layer's attention: 12 * 56 + 192 * 12 + 5 * 56 + 256 * 4 + 56 * 128 squares; an expert: 3 * 16 * 56
    attention, expert = 11_448, 2_688
    sparse = attention + (256 + 1) * expert
    assert memory.size_of(SCALES) == 4 * (58 * sparse + 3 * (attention + 3 * 144 * 56))
    # The checkpoint has 41,540,496, with those of the layer for multi-token prediction, which the class does not have.
    assert memory.size_of(SCALES) == 4 * (41_540_496 - sparse)


def test_per_channel_scales_are_one_an_output_row() -> None:
    rows = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
    assert _memory(LLAMA_8B, "fp8-channel").size_of(SCALES) == 4 * rows
    assert _memory(LLAMA_8B, "w8a8-int8").size_of(SCALES) == 4 * rows


# Sizes that TheBloke's cards give, GB of 10**9. AutoGPTQ of 2023 wrote a bias of zeros in fp16 for every linear layer.
GPTQ_FILES = {
    (LLAMA_2_7B, "gptq-int4"): 3.90,
    (LLAMA_2_7B, "gptq-int4-g32"): 4.28,
    ("meta-llama/Llama-2-13b-hf", "gptq-int4"): 7.26,
    ("meta-llama/Llama-2-13b-hf", "gptq-int4-g64"): 7.51,
    ("meta-llama/Llama-2-13b-hf", "gptq-int4-g32"): 8.00,
    ("meta-llama/Llama-2-70b-hf", "gptq-int4-channel"): 35.33,
    ("meta-llama/Llama-2-70b-hf", "gptq-int4"): 36.65,
    ("meta-llama/Llama-2-70b-hf", "gptq-int4-g64"): 37.99,
    ("meta-llama/Llama-2-70b-hf", "gptq-int4-g32"): 40.66,
}
ZERO_BIASES = {
    LLAMA_2_7B: 32 * (4 * 4096 + 2 * 11008 + 4096),
    "meta-llama/Llama-2-13b-hf": 40 * (4 * 5120 + 2 * 13824 + 5120),
    "meta-llama/Llama-2-70b-hf": 80 * (2 * 8192 + 2 * 1024 + 2 * 28672 + 8192),
}


@pytest.mark.parametrize(("model", "name"), GPTQ_FILES)
def test_gptq_checkpoints(model: str, name: str) -> None:
    size = _bytes(model, name) + 2 * ZERO_BIASES[model]
    assert size / GB == pytest.approx(GPTQ_FILES[model, name], abs=0.006)


def test_awq_has_no_order_of_groups() -> None:
    # TheBloke/Llama-2-70B-AWQ: 36.61 GB
    assert _bytes("meta-llama/Llama-2-70b-hf", "awq-int4") / GB == pytest.approx(36.61, abs=0.005)
    # g_idx: an int32 for each input feature of seven matrices
    order = 80 * 4 * (6 * 8192 + 28672)
    beside = _bytes("meta-llama/Llama-2-70b-hf", "gptq-int4") - _bytes("meta-llama/Llama-2-70b-hf", "awq-int4")
    assert beside == order


# Sums of the files of a checkpoint on huggingface.co, GB of 10**9, or GiB where vLLM or TensorRT-LLM report it
@pytest.mark.parametrize(
    ("model", "name", "size", "unit", "tolerance"),
    [
        (LLAMA_8B, "fp8", 5.00 + 4.08, GB, 0.01),  # nvidia/Llama-3.1-8B-Instruct-FP8
        (LLAMA_8B, "fp8", 8.457, GIB, 0.002),  # the same in TensorRT-LLM
        (LLAMA_8B, "w8a8-int8", 5.00 + 4.08, GB, 0.01),  # RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8
        (LLAMA_70B, "w8a8-int8", 72.7, GB, 0.05),  # RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w8a8
        (LLAMA_8B, "nvfp4", 4.98 + 1.05, GB, 0.01),  # weiweiz1/llama3.1-8b-nvfp
        ("openai/gpt-oss-20b", "mxfp4", 4.79 + 4.80 + 4.17, GB, 0.015),
        ("openai/gpt-oss-120b", "mxfp4", 65.2, GB, 0.05),
    ],
)
def test_checkpoints(model: str, name: str, size: float, unit: int, tolerance: float) -> None:
    assert _bytes(model, name) / unit == pytest.approx(size, abs=tolerance)


# What vLLM logs on one GPU after loading: jgchn/llm-d-planner, accuracy/results; llm-d/llm-d-benchmark; logs in issues.
# It holds the table of rotary positions as well (max_position_embeddings * rotary width * 2 B); what is left, up to
# 0.5 %, is the allocator's rounding, and the buffers of Marlin kernels for 4 bits.
@pytest.mark.parametrize(
    ("model", "name", "rotary_bytes", "gib", "tolerance"),
    [
        (LLAMA_8B, "fp8-channel", 131_072 * 128 * 2, 8.49, 0.001),
        (LLAMA_8B, "w8a8-int8", 131_072 * 128 * 2, 8.49, 0.001),
        (LLAMA_70B, "fp8-channel", 131_072 * 128 * 2, 67.72, 0.001),
        (LLAMA_8B, "gptq-int4", 131_072 * 128 * 2, 5.38, 0.003),
        (LLAMA_8B, "nf4-double-quant", 131_072 * 128 * 2, 5.354, 0.003),
        ("Qwen/Qwen2.5-7B", "nf4-double-quant", 1_010_000 * 128 * 2, 5.43, 0.005),
    ],
)
def test_what_an_engine_reports(model: str, name: str, rotary_bytes: int, gib: float, tolerance: float) -> None:
    assert (_bytes(model, name) + rotary_bytes) / GIB == pytest.approx(gib, rel=tolerance)


def test_four_ranks_of_qwen3_in_squares_of_128() -> None:
    # vLLM: 55.19 GiB on each of four; each holds norms, routers and rotary positions whole
    assert _bytes("Qwen/Qwen3-235B-A22B", "fp8-block128") / 4 / GIB == pytest.approx(55.19, rel=0.003)


def test_kimi_has_int4_experts_and_the_rest_in_bf16() -> None:
    counts = count(_tree("moonshotai/Kimi-K2-Instruct")).breakdown
    routed, total = counts["experts.routed"], sum(counts.values())
    memory = _memory("moonshotai/Kimi-K2-Instruct", "int4-experts")
    assert memory.size_of(WEIGHTS) == routed // 2 + 2 * (total - routed)
    # a bf16 scale for every 32, and two int64 for every matrix, gate and up being one here
    assert memory.size_of(SCALES) == routed // 32 * 2 + 60 * 384 * 2 * 16


def test_mxfp4_has_the_biases_of_experts_in_bf16() -> None:
    counts = count(_tree("openai/gpt-oss-20b"))
    quantised = 24 * 32 * (5760 * 2880 + 2880 * 2880)
    memory = _memory("openai/gpt-oss-20b", "mxfp4")
    assert memory.size_of(WEIGHTS) == quantised // 2 + 2 * (counts.total - quantised)
    assert memory.size_of(SCALES) == quantised // 32


def test_only_the_mlps_of_the_inner_layers_are_fp8() -> None:
    counts = count(_tree("meta-llama/Llama-3.1-405B"))
    quantised = 124 * 3 * 16_384 * 53_248
    memory = _memory("meta-llama/Llama-3.1-405B", "fp8-mlp")
    assert memory.size_of(WEIGHTS) == quantised + 2 * (counts.total - quantised)
    # vLLM reports 57.752 GiB on each of 8 GPUs, with the 16 key/value heads that the files of July 2024 had
    keys_and_values = 2 * 126 * 16_384 * 8 * 128 * 2
    assert (memory.total_bytes + keys_and_values) / 8 / GIB == pytest.approx(57.752, rel=0.001)


def _saved_by_a_layer_of_the_tower(name: str) -> int:
    """Bytes of 26 of the 27 layers of Gemma 3's vision tower."""
    fewer = load_model("google/gemma-3-4b-it", overrides={"vision_config.num_hidden_layers": 1}).tree
    return int(_bytes("google/gemma-3-4b-it", name) - inference_memory(fewer, find_format(name)).total_bytes)


TOWER_MATRICES = 26 * (4 * 1152**2 + 2 * 1152 * 4304)
TOWER_VECTORS = 26 * (4 * 1152 + 4304 + 1152 + 4 * 1152)


@pytest.mark.parametrize("name", ["bf16", "fp8", "fp8-channel", "awq-int4", "nvfp4", "Q4_K_M"])
def test_towers_are_left_alone(name: str) -> None:
    assert _saved_by_a_layer_of_the_tower(name) == 2 * (TOWER_MATRICES + TOWER_VECTORS)


def test_bitsandbytes_quantises_towers_too() -> None:
    # half a byte, an fp32 scale for every 64 and a code book for each of six matrices in 26 layers
    quantised = TOWER_MATRICES // 2 + TOWER_MATRICES // 64 * 4 + 26 * 6 * 16 * 4
    assert _saved_by_a_layer_of_the_tower("nf4") == quantised + 2 * TOWER_VECTORS


KEPT: Mapping[str, Node] = {
    "table": Embedding(num_embeddings=1000, embedding_dim=64, bucket="embeddings.token"),
    "head": Linear(in_features=64, out_features=1000, yields_logits=True, bucket="other.lm_head"),
    "router": Linear(in_features=64, out_features=1000, bucket="router"),
    "norm": Norm(dim=64_000),
    "convolution": Convolution(in_channels=64, out_channels=1000, kernel_size=(1,), bias=False, bucket="ssm"),
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("name", [name for name in load_formats() if not name.startswith("gguf")])
def test_tables_heads_routers_and_norms_are_not_quantised(name: str, kind: str) -> None:
    chosen = find_format(name)
    memory = inference_memory(Module(children={kind: KEPT[kind]}), chosen)
    assert chosen.element_bits in (16, 32)
    assert memory.total_bytes == 64_000 * chosen.element_bits // 8


@pytest.mark.parametrize("kind", ["router", "norm", "convolution"])
def test_gguf_has_routers_norms_and_convolutions_in_fp32(kind: str) -> None:
    assert inference_memory(Module(children={kind: KEPT[kind]}), find_format("Q4_K_M")).total_bytes == 4 * 64_000


def test_gguf_quantises_the_table_and_the_head() -> None:
    table = Embedding(num_embeddings=1000, embedding_dim=256, bucket="embeddings.token")
    head = Linear(in_features=256, out_features=1000, yields_logits=True, bucket="other.lm_head")
    untied = Module(children={"table": table, "head": head})
    assert inference_memory(untied, find_format("Q4_K_M")).total_bytes == 1000 * (144 + 210)
    tied = Module(children={"table": table, "head": Tied(module=head, to="table")})
    assert inference_memory(tied, find_format("Q4_K_M")).total_bytes == 1000 * 210


@pytest.mark.parametrize(("width", "size"), [(256, 144), (288, 9 * 22), (250, 500)])
def test_rows_that_do_not_fill_blocks_fall_back(width: int, size: int) -> None:
    # Q4_K in blocks of 256 elements and 144 bytes, Q5_0 in blocks of 32 and 22, or F16
    up = Module(children={"up_proj": Linear(in_features=width, out_features=10, bucket="mlp")})
    assert inference_memory(up, find_format("Q4_K_S")).total_bytes == 10 * size


# Columns and layers -------------------------------------------------------------------------------------------------


def _built(model_type: str, **changes: Num) -> Node:
    built = family(model_type)
    config, _ = read_config(built.config, {"model_type": model_type})
    return built.classes[built.default_class](config.replaced(changes))


@pytest.mark.parametrize("name", load_formats())
def test_a_column_of_widths_equals_each_width_alone(name: str) -> None:
    widths = np.array([12.0, 768.0, 1020.0, 4096.0 * 3])
    chosen = find_format(name)
    column = inference_memory(_built("bert", hidden_size=widths), chosen)
    for index, width in enumerate(widths):
        alone = inference_memory(_built("bert", hidden_size=int(width)), chosen)
        for row in alone.rows:
            assert np.asarray(column.size_of(row.name))[index] == row.size_bytes


@pytest.mark.parametrize("name", ["gguf-q4_k_m", "gguf-q3_k_m", "gguf-iq3_m", "gguf-iq1_s", "fp8-mlp"])
def test_a_column_of_layers_equals_each_number_alone(name: str) -> None:
    depths = np.array([1.0, 8.0, 30.0, 80.0])
    chosen = find_format(name)
    column = inference_memory(_built("llama", num_hidden_layers=depths, num_key_value_heads=8), chosen)
    for index, depth in enumerate(depths):
        alone = inference_memory(_built("llama", num_hidden_layers=int(depth), num_key_value_heads=8), chosen)
        assert np.asarray(column.total_bytes)[index] == alone.total_bytes


def test_a_column_of_experts_equals_each_number_alone() -> None:
    numbers = np.array([2.0, 4.0, 8.0, 16.0])
    chosen = find_format("Q4_K_M")
    column = inference_memory(_built("mixtral", num_local_experts=numbers), chosen)
    for index, experts in enumerate(numbers):
        alone = inference_memory(_built("mixtral", num_local_experts=int(experts)), chosen)
        assert np.asarray(column.total_bytes)[index] == alone.total_bytes


@pytest.mark.parametrize("model", [LLAMA_8B, "openai/gpt-oss-20b", "deepseek-ai/DeepSeek-V3", "google/gemma-3-4b-it"])
def test_spans_and_rows_have_the_same_layers(model: str) -> None:
    tree = _tree(model)
    for row, span in zip(walk(tree), spans(tree), strict=True):
        assert row.copies == (1 if span is None else span.count)


def test_rules_about_layers_are_about_no_more_than_there_are() -> None:
    for layers in range(1, 130):
        for rule in get_args(LayerRule):
            found = [layers_chosen_below(rule, layer, layers) for layer in range(layers + 1)]
            assert found[0] == 0
            assert all(after - before in (0, 1) for before, after in pairwise(found))


# The catalog --------------------------------------------------------------------------------------------------------


def test_a_mixture_is_found_by_the_name_of_its_files() -> None:
    assert find_format("Q4_K_M") == find_format("q4_k_m") == find_format("gguf-q4_k_m")
    with pytest.raises(UnknownNameError, match="gguf-q4_k_m"):
        find_format("q4_km")


def test_names_that_came_first_mean_what_they_meant() -> None:
    for name in ("fp32", "bf16", "fp16"):
        assert find_format(name).is_plain
    for name in ("fp8", "int8", "int4", "nf4", "nf4-double-quant"):
        assert not find_format(name).is_plain
    assert find_format("int4").rules[0].dtype == find_format("awq-int4").rules[0].dtype


def test_the_last_rule_is_about_all_tensors() -> None:
    for chosen in load_formats().values():
        assert [rule.tensors for rule in chosen.rules].index("all") == len(chosen.rules) - 1


def test_bits_are_whole_where_they_can_be() -> None:
    assert isinstance(find_dtype("q4_k").element_bits, int)
    assert find_dtype("iq2_xxs").element_bits == 1.875


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x,all,,,bf16,", "'source' is empty"),
        ("x,wings,,,bf16,a book", "in 'tensors'"),
        ("x,all,sometimes,,bf16,a book", "in 'when'"),
        ("x,all,,every other,bf16,a book", "in 'layers'"),
        ("x,all,,,bf17,a book", "is no dtype"),
        ("x,include,,,y,a book", "not stated above"),
    ],
)
def test_a_wrong_row_names_its_line(rows: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "read_text", lambda _: "format,tensors,when,layers,dtype,source\n" + rows)
    with pytest.raises(CatalogError, match=message) as error:
        formats._read_rules()
    assert "line 2" in str(error.value) or ":2" in str(error.value)


def test_the_shipped_scenario_says_what_its_comments_say() -> None:
    frame = sweep(Path(planner.__file__).parent.parent / "scenarios" / "quantisation.yaml", offline=True).to_pandas()
    assert len(frame) == 4 * 20 * 6
    bits = 8 * frame["total_bytes"] / frame["total_parameters"]
    of_llama = bits[frame["model"] == LLAMA_8B].groupby(frame["weights"]).first()
    assert of_llama["gguf-q4_k_m"] == pytest.approx(4.9, abs=0.05)
    assert of_llama["gguf-iq2_xxs"] == pytest.approx(2.4, abs=0.05)
    assert of_llama["mxfp4"] == of_llama["bf16"] == 16
    assert (of_llama[["awq-int4", "w4a16", "nf4", "nvfp4"]] > 5).all()
