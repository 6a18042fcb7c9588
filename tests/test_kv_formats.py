"""Cache formats, against the sizes that their engines state."""

from __future__ import annotations

import pytest

from planner.errors import UnknownNameError, UnsupportedError
from planner.kv_formats import find_kv_format, load_kv_formats

# bytes of a key of 128 numbers: codes, and what its scales add
SIZES = {
    "bf16": 256,
    "fp16": 256,
    "fp32": 512,
    "fp8": 128,
    "int8": 128,
    # one fp32 scale
    "fp8-per-token-head": 132,
    "int8-per-token-head": 132,
    # 64 and a byte for each of 8 blocks of 16
    "nvfp4": 72,
    # 4 blocks of 32, in GGML's sizes
    "q8_0": 4 * 34,
    "q5_1": 4 * 24,
    "q5_0": 4 * 22,
    "q4_1": 4 * 20,
    "q4_0": 4 * 18,
    "iq4_nl": 4 * 18,
}


def test_a_key_of_128_numbers() -> None:
    found = {name: form.part_bytes("keys", 128) for name, form in load_kv_formats().items() if "keys" in form.dtypes}
    assert found == SIZES


def test_values_are_stored_as_keys_unless_a_format_says_otherwise() -> None:
    for name, size in SIZES.items():
        assert find_kv_format(name).part_bytes("values", 128) == size


def test_flashmla_stores_a_latent_in_656_bytes_and_an_indexers_key_in_132() -> None:
    form = find_kv_format("fp8_ds_mla")
    # 512 E4M3 and 4 fp32 scales; 64 in bf16
    assert form.part_bytes("latent", 512) == 528
    assert form.part_bytes("rope", 64) == 128
    assert form.part_bytes("indexer", 128) == 132


def test_a_format_of_latents_stores_no_keys() -> None:
    with pytest.raises(UnsupportedError, match="stores latent and rope and indexer, and no keys"):
        find_kv_format("fp8-ds-mla").part_bytes("keys", 128)


def test_blocks_must_divide_a_key() -> None:
    with pytest.raises(UnsupportedError, match="blocks of 32, which do not divide 80"):
        find_kv_format("q8_0").part_bytes("keys", 80)


def test_an_unknown_format_names_the_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="fp8"):
        find_kv_format("fp9")


def test_every_format_names_its_sources() -> None:
    assert all(form.sources and all(form.sources) for form in load_kv_formats().values())
