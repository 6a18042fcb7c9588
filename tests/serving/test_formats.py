"""What flags, configs and logs call formats."""

from typing import Any

import pytest

from planner.errors import UnknownNameError
from planner.serving.formats import check_quantization, configured_format, element_dtype, format_of, kv_format_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bfloat16", "bf16"),
        ("half", "fp16"),
        ("fp8 (w8a8 dynamic, embed+lm_head 16-bit)", "fp8-channel"),
        ("fp8 block-128", "fp8-block128"),
        ("fp8 MLPs only (fbgemm_fp8)", "fp8-mlp"),
        ("int8 w8a8 (embed+lm_head 16-bit)", "w8a8-int8"),
        ("int4 w4a16 g128 gptq_marlin (embed+lm_head 16-bit)", "w4a16"),
        ("gptq_marlin", "gptq-int4"),
        ("awq_marlin", "awq-int4"),
        ("bitsandbytes NF4", "nf4-double-quant"),
        ("mxfp4 experts (Marlin on sm80)", "mxfp4"),
        ("int4 experts (compressed-tensors)", "int4-experts"),
        ("nvfp4", "nvfp4"),
        ("gguf q4_k_m", "gguf-q4_k_m"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert format_of(name).name == expected


@pytest.mark.parametrize("name", ["wonderful", "fp8/fp4 mixed", "gguf IQ4_K"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="quantization: unknown quantization"):
        format_of(name)


def test_experts_in_fp4_leave_the_rest_open() -> None:
    with pytest.raises(UnknownNameError, match="which the config stores in fp4"):
        format_of("fp8", {"expert_dtype": "fp4"})


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block128"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq-int4-g32"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "gptq-int8"),
        ({"quant_method": "awq"}, "awq-int4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "bitsandbytes", "bnb_4bit_use_double_quant": True}, "nf4-double-quant"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
            },
            "fp8-channel",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
            },
            "int4-experts",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int"}}},
            },
            "w8a8-int8",
        ),
    ],
)
def test_configs(stated: dict[str, Any], expected: str) -> None:
    found = configured_format({"quantization_config": stated})
    assert found is not None
    assert found.name == expected
    nested = configured_format({"text_config": {"quantization_config": stated}})
    assert nested == found


@pytest.mark.parametrize(
    "stated", [{"quant_method": "aqlm"}, {"quant_method": "gptq", "bits": 3}, {"quant_method": "compressed-tensors"}]
)
def test_a_config_that_is_not_known_is_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError):
        configured_format({"quantization_config": stated})


def test_a_config_knows_what_a_name_leaves_open() -> None:
    raw = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    assert format_of("fp8", raw).name == "fp8-block128"
    assert configured_format({}) is None


def test_fp32_checkpoints_are_served_in_16_bits() -> None:
    assert element_dtype("auto", {"torch_dtype": "float32"}) == "bf16"
    assert element_dtype("auto", {"text_config": {"dtype": "float16"}}) == "fp16"
    assert element_dtype("float32", {}) == "fp32"
    with pytest.raises(UnknownNameError, match="dtype: unknown dtype 'float33'"):
        element_dtype("float33", {})


def test_cache_formats() -> None:
    assert kv_format_of("auto(16-bit)", "fp16") == "fp16"
    assert kv_format_of("fp8_e5m2", "bf16") == "fp8"
    assert kv_format_of("fp8_ds_mla", "bf16") == "fp8-ds-mla"
    assert kv_format_of("bfloat16", "fp16") == "bf16"
    with pytest.raises(UnknownNameError, match="kv_cache_dtype: unknown cache format 'fp9'"):
        kv_format_of("fp9", "bf16")


@pytest.mark.parametrize("name", ["awqq", "nfp8", "fp80", "bnbx", "xmxfp4", ""])
def test_only_whole_words_are_known(name: str) -> None:
    with pytest.raises(UnknownNameError, match="quantization: unknown quantization"):
        format_of(name)


@pytest.mark.parametrize(("name", "near"), [("awqq", "awq"), ("modelop", "modelopt"), ("fp88", "fp8")])
def test_words_of_engines_are_near_misses_too(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean .*'{near}'"):
        format_of(name)


@pytest.mark.parametrize("name", ["none", "fp8", "q4_k_m", "Q8_0", "gguf-q4_k_m", "awq_marlin", "compressed-tensors"])
def test_words_that_some_engine_takes(name: str) -> None:
    check_quantization(name)


def test_words_that_no_engine_takes() -> None:
    with pytest.raises(UnknownNameError, match="unknown quantization 'q4_km'"):
        check_quantization("q4_km")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto(16-bit)", "bf16"),
        ("16-bit", "bf16"),
        ("fp8 (fp8_ds_mla)", "fp8-ds-mla"),
        ("fp8_ds_mla", "fp8-ds-mla"),
        ("fp8 e4m3", "fp8"),
        ("FP8_E5M2", "fp8"),
        ("f16", "fp16"),
        ("half", "fp16"),
        ("float32", "fp32"),
        ("q8_0", "q8_0"),
    ],
)
def test_words_for_caches(name: str, expected: str) -> None:
    assert kv_format_of(name, "bf16") == expected
