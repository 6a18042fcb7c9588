"""One request: build the real model in every way asked for, run it, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.compute import compute
from planner.counts import count
from planner.errors import UnsupportedError
from planner.models import Model
from planner.nodes import Attention, Experts, Leaf, walk
from planner.real.build import DTYPES, quiet, real_class
from planner.verify.call import MODEL, Call, prepare
from planner.verify.choices import ALL, AUTO, DEVICES, Implementation, check_choice, implementations
from planner.verify.compare import (
    actual_shapes,
    attention_paths,
    expected_backward,
    expected_flops,
    expected_shapes,
    flops_differences,
    shape_differences,
)
from planner.verify.free_memory import needed_bytes, refuse_what_does_not_fit
from planner.verify.real import build
from planner.verify.result import Figure, Verification, Witness
from planner.verify.scans import has_scans, set_scans_apart
from planner.verify.trace import traced_flops
from planner.verify.witness import Kernels, counted
from planner.workload import Step

Progress = Callable[[str], None]

NO_BACKWARD = "backward not compared: what recurrences multiply in it is spread over the whole pass"


def verify(
    model: Model,
    *,
    step: Step | None = None,
    device: str = "meta",
    attention: str = ALL,
    experts: str = AUTO,
    backward: bool = False,
    progress: Progress | None = None,
) -> list[Verification]:
    """Compare a model's tree with the real model of transformers, path by path.

    Parameters
    ----------
    model : Model
        What to verify.
    step : Step, optional
        Tokens of the forward pass; one sample of 128 tokens where it is left out.
    device : str
        ``meta`` (nothing is allocated), ``cpu`` or ``cuda``.
    attention : str
        ``eager``, ``sdpa``, or ``all`` that the class has.
    experts : str
        ``eager``, ``batched_mm``, ``grouped_mm``, ``all`` that the device can run, or ``auto``, which is
        ``grouped_mm``, transformers' own choice; of no effect where there are no experts.
    backward : bool
        Run backward as well, which only the second witness can count.
    progress : callable, optional
        Told in a few words what is being done.

    Returns
    -------
    list of Verification
        One for each implementation of attention and of experts.

    Raises
    ------
    UnknownNameError
        A word that is no choice.
    UnsupportedError
        It cannot run: no such device, not enough memory, or something that the class or the witnesses do not do.
    """
    step = step or Step(sequence_length=128)
    check_choice("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError("this torch sees no CUDA device", key="device", hint="choose meta or cpu")
    if backward and step.past > 0:
        raise UnsupportedError("a cached past has no backward", key="backward", hint="leave past at 0")
    if step.past > 0 and has_scans(model.tree):
        raise UnsupportedError("a past of recurrent layers cannot be made up", key="past", hint="leave past at 0")
    if step.past > 0 and any(_is_indexed(row.leaf) for row in walk(model.tree)):
        raise UnsupportedError("a past of an indexer cannot be made up", key="past", hint="leave past at 0")
    chosen, skipped = implementations(
        model, real_class(model.class_name), device=device, attention=attention, experts=experts
    )
    if device != "meta":
        for implementation in chosen:
            needed = needed_bytes(
                model.tree, step, DTYPES[device].itemsize, experts=implementation.experts, backward=backward
            )
            refuse_what_does_not_fit(needed, device)
    run = _Run(model, step, device, backward, progress or (lambda _: None))
    results = [run.verification(implementation) for implementation in chosen]
    return [replace(result, notes=(*skipped, *result.notes)) for result in results]


def _is_indexed(leaf: Leaf) -> bool:
    """Whether an attention looks at keys that were chosen or pooled, for which its cache keeps more than keys."""
    return isinstance(leaf, Attention) and (leaf.selected is not None or leaf.keys == "pooled")


class _Run:
    """A request, apart from the implementations."""

    def __init__(self, model: Model, step: Step, device: str, backward: bool, progress: Progress) -> None:
        self._model = model
        self._step = step
        self._device = device
        self._dtype = DTYPES[device]
        self._backward = backward
        self._tell = progress
        # Once, and first: it refuses a step that the model cannot be asked for.
        compute(model.tree, step)
        self._shapes = expected_shapes(model.tree)
        self._flops = expected_flops(model.tree, step)
        self._forward = sum(self._flops.values())

    def verification(self, implementation: Implementation) -> Verification:
        start = time.perf_counter()
        how = f"{self._model.class_name} on {self._device}, attention {implementation.attention}"
        how += f", experts {implementation.experts}" if implementation.experts else ""
        self._tell(f"building {how}")
        with quiet(), _runtime_errors(self._device, self._model.class_name):
            real = build(self._model, implementation, dtype=self._dtype, device=self._device)
            call, inputs = self._prepared(real, self._device, symbolic=self._device == "meta")
            self._tell(f"tracing {how}")
            traced = traced_flops(call, inputs)
        outside = traced.pop("")
        actual = {path.removeprefix(MODEL).removeprefix("."): flops for path, flops in traced.items()}
        actual[""] += outside
        compared = set_scans_apart(self._model.tree, self._step, self._flops, actual)
        shapes = actual_shapes(real, [name for name, _ in self._shapes])
        self._tell(f"counting again {how}")
        with quiet():
            witness = self._real_witness(call, inputs) if self._device != "meta" else self._fake_witness(implementation)
        return Verification(
            model=self._model.name,
            class_name=self._model.class_name,
            device=self._device,
            dtype=str(self._dtype).removeprefix("torch."),
            attention=implementation.attention,
            experts=implementation.experts,
            step=self._step,
            versions={name: version(name) for name in ("torch", "transformers", "fvcore")},
            parameters=Figure(int(count(self._model.tree).total), sum(p.numel() for p in real.parameters())),
            flops=Figure(self._forward, sum(compared.actual.values())),
            tensors=len(shapes),
            modules=sum(1 for flops in compared.actual.values() if flops),
            witness=witness,
            differences=(
                *shape_differences(self._shapes, shapes),
                *flops_differences(compared.expected, compared.actual),
            ),
            apart=compared.apart,
            notes=(*self._more_than_asked(), *((NO_BACKWARD,) if self._backward and compared.apart else ())),
            seconds=time.perf_counter() - start,
        )

    def _more_than_asked(self) -> Iterator[str]:
        """What transformers executes and the model does not ask for."""
        routed = (row.leaf for row in walk(self._model.tree) if isinstance(row.leaf, Experts) and row.leaf.visits_all)
        for leaf in routed:
            yield (
                f"transformers multiplies every token with all {leaf.num_experts} experts of a layer, and with zeros "
                f"for all but {leaf.top_k}; so does this comparison, and no other figure of the planner"
            )
            return

    def _prepared(self, real: nn.Module, device: str, *, symbolic: bool) -> tuple[Call, tuple[Tensor, ...]]:
        config = self._model.config
        return prepare(real, config, self._step, device=device, dtype=self._dtype, symbolic=symbolic)

    def _real_witness(self, call: Call, inputs: tuple[Tensor, ...]) -> Witness:
        with _runtime_errors(self._device, self._model.class_name):
            return self._witness("real", counted(call, inputs, backward=self._backward))

    def _fake_witness(self, implementation: Implementation) -> Witness:
        """Meta tensors stop FlopCounterMode, so the model is built again of fake ones, which have shapes only too."""
        try:
            with FakeTensorMode():
                real = build(self._model, implementation, dtype=self._dtype, device="cpu", fake=True)
                call, inputs = self._prepared(real, "cpu", symbolic=True)
                return self._witness("fake", counted(call, inputs, backward=self._backward))
        except (RuntimeError, UnsupportedError) as error:
            return Witness(reason=f"FlopCounterMode cannot run on fake tensors: {_first_line(error)}")

    def _witness(self, tensors: str, kernels: Kernels) -> Witness:
        fused = attention_paths(self._model.tree) & kernels.fused
        apart = set_scans_apart(self._model.tree, self._step, self._flops, kernels.own).apart
        backward = None
        # the gradients of a recurrence are not in one module, so its products in backward cannot be set apart
        if kernels.backward is not None and not apart:
            backward = Figure(expected_backward(self._model.tree, self._step, fused), kernels.backward)
        return Witness(
            tensors=tensors,
            forward=Figure(self._forward, kernels.forward - apart),
            backward=backward,
            fused_attention=len(fused),
        )


@contextmanager
def _runtime_errors(device: str, class_name: str) -> Iterator[None]:
    """What torch and transformers raise where a model cannot run, as an error that the user can put right."""
    try:
        yield
    except (AssertionError, RuntimeError, IndexError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnsupportedError(
            f"{class_name} cannot run so on {device}: {_first_line(error)}",
            hint="where a model asks for values, which meta tensors do not have, --device cpu can run it"
            if device == "meta"
            else None,
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
