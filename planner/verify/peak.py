"""Memory that tensors hold at a time: counted by storages as operators make and drop them, or by CUDA's allocator."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One part of a step.

    Attributes
    ----------
    name : str
        ``forward``, ``backward`` or ``optimizer step``.
    peak_bytes, end_bytes : int
        Most that was held at a time, and what was held at its end. [B]
    """

    name: str
    peak_bytes: int
    end_bytes: int


class Counter(Protocol):
    """What tells how much is held."""

    def running(self) -> AbstractContextManager[object]:
        """Count while this is entered."""

    def restart(self) -> None:
        """Forget the peak, but not what is held."""

    def held(self) -> tuple[int, int]:
        """Peak since the last restart, and what is held now. [B]"""


class StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage that an operator makes, until it is dropped.

    It sees no allocator: nothing is rounded up, and nothing is kept for later.
    """

    def __init__(self, held: Iterator[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self._live = self._peak = 0
        for tensor in held:
            self._track(tensor)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and note what it made."""
        del types
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._track(value)
        self._peak = max(self._peak, self._live)
        return result

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # noqa: SLF001 - the one name that all views of a storage share
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._live += storage.nbytes()
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._live -= self._sizes.pop(key, 0)

    def running(self) -> AbstractContextManager[object]:
        """Itself: a mode counts while it is entered."""
        return self

    def restart(self) -> None:
        """Forget the peak."""
        self._peak = self._live

    def held(self) -> tuple[int, int]:
        """Peak and present bytes. [B]"""
        return self._peak, self._live


class CudaCounter:
    """What CUDA's caching allocator has given out."""

    def running(self) -> AbstractContextManager[object]:
        """Nothing to enter: the allocator always counts."""
        return nullcontext()

    def restart(self) -> None:
        """Forget the peak."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()

    def held(self) -> tuple[int, int]:
        """Peak and present bytes. [B]"""
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()


def step_phases(
    model: nn.Module, loss_of: Callable[[], Tensor], counter: Counter, options: Mapping[str, Any] | None = None
) -> tuple[Phase, ...]:
    """Memory of the second of two training steps, when the optimizer has its states.

    Parameters
    ----------
    model : nn.Module
        Its trainable parameters are optimized with torch's AdamW.
    loss_of : callable
        Runs the forward pass and returns the loss, which is all that stays of it.
    counter : Counter
        What counts.
    options : mapping, optional
        Arguments of the optimizer besides the parameters.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with counter.running():
        optimizer = torch.optim.AdamW(trained, **(options or {}))
        phases: list[Phase] = []
        for _ in range(2):
            phases.clear()
            with _phase("forward", counter, phases):
                loss = loss_of()
            with _phase("backward", counter, phases):
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            with _phase("optimizer step", counter, phases):
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return tuple(phases)


@contextmanager
def _phase(name: str, counter: Counter, phases: list[Phase]) -> Iterator[None]:
    counter.restart()
    yield
    peak, end = counter.held()
    phases.append(Phase(name=name, peak_bytes=peak, end_bytes=end))
