"""FLOPs of a model without a builder: what fvcore counts on its real class, traced on ``meta``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.compute import SCORES, Compute, Flops, compute
from planner.errors import UnsupportedError
from planner.models import Model
from planner.nodes import walk
from planner.real.build import DTYPES, quiet, real_class
from planner.verify.call import MODEL, prepare
from planner.verify.choices import Implementation
from planner.verify.real import build
from planner.verify.trace import traced_flops
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
    kind = real_class(model.class_name)
    implementation = Implementation(
        attention="sdpa" if kind._supports_sdpa else "eager",  # noqa: SLF001 - how the class itself asks
        experts="grouped_mm" if kind._can_set_experts_implementation() else None,  # noqa: SLF001
    )
    try:
        with quiet():
            real = build(model, implementation, dtype=DTYPES[DEVICE], device=DEVICE)
            call, inputs = prepare(real, model.config, step, device=DEVICE, dtype=DTYPES[DEVICE], symbolic=True)
            traced = traced_flops(call, inputs)
    except (RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedError(f"{model.class_name} cannot be traced: {reason}") from error
    return dict(_without_wrapper(traced))


def _without_wrapper(traced: dict[str, int]) -> Iterator[tuple[str, int]]:
    for path, flops in traced.items():
        if flops:
            yield path.removeprefix(MODEL).removeprefix("."), flops


def _of_module(path: str, buckets: dict[str, str]) -> str:
    """Component of products that a module makes itself: attention's scores, or those of the weights below it."""
    below = [bucket for leaf, bucket in buckets.items() if leaf.startswith(f"{path}.") or not path]
    if not below:
        return "other.misc"
    bucket = max(set(below), key=below.count)
    return f"{bucket}.{SCORES}" if bucket.endswith(("attention", "attention.cross")) else bucket
