"""Saved tensors of one rank: degrees, stages, and what is computed again."""

from __future__ import annotations

import numpy as np
import pytest

from planner.activations.saved import SavedTensor
from planner.errors import PlannerError
from planner.parallelism import WHOLE, Parallelism, pipeline_stages
from planner.training.activations import kept, rank_bytes
from planner.training.job import Recompute


def _saved(indices: range | None, size: float = 100, part: str = "mlp", split: str = "none") -> SavedTensor:
    return SavedTensor(
        path="layers.*.x",
        name="x",
        size_bytes=size,
        copies=8 if indices is None else len(indices),
        indices=(indices,),
        split=split,  # type: ignore[arg-type]
        part=part,
    )


EIGHT = (_saved(range(8)), _saved(range(8), 50, "norm"))
"""Eight blocks of 150 B each."""


@pytest.mark.parametrize(
    ("split", "sequence_parallel", "expected"),
    [
        ("none", True, 800 / 2),
        ("tensor", False, 800 / (2 * 4)),
        ("scattered", False, 800 / (2 * 4)),
        ("sequence", False, 800 / 2),
        ("sequence", True, 800 / (2 * 4)),
        # Four ranks share tokens, two of them an expert: each of the two gathers what both were sent.
        ("expert", True, 800 / (2 * 4 / 2)),
    ],
)
def test_what_divides_a_tensor(split: str, sequence_parallel: bool, expected: float) -> None:
    degrees = Parallelism(tp=4, cp=2, etp=2, sequence_parallel=sequence_parallel)
    assert rank_bytes(_saved(range(1), 800, split=split), degrees) == expected


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        (Recompute(), 8 * 150),
        (Recompute(kind="selective", parts=frozenset({"norm"})), 8 * 100),
        (Recompute(kind="full"), 8 * 10),
        (Recompute(kind="full", offload=True), 0),
        (Recompute(kind="full", every=2), 4 * 10 + 4 * 150),
        (Recompute(kind="full", blocks=3), 3 * 10 + 5 * 150),
        (Recompute(kind="full", group=4), 2 * 10),
    ],
)
def test_what_stays_of_blocks(recompute: Recompute, expected: float) -> None:
    assert kept(EIGHT, Parallelism(), WHOLE, recompute, 10).blocks == expected


def test_a_piece_within_another_is_recomputed_with_it() -> None:
    saved = (_saved(range(2), 7, "moe"), _saved(range(2), 5, "moe_activation"), _saved(range(2), 3, "norm"))
    found = kept(saved, Parallelism(), WHOLE, Recompute(kind="selective", parts=frozenset({"moe"})), 0)
    assert found.blocks == 2 * 3


def test_recomputing_makes_the_block_less_what_stayed() -> None:
    found = kept(EIGHT, Parallelism(), WHOLE, Recompute(kind="full", group=2), 10)
    assert (found.largest_block, found.largest_kept) == (2 * 150, 10)


def test_chunks_of_an_interleaved_stage() -> None:
    saved = (_saved(range(3), 1), _saved(range(3, 8), 10))
    first, second = pipeline_stages(8, 2, vp=2)
    # Chunks of two layers: 0-1 and 4-5 on the first stage, 2-3 and 6-7 on the second.
    assert kept(saved, Parallelism(), first, Recompute(), 0).chunks == (2, 20)
    assert kept(saved, Parallelism(), second, Recompute(), 0).chunks == (11, 20)


def test_what_stands_around_blocks_lies_on_the_ends() -> None:
    table = SavedTensor(path="embed", name="mask", size_bytes=5, copies=1, part="embedding")
    norm = SavedTensor(path="norm", name="input", size_bytes=7, copies=1, part="head")
    first, *_, last = pipeline_stages(8, 4)
    saved = (table, *EIGHT, norm)
    assert (kept(saved, Parallelism(), first, Recompute(), 0).outside) == 5
    assert (kept(saved, Parallelism(), last, Recompute(), 0).outside) == 7
    assert (kept(saved, Parallelism(), WHOLE, Recompute(), 0).outside) == 12


def test_a_column_of_layers_counts_by_copies_and_is_not_cut() -> None:
    swept = SavedTensor(
        path="layers.*.x", name="x", size_bytes=100, copies=np.array([2.0, 4.0]), indices=(None,), part="mlp"
    )
    assert np.asarray(kept((swept,), Parallelism(), WHOLE, Recompute(), 0).blocks).tolist() == [200, 400]
    assert np.asarray(kept((swept,), Parallelism(), WHOLE, Recompute(kind="full"), 10).blocks).tolist() == [20, 40]
    with pytest.raises(PlannerError, match="swept"):
        kept((swept,), Parallelism(), WHOLE, Recompute(kind="full", every=2), 10)
