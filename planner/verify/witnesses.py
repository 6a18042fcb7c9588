"""Two witnesses against each other: the proof where no builder says what a model multiplies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from planner.errors import UnsupportedError
from planner.verify.compare import Difference
from planner.verify.execute import Executed
from planner.verify.result import Figure, Products, Witness

NO_BUILDER = "no builder: fvcore and FlopCounterMode are compared with each other"

TOTALS_ONLY = (
    "products compared in total only: a module is shared, or is called from outside its parent, which fvcore and "
    "FlopCounterMode charge to different modules"
)

DROPPED = "what a model computes and does not return is in FlopCounterMode's count, and not in fvcore's trace"


def products_of_witnesses(found: Executed) -> Products:
    """Matrix products by fvcore, in the place of what is expected, against those by FlopCounterMode.

    Raises
    ------
    UnsupportedError
        Only one of the two could run, which proves nothing.
    """
    if found.kernels is None:
        raise UnsupportedError(f"there is no builder, and no second witness: {found.reason}", hint="try --device cpu")
    figure = Figure(sum(found.traced.values()), found.kernels.forward)
    if found.by_module:
        differences = tuple(_by_module(found.traced, found.kernels.own))
    else:
        differences = (Difference("", "forward FLOPs", figure.expected, figure.actual),) if figure.difference else ()
    return Products(
        flops=figure,
        modules=sum(1 for flops in found.traced.values() if flops) if found.by_module else 0,
        witness=Witness(tensors=found.tensors, forward=figure, fused_attention=len(found.kernels.fused)),
        differences=differences,
        notes=(NO_BUILDER, *(() if found.by_module else (TOTALS_ONLY,)), *((DROPPED,) if differences else ())),
    )


def _by_module(traced: Mapping[str, int], seen: Mapping[str, int]) -> Iterator[Difference]:
    """Modules whose own products the two count differently; one that was never called is known to fvcore only."""
    for path in dict.fromkeys((*traced, *seen)):
        if traced.get(path, 0) != seen.get(path, 0):
            yield Difference(path, "forward FLOPs", traced.get(path, 0), seen.get(path, 0))
