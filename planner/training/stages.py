"""Which layers a pipeline stage holds, where a framework balances stages by what their blocks cost."""

from __future__ import annotations

from collections.abc import Sequence

from planner.counts import tensors
from planner.nodes import Linear, Row
from planner.numeric import Num
from planner.sharding import counted_layers, main_stack
from planner.training.job import TrainingJob


def stage_split(rows: Sequence[Row], job: TrainingJob) -> tuple[int, ...] | None:
    """Layers of each chunk: as the job says, as the recipe's rule finds, or None for as even as can be."""
    if job.stage_split is not None or job.recipe.word("stage_split") != "by cost":
        return job.stage_split
    stack = main_stack(list(rows))
    if stack is None:
        return None
    count = counted_layers(list(rows), stack)
    block: Num = 0
    head: Num = 0
    for row in rows:
        if not isinstance(row.leaf, Linear):
            continue
        weights: Num = 0
        for tensor in tensors(row.leaf):
            weights = weights + (tensor.numel if tensor.matrices is not None else 0)
        if row.leaf.yields_logits:
            head = head + weights
        elif row.path.startswith(f"{stack}.*"):
            block = block + row.copies * weights / count
    return balanced_split([float(block)] * count, float(head), job.parallelism.pp)


def balanced_split(costs: Sequence[float], behind: float, parts: int) -> tuple[int, ...]:
    """Blocks of each part, where a part is closed once the sum of all costs so far exceeds its even share.

    Parameters
    ----------
    costs : sequence of float
        Of the blocks in order, in any unit.
    behind : float
        Of what follows them, such as the head.
    parts : int
        Parts. [-]

    References
    ----------
    .. [1] nanotron, src/nanotron/models/base.py, build_model

    Examples
    --------
    >>> balanced_split([1.0] * 24, 2.5, 4)  # shares end at 6.6, 13.25, 19.9: each is overstepped by a block
    (7, 7, 6, 4)
    """
    total = sum(costs) + behind
    split = [0] * parts
    part, done = 0, 0.0
    for cost in costs:
        split[part] += 1
        done += cost
        if done > total * (part + 1) / parts and part < parts - 1:
            part += 1
    return tuple(split)
