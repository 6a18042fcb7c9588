"""A user's own module: its tensors against the tree that was read off it, its products by two witnesses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from planner.counts import count
from planner.errors import UnsupportedError
from planner.real.user_module import user_module
from planner.verify.call import Call
from planner.verify.choices import DEVICES, check_choice
from planner.verify.compare import actual_shapes, expected_shapes, shape_differences
from planner.verify.execute import Executed, Progress, runtime_errors, watched, without_wrapper
from planner.verify.result import Figure, Verification, versions
from planner.verify.trace import traced_flops
from planner.verify.witnesses import products_of_witnesses

OWN = "own"
"""What stands for the implementation of attention: the module's, whatever it is."""


class _PositionalCall(Call):
    """A module of any kind, called with tensors in their places."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Every tensor that the module returns, in containers and dataclasses too."""
        outputs = tuple(_tensors(self.model(*inputs)))
        if not outputs:
            raise ValueError("it returns no tensor, so there is nothing to trace")
        return outputs


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from _tensors(getattr(output, field.name))


def verify_module(name: str, *, device: str = "cpu", progress: Progress | None = None) -> Verification:
    """Compare a user's module with the tree that is read off it, and two counts of its products with each other.

    Parameters
    ----------
    name : str
        ``package.module:factory``; see `planner.real.user_module.user_module`.
    device : str
        ``cpu`` or ``cuda``.
    progress : callable, optional
        Told in a few words what is being done.

    Raises
    ------
    PlannerError
        The factory makes no module, or gives no inputs.
    UnsupportedError
        It cannot run, or multiplies in a way that the witnesses do not know.
    """
    tell = progress or (lambda _: None)
    check_choice("device", device, DEVICES)
    if device == "meta":
        raise UnsupportedError(
            "a module of your own is run on real tensors: it may ask for values, which meta tensors do not have",
            key="device",
            hint="choose cpu or cuda",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("this torch sees no CUDA device", key="device", hint="choose cpu")
    start = time.perf_counter()
    tell(f"building {name}")
    made = user_module(name, with_values=True)
    if made.inputs is None:
        raise UnsupportedError(
            "to run, it needs inputs, and the factory gives none",
            file=name,
            key="--module",
            hint="return (module, inputs), or give the module an attribute example_inputs",
        )
    with runtime_errors(device, made.class_name), _plain_kernels():
        real = made.module.to(device)
        inputs = tuple(tensor.detach().to(device) for tensor in made.inputs)
        call = _PositionalCall(real, (), None).eval()
        tell(f"tracing {made.class_name} on {device}")
        traced = without_wrapper(traced_flops(call, inputs))
        tell(f"counting again {made.class_name} on {device}")
        kernels, by_module = watched(call, inputs, backward=False)
    products = products_of_witnesses(
        Executed(real=real, traced=traced, tensors="real", kernels=kernels, by_module=by_module)
    )
    tree = made.tree
    expected = expected_shapes(tree)
    shapes = actual_shapes(real, [path for path, _ in expected])
    return Verification(
        model=name,
        class_name=made.class_name,
        device=device,
        dtype=", ".join(dict.fromkeys(str(one.dtype).removeprefix("torch.") for one in real.parameters())),
        attention=OWN,
        experts=None,
        step=None,
        versions=versions(),
        parameters=Figure(int(count(tree).total), sum(one.numel() for one in real.parameters())),
        flops=products.flops,
        tensors=len(shapes),
        modules=products.modules,
        witness=products.witness,
        differences=(*shape_differences(expected, shapes), *products.differences),
        notes=products.notes,
        seconds=time.perf_counter() - start,
        builder=False,
        inputs=tuple(tuple(tensor.shape) for tensor in inputs),
    )


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Keep torch's own transformer layers off the kernels that do a whole layer at once, which no witness counts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
