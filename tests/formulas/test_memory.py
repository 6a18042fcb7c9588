"""Figures of the papers, and sums worked out by hand."""

import numpy as np
import pytest

from planner.formulas.memory import (
    block_quantised_state_bytes,
    block_squares,
    dimension_squares,
    grouped_blocks,
    layers_between_below,
    layers_with_more_bits_below,
    nested_scale_bytes,
    packed_bytes,
    preconditioner_elements,
    projected_elements,
)


@pytest.mark.parametrize(("elements", "bits", "expected"), [(10, 32, 40), (10, 4, 5), (11, 4, 6), (0, 8, 0)])
def test_elements_are_packed_into_whole_bytes(elements: int, bits: int, expected: int) -> None:
    assert expected == packed_bytes(elements, bits)


def test_codes_that_do_not_fall_on_whole_bits() -> None:
    # IQ2_XXS: 66 bytes for 256 elements, of which an fp16 scale and 8 scales of 4 bits, leave 480 bits
    assert packed_bytes(4096 * 256, 66 * 8 - 16 - 8 * 4, 256) == 4096 * 60


def test_an_incomplete_group_is_one() -> None:
    # 2 matrices * 3 rows * (128 + 1 elements: two groups)
    assert grouped_blocks(2, 3, 129, 128) == 12


def test_incomplete_squares_are_squares() -> None:
    # DeepSeek-V3, kv_a_proj_with_mqa: 576 * 7168 in squares of 128 is 4.5 * 56
    assert grouped_blocks(1, 576, 7168, 128, 128) == 5 * 56


def test_double_quantisation_costs_what_qlora_says() -> None:
    # Dettmers et al. 2023, section 3: 8 / 64 + 32 / (64 * 256) = 0.127 bits a parameter
    parameters = 64 * 256 * 100
    assert 8 * nested_scale_bytes(parameters // 64, 8, 256, 32) / parameters == pytest.approx(0.127, abs=5e-4)


def test_a_state_of_8_bits_has_a_scale_for_the_last_block_as_well() -> None:
    # 1000 elements of a byte, and 4 scales of 4 bytes for 3 full blocks and one of 232
    assert block_quantised_state_bytes(1000, 8, 256, 32) == 1016


def test_a_state_with_a_code_book() -> None:
    # 2048 bytes for 4096 elements, 32 scales of 4 bytes, 16 entries of 4 bytes
    assert block_quantised_state_bytes(4096, 4, 128, 32, 512) == 2048 + 128 + 64


@pytest.mark.parametrize("layers", [1, 7, 8, 16, 22, 28, 32, 36, 40, 61, 80, 126])
def test_layers_with_more_bits_are_the_ends_and_every_third_between(layers: int) -> None:
    first, last = layers // 8, 7 * layers // 8
    chosen = [layer < first or layer >= last or (layer - first) % 3 == 2 for layer in range(layers)]
    assert [layers_with_more_bits_below(layer, layers) for layer in range(layers + 1)] == [
        sum(chosen[:layer]) for layer in range(layers + 1)
    ]
    depths = np.arange(layers + 1.0)
    assert np.asarray(layers_with_more_bits_below(depths, np.full_like(depths, layers))).tolist() == [
        sum(chosen[:layer]) for layer in range(layers + 1)
    ]


def test_layers_between_two() -> None:
    assert [layers_between_below(layer, 4, 28) for layer in (0, 4, 5, 28, 32)] == [0, 0, 1, 24, 24]


def test_squares_of_blocks() -> None:
    assert block_squares(2500, 1024) == 1024**2 + 1024**2 + 452**2


def test_shampoo_takes_four_times_the_matrix_with_its_inverse_roots() -> None:
    # Shi et al. 2023: "4mn", two factors and two inverse roots, where blocks are square
    assert 2 * preconditioner_elements((4096, 14336), 1024) == 4 * 4096 * 14336


def test_shampoo_cuts_every_dimension() -> None:
    # Blocks of 1024 and 452 rows by 300 columns: a left matrix for each, and a right one
    assert preconditioner_elements((1476, 300), 1024) == 1024**2 + 452**2 + 2 * 300**2
    # Experts: one block for the first dimension, 2 * 2 for the others
    assert preconditioner_elements((8, 2048, 2048), 1024) == 4 * 8**2 + 2 * (2 * 2 * 1024**2)


def test_shampoo_takes_a_small_matrix_for_a_vector() -> None:
    assert preconditioner_elements((16, 32), 1024) == 512**2
    assert preconditioner_elements((2048,), 1024) == 2 * 1024**2


def test_soap_leaves_a_large_dimension_alone() -> None:
    assert dimension_squares((128_256, 4096), 10_000) == 4096**2


def test_galore_keeps_what_its_table_says() -> None:
    # Zhao et al. 2024, table 1, for m <= n: two states of n r, a projection of m r; the order of the two is no matter
    assert projected_elements(4096, 11008, 1024) == (11008 * 1024, 4096 * 1024)
    assert projected_elements(11008, 4096, 1024) == (11008 * 1024, 4096 * 1024)


def test_a_projection_has_at_most_full_rank() -> None:
    assert projected_elements(8, 4096, 128) == (8 * 4096, 8 * 8)
