"""First witness: fvcore, which reads the operators of a traced forward pass and says in which module each ran."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from planner.verify.handles import HANDLES
from planner.verify.meta_convolution import TracedMetaConvolutions
from planner.verify.operators import refuse_unknown

with warnings.catch_warnings():
    # fvcore compiles its loss functions with torch.jit.script when it is imported, and torch says that it is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis

FLOPS_PER_MULTIPLY_ADD = 2
"""fvcore counts a multiply-add as one."""


class _TraceableScalars(TorchFunctionMode):
    """Calls whose scalar a trace cannot take, with one that it can.

    The tracer knows no operator that scatters True or False, but one that scatters 1 or 0. And what is a size outside
    a trace is a tensor on the CPU inside, with which a meta tensor cannot be filled.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func is Tensor.scatter and isinstance(args[-1], bool):
            args = (*args[:-1], int(args[-1]))
        elif func is Tensor.masked_fill and isinstance(args[-1], Tensor):
            args = (*args[:-1], args[-1].to(args[0].device))
        return func(*args, **(kwargs or {}))


def traced_flops(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """FLOPs of the matrix products that each module's own `forward` executes, its children's apart.

    Parameters
    ----------
    module : nn.Module
        Takes and returns tensors. What it computes and does not return is not in the trace.
    inputs : tuple of Tensor
        What it is called with.

    Returns
    -------
    dict of str to int
        For every module, by path. [FLOP]

    Raises
    ------
    UnsupportedError
        An operator that could hold a product has no count.
    """
    on_meta = any(tensor.is_meta for tensor in inputs)
    analysis: Any = FlopCountAnalysis(module, inputs).clear_op_handles().set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.no_grad(), _TraceableScalars(), TracedMetaConvolutions() if on_meta else nullcontext():
        totals: dict[str, int] = dict(analysis.by_module())
    paths = {kind: path for path in totals for kind in analysis.unsupported_ops(path)}
    refuse_unknown(analysis.unsupported_ops(), paths)
    own = dict(totals)
    for path, total in totals.items():
        if path:
            own[path.rpartition(".")[0]] -= total
    return {path: FLOPS_PER_MULTIPLY_ADD * multiply_adds for path, multiply_adds in own.items()}
