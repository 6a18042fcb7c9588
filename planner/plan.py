"""The answer to one scenario, and the stages that it takes: a sweep calls the same ones on columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.compute import Compute, compute, step_warnings
from planner.counts import Counts, count
from planner.devices import Device, find_device
from planner.formats import find_format
from planner.formulas.fit import fits, headroom_bytes, min_devices
from planner.memory import Memory, inference_memory, training_memory
from planner.models import BUILDER, Model, load_model
from planner.nodes import Node
from planner.numeric import Num
from planner.optimizers import find_optimizer
from planner.precisions import find_precision
from planner.scenario import TRAINING, Mode, Scenario
from planner.workload import Step

CONVENTION = "matmul"
"""Convention of every FLOPs figure of a plan and a sweep, see `planner.compute.CONVENTIONS`."""

TRACED_NOTE = (
    "FLOPs are traced on the real class: the conventions are matmul and 6N, and backward is taken as twice forward"
)
"""What a count by tracing does not know."""

NOT_INCLUDED = (
    "activations, the KV cache and the runtime's own memory are not included yet: "
    "that it fits means that the model's states fit"
)
"""What a plan does not know."""


def states(tree: Node, mode: Mode, weights: str, precision: str, optimizer: str) -> Memory:
    """Memory of a model's states in one use; training does not read `weights`, inference not the other two.

    Parameters
    ----------
    tree : Node
        Its dimensions may be columns.
    mode : str
        ``inference`` or ``training``.
    weights, precision, optimizer : str
        Names of the catalog.

    Raises
    ------
    UnknownNameError
        A name that is used is unknown.
    """
    if mode == TRAINING:
        return training_memory(tree, find_precision(precision), find_optimizer(optimizer))
    return inference_memory(tree, find_format(weights))


def work(model: Model, tree: Node, step: Step) -> Compute:
    """FLOPs of a step: a fold over the tree, or a trace of the real class where no builder knows the products.

    Parameters
    ----------
    model : Model
        What is asked about.
    tree : Node
        Its tree, whose dimensions may be columns.
    step : Step
        May hold columns for a model with a builder.

    Raises
    ------
    UnsupportedError
        The model cannot do such a step, or cannot be traced.
    """
    if model.method == BUILDER:
        return compute(tree, step)
    from planner.verify.traced import traced_compute

    return traced_compute(model, step)


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """FLOPs of a step by the convention ``matmul``, over the positions that it processes.

    Attributes
    ----------
    forward, training : Num
        One pass; and with backward, every parameter trained. [FLOP/token]
    """

    forward: Num
    training: Num


def flops_per_token(work: Compute) -> FlopsPerToken:
    """FLOPs of a step for each of its tokens."""
    flops = work.conventions[CONVENTION]
    return FlopsPerToken(forward=flops.forward / work.tokens, training=flops.training / work.tokens)


@dataclass(frozen=True, slots=True)
class Fit:
    """How something lies in the memory of a device.

    Attributes
    ----------
    headroom_bytes : Num
        Left on one device; negative where it does not fit. [B]
    fits : bool or column of bool
        Whether one device holds it.
    min_gpus : Num
        Devices of the kind whose memory together holds it. [device]
    """

    headroom_bytes: Num
    fits: Any
    min_gpus: Num


def fit(memory_bytes: Num, needed_bytes: Num) -> Fit:
    """How `needed_bytes` lie in devices of `memory_bytes`; both in bytes. [B]"""
    return Fit(
        headroom_bytes=headroom_bytes(memory_bytes, needed_bytes),
        fits=fits(memory_bytes, needed_bytes),
        min_gpus=min_devices(memory_bytes, needed_bytes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer to one scenario.

    Attributes
    ----------
    scenario : Scenario
        The question.
    model : Model
        What was counted.
    counts : Counts
        Its parameters.
    memory : Memory
        Its states.
    compute : Compute
        FLOPs of one step.
    device : Device or None
        The accelerator, where one is asked about.
    fit : Fit or None
        How the states lie in its memory.
    assumptions : tuple of str
        What was taken for granted, and what is left out.
    """

    scenario: Scenario
    model: Model
    counts: Counts
    memory: Memory
    compute: Compute
    device: Device | None
    fit: Fit | None
    assumptions: tuple[str, ...]

    @property
    def flops_per_token(self) -> FlopsPerToken:
        """FLOPs for each token of the step."""
        return flops_per_token(self.compute)


def plan(scenario: Scenario, *, models_dir: Path | None = None, offline: bool = False) -> Plan:
    """Answer a scenario.

    Parameters
    ----------
    scenario : Scenario
        The question.
    models_dir : Path, optional
        Folder of configs that is searched first.
    offline : bool
        Do not ask the hub for a config.

    Raises
    ------
    PlannerError
        A name is unknown, the model's config is wrong, or the model cannot do what the scenario asks of it.

    Examples
    --------
    >>> answer = plan(Scenario(model="google-bert/bert-base-uncased", gpu="T4", sequence_length=512))
    >>> answer.memory.total_bytes, answer.fit.fits, answer.fit.min_gpus  # 109,514,298 parameters * 2 B
    (219028596, True, 1)
    """
    model = load_model(
        scenario.model,
        models_dir=models_dir,
        overrides=scenario.overrides,
        class_name=scenario.class_name,
        offline=offline,
    )
    tree = model.tree
    memory = states(tree, scenario.mode, scenario.weights, scenario.precision, scenario.optimizer)
    computed = work(model, tree, scenario.step)
    device = None if scenario.gpu is None else find_device(scenario.gpu)
    return Plan(
        scenario=scenario,
        model=model,
        counts=count(tree),
        memory=memory,
        compute=computed,
        device=device,
        fit=None if device is None else fit(device.memory_bytes, memory.total_bytes),
        assumptions=(
            *model.assumptions,
            *_ignored(scenario),
            *step_warnings(tree, scenario.step),
            *([] if model.method == BUILDER else [TRACED_NOTE]),
            *_upper_bound(device),
            NOT_INCLUDED,
        ),
    )


def _ignored(scenario: Scenario) -> list[str]:
    """Fields that were stated and that this mode does not read."""
    unread = ("weights",) if scenario.mode == TRAINING else ("precision", "optimizer")
    return [
        f"{name} = {getattr(scenario, name)}: not read in {scenario.mode}"
        for name in unread
        if name in scenario.model_fields_set
    ]


def _upper_bound(device: Device | None) -> list[str]:
    if device is None or device.memory_basis != "nominal":
        return []
    return [f"memory of {device.name}: the size sold, which is an upper bound of what programs see"]
