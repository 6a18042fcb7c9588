import pytest

from planner.formulas.memory import block_quantised_state_bytes, grouped_blocks, nested_scale_bytes, packed_bytes


@pytest.mark.parametrize(("elements", "bits", "expected"), [(10, 32, 40), (10, 4, 5), (11, 4, 6), (0, 8, 0)])
def test_elements_are_packed_into_whole_bytes(elements: int, bits: int, expected: int) -> None:
    assert expected == packed_bytes(elements, bits)


def test_a_group_does_not_cross_a_row() -> None:
    # 3 rows of 130: two groups of 128 each, the second with 2 elements
    assert grouped_blocks(1, 3, 130, 128) == 6


def test_double_quantisation_costs_an_eighth_of_a_bit_per_parameter() -> None:
    # Dettmers et al. 2023, section 3: 8 / 64 + 32 / (64 * 256) = 0.127 bits
    parameters = 64 * 256 * 1000
    assert 8 * nested_scale_bytes(parameters // 64, 8, 256, 32) / parameters == pytest.approx(0.127, abs=5e-4)


def test_an_8_bit_state_has_a_scale_a_block() -> None:
    # 1000 elements: 1000 B, and 4 blocks of 256 with 4 B each
    assert block_quantised_state_bytes(1000, 8, 256, 32) == 1016
