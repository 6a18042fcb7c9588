"""Second witness: torch's own FlopCounterMode, which sees the kernels that run, in backward too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from planner.verify.call import MODEL, Call
from planner.verify.handles import grouped_multiply_adds
from planner.verify.trace import FLOPS_PER_MULTIPLY_ADD


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """What FlopCounterMode saw.

    Attributes
    ----------
    forward : int
        Matrix products of the forward pass. [FLOP]
    backward : int or None
        Of the backward pass, where one was run. [FLOP]
    fused : frozenset of str
        Paths of the modules inside which attention ran in a fused kernel, which computes the scores again in backward.
    own : dict of str to int
        Forward FLOPs of each module's own products, by path. [FLOP]
    """

    forward: int
    backward: int | None
    fused: frozenset[str]
    own: dict[str, int]


def counted(call: Call, inputs: tuple[Tensor, ...], *, backward: bool) -> Kernels:
    """FLOPs of a forward pass, and of a backward pass to every parameter.

    Parameters
    ----------
    call : Call
        On real or fake tensors; meta tensors stop at the first value that a model asks for.
    inputs : tuple of Tensor
        What it is called with.
    backward : bool
        Whether to run backward, from the sum of all outputs.
    """
    if not backward:
        # What is cut from a parameter still asks for a gradient, and the counter would hang a hook on it.
        call.requires_grad_(False)
    with torch.set_grad_enabled(backward):
        with _counter() as forward:
            outputs = call(*inputs)
        counts = _by_path(forward.get_flop_counts(), f"{type(call).__name__}.{MODEL}")
        fused, own, total = frozenset(_fused(counts)), _own(counts), forward.get_total_flops()
        if not backward:
            return Kernels(forward=total, backward=None, fused=fused, own=own)
        loss = sum(output.float().sum() for output in outputs if output.requires_grad)
        with _counter() as gradients:
            torch.autograd.backward(loss)
    return Kernels(forward=total, backward=gradients.get_total_flops(), fused=fused, own=own)


def _counter() -> FlopCounterMode:
    return FlopCounterMode(display=False, custom_mapping=_unregistered())


def _by_path(counts: Mapping[str, Mapping[Any, int]], prefix: str) -> dict[str, Mapping[Any, int]]:
    """Counts of the modules of the real model, those of their children included.

    A name starts with the class of the outermost module and the name that the model has in it.
    """
    return {
        module[len(prefix) :].removeprefix("."): by_kernel
        for module, by_kernel in counts.items()
        if module.startswith(prefix)
    }


def _fused(counts: Mapping[str, Mapping[Any, int]]) -> set[str]:
    return {
        path for path, by_kernel in counts.items() if any("scaled_dot_product" in str(kernel) for kernel in by_kernel)
    }


def _own(counts: Mapping[str, Mapping[Any, int]]) -> dict[str, int]:
    totals = {path: sum(by_kernel.values()) for path, by_kernel in counts.items()}
    own = dict(totals)
    for path, total in totals.items():
        holder = path
        while holder:
            # lists of modules are never called, and so are not counted
            holder = holder.rpartition(".")[0]
            if holder in own:
                own[holder] -= total
                break
    return own


def _unregistered() -> dict[Any, Any]:
    """Counts of kernels that FlopCounterMode of this torch has none for."""
    import transformers.integrations.moe  # noqa: F401 - registers its operators

    aten, own = torch.ops.aten, torch.ops.transformers
    counts = {
        aten._scaled_dot_product_flash_attention_for_cpu: _flash,  # noqa: SLF001
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _flash_backward,  # noqa: SLF001
        aten._grouped_mm: _grouped,  # noqa: SLF001
        own.grouped_mm_fallback: _grouped,
        own.grouped_mm_fallback_backward: _grouped_backward,
    }
    return {kernel: count for kernel, count in counts.items() if kernel not in flop_registry}


# Each is called with shapes in place of tensors, and with further arguments that no count depends on.


def _flash(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _flash_backward(grad: Any, query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))  # type: ignore[no-untyped-call]


def _grouped(first: Any, second: Any, *_: object, out_shape: Any, **__: object) -> int:
    return FLOPS_PER_MULTIPLY_ADD * grouped_multiply_adds(first, second, out_shape)


def _grouped_backward(first: Any, second: Any, offsets: Any, grad: Any, **_: object) -> int:
    del first, offsets
    # the gradients of the input and of the weight: as many multiply-adds each as there were in forward
    return 2 * FLOPS_PER_MULTIPLY_ADD * int(grad[0] * grad[1] * second[1])
