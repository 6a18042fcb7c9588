"""Convolutions on meta tensors inside a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

DIMENSIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
"""Sizes of a kernel by the function that runs it."""


class TracedMetaConvolutions(TorchFunctionMode):
    """Runs convolutions as the operator that a trace records for them on every other device.

    On a CPU, `torch.conv2d` is traced as ``aten::_convolution``. On meta it goes straight to a shape rule in Python,
    which under a trace is given tensors for sizes and refuses them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls of other functions go on unchanged."""
        del types
        run = partial(_convolution, func) if func in DIMENSIONS else func
        return run(*args, **(kwargs or {}))


def _convolution(
    function: Callable[..., Tensor],
    input: Tensor,  # noqa: A002 - torch's name, by which it may be passed
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if padding == "valid":
        padding = 0
    if isinstance(padding, str):
        return function(input, weight, bias, stride, padding, dilation, groups)
    # not transposed, no output padding; then cuDNN's switches, which shape nothing
    switches = (False, False, True, True)
    dimensions = DIMENSIONS[function]
    sizes = (_sizes(stride, dimensions), _sizes(padding, dimensions), _sizes(dilation, dimensions))
    result: Tensor = torch._convolution(  # noqa: SLF001 - the operator that a trace records
        input, weight, bias, *sizes, False, [0] * dimensions, int(groups), *switches
    )
    return result


def _sizes(value: int | Tensor | Sequence[int], dimensions: int) -> list[int]:
    # under a trace, what a model computes from a shape is a tensor
    return [int(value)] * dimensions if isinstance(value, (int, Tensor)) else [int(size) for size in value]
