"""Stages that are balanced by cost."""

from __future__ import annotations

import pytest

from planner.training.stages import balanced_split


@pytest.mark.parametrize(
    ("parts", "split"),
    [
        # nanotron's llama-1B: 24 blocks of 41.9 M weights and a head of 102.9 M, which is 2.454 blocks; shares of
        # 26.454 / parts. Measured states fit 14, 7 and 4 layers on the first stage (huggingface.co/nanotron/old_bench).
        (1, (24,)),
        (2, (14, 10)),
        (4, (7, 7, 6, 4)),
        (8, (4, 3, 3, 4, 3, 3, 4, 0)),
    ],
)
def test_a_part_is_closed_once_it_exceeds_its_share(parts: int, split: tuple[int, ...]) -> None:
    assert balanced_split([1.0] * 24, 2.454, parts) == split
