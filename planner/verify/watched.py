"""Whether the modules of a model are called by their own parents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def watched_calls(model: nn.Module) -> Iterator[list[str]]:
    """Paths of modules that run while none of their parents is the one that runs; shared modules among them.

    fvcore charges a module to the parents in its path and FlopCounterMode to its callers, so that the two can be
    compared module by module only where these are the same.
    """
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    foreign = [names[0] for names in paths.values() if len(names) > 1]
    running: list[str] = []

    def enter(module: nn.Module, _inputs: object) -> None:
        path = paths[module][0]
        if running and running[-1] and not path.startswith(f"{running[-1]}."):
            foreign.append(path)
        running.append(path)

    def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
        running.pop()

    hooks = [
        hook
        for module in paths
        for hook in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        )
    ]
    try:
        yield foreign
    finally:
        for hook in hooks:
            hook.remove()
