"""Each formula against arithmetic by hand, and columns against numbers."""

import numpy as np

from planner.formulas.adapters import (
    block_low_rank_shapes,
    expert_low_rank_shapes,
    kronecker_shapes,
    low_rank_shapes,
    off_diagonal_elements,
    random_basis_shapes,
    rotation_elements,
    singular_shapes,
    tied_groups,
)
from planner.formulas.parameters import numel


def test_factors_of_low_rank_read_the_input_and_write_the_output() -> None:
    first, second = low_rank_shapes(8, 4096, 1024)
    assert (first, second) == ((8, 4096), (1024, 8))


def test_blocks_have_as_many_elements_as_one_pair_of_the_same_rank() -> None:
    for blocks in (1, 2, 4):
        # a rank of 32 times the sum of 3072 and 1024
        assert sum(numel(shape) for shape in block_low_rank_shapes(32, 3072, 1024, blocks)) == 131072


def test_experts_have_a_pair_each() -> None:
    # 128 experts * 8 * (2048 + 1536)
    assert sum(numel(shape) for shape in expert_low_rank_shapes(8, 128, 2048, 1536)) == 3670016


def test_a_kronecker_factor_is_whole_or_of_low_rank() -> None:
    # 4 * 4 + 768 * 32 + 32 * 768
    assert sum(numel(shape) for shape in kronecker_shapes(32, (4, 4), (768, 768), whole=False)) == 49168
    # 4 * 4 + 768 * 768
    assert sum(numel(shape) for shape in kronecker_shapes(32, (4, 4), (768, 768), whole=True)) == 589840


def test_random_bases_fill_the_shorter_dimension() -> None:
    # ceil(1000 / 32) = 32 bases: 32 * 32 + 32 * 1000
    assert sum(numel(shape) for shape in random_basis_shapes(32, 3072, 1000)) == 33024


def test_rotations_directions_groups_and_sparse_entries() -> None:
    assert rotation_elements(4) == 6  # 3 + 2 + 1
    # never more directions than the shorter dimension has
    assert singular_shapes(2000, 3072, 1024) == ((1024, 1024), (1024,), (1024, 3072))
    assert [tied_groups(56, tying) for tying in (0.0, 0.5, 1.0)] == [56, 28, 1]
    assert off_diagonal_elements(8, 0.0) == 1
    assert off_diagonal_elements(3, 1.0) == 6  # 3 * 3 - 3


def test_a_column_of_ranks_equals_each_rank_alone() -> None:
    ranks = np.array([4.0, 8.0, 33.0])
    for shapes_of in (low_rank_shapes, random_basis_shapes, singular_shapes):
        column = sum(numel(shape) for shape in shapes_of(ranks, 3072, 1024))
        alone = [sum(numel(shape) for shape in shapes_of(int(rank), 3072, 1024)) for rank in ranks]
        assert np.asarray(column).tolist() == alone
