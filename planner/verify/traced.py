"""FLOPs of a model without a builder: what fvcore counts on its real class, traced on ``meta``."""

from __future__ import annotations

from dataclasses import replace

from planner.compute import SCORES, Compute, Flops, compute
from planner.errors import UnsupportedError
from planner.models import Model
from planner.nodes import walk
from planner.real.build import real_class
from planner.verify.choices import usual
from planner.verify.execute import Execution, first_line
from planner.workload import Step

DEVICE = "meta"


def traced_compute(model: Model, step: Step) -> Compute:
    """FLOPs of one step of a real class.

    Parameters
    ----------
    model : Model
        Read off a class of transformers.
    step : Step
        Plain numbers, and no past.

    Raises
    ------
    UnsupportedError
        The class cannot be traced, or the step has a past.
    """
    if step.past:
        raise UnsupportedError("a model without a builder is traced without a past", key="past", hint="leave it at 0")
    by_path = _traced(model, step)
    buckets = {path: row.bucket for row in walk(model.tree) for path in row.real_paths()}
    components: dict[str, Flops] = {}
    for path, flops in by_path.items():
        name = buckets.get(path) or _of_module(path, buckets)
        components[name] = components.get(name, Flops(0, 0)) + Flops(flops, 2 * flops)
    total = sum(by_path.values())
    # The rule of thumb and the number of positions need no products, so the tree's own fold gives them.
    of_tree = compute(model.tree, step)
    return replace(
        of_tree,
        conventions={"matmul": Flops(total, 2 * total), "6N": of_tree.conventions["6N"]},
        fused_backward=2 * total,
        components={name: flops for name, flops in components.items() if flops.forward},
    )


def _traced(model: Model, step: Step) -> dict[str, int]:
    """Forward FLOPs of each module's own products, by path. [FLOP]"""
    execution = Execution(model=model, step=step, device=DEVICE, backward=False, tell=lambda _: None)
    try:
        _, _, traced = execution.trace(usual(model, real_class(model.class_name)))
    except (RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnsupportedError(f"{model.class_name} cannot be traced: {first_line(error)}") from error
    return {path: flops for path, flops in traced.items() if flops}


def _of_module(path: str, buckets: dict[str, str]) -> str:
    """Component of products that a module makes itself: attention's scores, or those of the weights below it."""
    below = [bucket for leaf, bucket in buckets.items() if leaf.startswith(f"{path}.") or not path]
    if not below:
        return "other.misc"
    bucket = max(set(below), key=below.count)
    return f"{bucket}.{SCORES}" if bucket.endswith(("attention", "attention.cross")) else bucket
