"""Tensors that autograd keeps in a real model, as hooks see them: each storage once, with the module that keeps it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

DROPOUT = "drop"
"""Part of every name that transformers gives to a probability of leaving something out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTensor:
    """One storage that is kept for backward.

    Attributes
    ----------
    paths : tuple of str
        Modules whose `forward` ran when it was kept, the first one first; empty text for the model itself.
    shape, dtype : tuple of int, str
        Of the first view that was kept.
    size_bytes : int
        Of the whole storage. [B]
    made_in : str or None
        Path of the first module that returned it, where that is known and no gradient flows back to it.
    """

    paths: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    made_in: str | None


def kept_tensors(model: nn.Module, run: Callable[[], Tensor], inputs: Iterable[Tensor]) -> tuple[KeptTensor, ...]:
    """What autograd keeps while a forward pass runs, without parameters, buffers and inputs.

    Parameters
    ----------
    model : nn.Module
        The real model.
    run : callable
        Runs it and returns the loss.
    inputs : iterable of Tensor
        What the caller holds anyway.
    """
    own = {_key(tensor) for tensor in (*model.parameters(), *model.buffers(), *inputs)}
    found: dict[int, KeptTensor] = {}
    # A storage that is dropped while the pass runs would hand its address to the next one.
    held: list[Any] = []
    with _running(model) as (stack, made):

        def pack(tensor: Tensor) -> Tensor:
            key = _key(tensor)
            if key not in own:
                path = stack[-1] if stack else ""
                known = found.get(key)
                if known is None:
                    held.append(tensor.untyped_storage())
                    found[key] = KeptTensor(
                        paths=(path,),
                        shape=tuple(tensor.shape),
                        dtype=str(tensor.dtype).removeprefix("torch."),
                        size_bytes=tensor.untyped_storage().nbytes(),
                        made_in=None if tensor.requires_grad else made.get(key),
                    )
                elif path not in known.paths:
                    found[key] = replace(known, paths=(*known.paths, path))
            # The tensor itself would hold the graph that holds it, and nothing would ever be freed.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
            run()
    return tuple(found.values())


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - the one name that all views of a storage share


@contextmanager
def _running(model: nn.Module) -> Iterator[tuple[list[str], dict[int, str]]]:
    """Paths of the modules that run, the innermost last, and which module returned a storage first."""
    stack: list[str] = []
    made: dict[int, str] = {}

    def leave(_module: nn.Module, _inputs: object, output: object) -> None:
        path = stack.pop()
        for value in tree_leaves(output):
            if isinstance(value, Tensor) and _key(value) not in made:
                made[_key(value)] = path
                # Its address may be the next tensor's.
                weakref.finalize(value.untyped_storage(), made.pop, _key(value), None)

    hooks = [
        hook
        for path, module in model.named_modules()
        for hook in (
            module.register_forward_pre_hook(lambda _module, _inputs, path=path: stack.append(path)),
            module.register_forward_hook(leave, always_call=True),
        )
    ]
    try:
        yield stack, made
    finally:
        for hook in hooks:
            hook.remove()


def without_dropout(model: nn.Module) -> None:
    """Set every probability of leaving something out to zero, in the modules and in the configs that they ask.

    On a CPU a mask is as wide as what it masks, and fused attention has no dropout, so that nothing could be learnt.
    """
    holders: list[Any] = list(model.modules())
    configs = [module.config for module in model.modules() if hasattr(module, "config")]
    for holder in (*holders, *configs):
        for name, value in list(vars(holder).items()):
            if isinstance(value, float) and DROPOUT in name:
                setattr(holder, name, 0.0)
        if isinstance(holder, nn.Dropout):
            holder.p = 0.0
