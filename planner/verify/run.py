"""One request: build the real model in every way asked for, run it, compare."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from planner.compute import compute
from planner.counts import count
from planner.errors import UnsupportedError
from planner.models import BUILDER, Model
from planner.nodes import Attention, Experts, Leaf, walk
from planner.real.build import DTYPES, real_class
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
from planner.verify.execute import Executed, Execution, Progress
from planner.verify.free_memory import needed_bytes, refuse_what_does_not_fit
from planner.verify.result import Figure, Products, Verification, Witness, versions
from planner.verify.scans import has_scans, set_scans_apart
from planner.verify.witnesses import products_of_witnesses
from planner.workload import Step

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

    A model without a builder has a tree of parameters only, and its products are two counts against each other.

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
    if model.method != BUILDER:
        _check_without_builder(model, step, backward=backward)
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
    execution = Execution(model=model, step=step, device=device, backward=backward, tell=progress or (lambda _: None))
    run = _Run(execution)
    results = [run.verification(implementation) for implementation in chosen]
    return [replace(result, notes=(*skipped, *result.notes)) for result in results]


def _check_without_builder(model: Model, step: Step, *, backward: bool) -> None:
    """Two witnesses see the same forward pass; only one of them sees more, and nobody made up such a cache."""
    if backward:
        raise UnsupportedError(
            f"{model.class_name} has no builder, and fvcore sees no backward to compare with", key="backward"
        )
    if step.past > 0:
        raise UnsupportedError(
            f"{model.class_name} has no builder, so a past cannot be made up", key="past", hint="leave past at 0"
        )


def _is_indexed(leaf: Leaf) -> bool:
    """Whether an attention looks at keys that were chosen or pooled, for which its cache keeps more than keys."""
    return isinstance(leaf, Attention) and (leaf.selected is not None or leaf.keys == "pooled")


class _Run:
    """A request, apart from the implementations."""

    def __init__(self, execution: Execution) -> None:
        model, step = execution.model, execution.step
        self._execution, self._model, self._step = execution, model, step
        # Once, and first: it refuses a step that the model cannot be asked for.
        compute(model.tree, step)
        self._shapes = expected_shapes(model.tree)
        self._flops = expected_flops(model.tree, step)
        self._forward = sum(self._flops.values())

    def verification(self, implementation: Implementation) -> Verification:
        start = time.perf_counter()
        found = self._execution.run(implementation)
        shapes = actual_shapes(found.real, [name for name, _ in self._shapes])
        built = self._model.method == BUILDER
        products = self._products_of_tree(found) if built else products_of_witnesses(found)
        return Verification(
            model=self._model.name,
            class_name=self._model.class_name,
            device=self._execution.device,
            dtype=str(self._execution.dtype).removeprefix("torch."),
            attention=implementation.attention,
            experts=implementation.experts,
            step=self._step,
            versions=versions(),
            parameters=Figure(int(count(self._model.tree).total), sum(p.numel() for p in found.real.parameters())),
            flops=products.flops,
            tensors=len(shapes),
            modules=products.modules,
            witness=products.witness,
            differences=(*shape_differences(self._shapes, shapes), *products.differences),
            apart=products.apart,
            notes=products.notes,
            seconds=time.perf_counter() - start,
            builder=built,
        )

    def _products_of_tree(self, found: Executed) -> Products:
        compared = set_scans_apart(self._model.tree, self._step, self._flops, found.traced)
        no_backward = self._execution.backward and compared.apart
        return Products(
            flops=Figure(self._forward, sum(compared.actual.values())),
            modules=sum(1 for flops in compared.actual.values() if flops),
            witness=self._witness(found),
            differences=tuple(flops_differences(compared.expected, compared.actual)),
            apart=compared.apart,
            notes=(*self._more_than_asked(), *((NO_BACKWARD,) if no_backward else ())),
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

    def _witness(self, found: Executed) -> Witness:
        kernels = found.kernels
        if kernels is None:
            return Witness(reason=found.reason)
        fused = attention_paths(self._model.tree) & kernels.fused
        apart = set_scans_apart(self._model.tree, self._step, self._flops, kernels.own).apart
        backward = None
        # the gradients of a recurrence are not in one module, so its products in backward cannot be set apart
        if kernels.backward is not None and not apart:
            backward = Figure(expected_backward(self._model.tree, self._step, fused), kernels.backward)
        return Witness(
            tensors=found.tensors,
            forward=Figure(self._forward, kernels.forward - apart),
            backward=backward,
            fused_attention=len(fused),
        )
