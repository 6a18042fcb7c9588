"""From names to a training job: what is left open follows from the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from planner.formats import find_format
from planner.optimizers import find_optimizer
from planner.parallelism import ONE_DEVICE, Parallelism
from planner.precisions import DEFAULT_OPTIMIZER, DEFAULT_PRECISION, find_precision
from planner.training.job import TrainingJob, parse_recompute
from planner.training.loss import find_loss_path
from planner.training.recipe import find_recipe
from planner.workload import Step

if TYPE_CHECKING:
    from planner.adapters import Adapter
    from planner.numeric import Num

DEFAULT_RECIPE = "huggingface"
"""Recipe of a question that names none and asks for more than the model's states."""


def training_job(
    step: Step,
    recipe: str = DEFAULT_RECIPE,
    *,
    precision: str | None = None,
    optimizer: str | None = None,
    parallelism: Parallelism = ONE_DEVICE,
    recompute: str | None = None,
    loss: str | None = None,
    attention: str | None = None,
    micro_batches: Num = 1,
    adapter: Adapter | None = None,
    base: str | None = None,
    compiled: bool | None = None,
    device: str = "",
    stage_split: tuple[int, ...] | None = None,
    offload_activations: bool = False,
    options: Mapping[str, str | int | float | bool] | None = None,
) -> TrainingJob:
    """Job by catalog names; what is None is what the recipe usually does.

    Parameters
    ----------
    step : Step
        One micro-batch of one rank.
    recipe, precision, optimizer, recompute, loss, attention, base, device : str
        Names, see `TrainingJob`.
    parallelism : Parallelism
        Degrees.
    micro_batches : Num
        Micro-batches of one optimizer step. [-]
    adapter : Adapter, optional
        What of the model is trained.
    compiled : bool, optional
        Whether torch.compile is used.
    stage_split : tuple of int, optional
        Layers of each pipeline chunk, where they are uneven.
    offload_activations : bool
        What is kept of recomputed blocks lies in the host's memory.
    options : mapping, optional
        Switches of the recipe, see `TrainingJob`.

    Raises
    ------
    UnknownNameError
        A name is unknown; it says which are known.
    """
    found = find_recipe(recipe)
    path = loss or found.word("loss", "eager")
    find_loss_path(path)
    return TrainingJob(
        step=step,
        recipe=found,
        precision=find_precision(precision or found.word("precision", DEFAULT_PRECISION)),
        optimizer=find_optimizer(optimizer or found.word("optimizer", DEFAULT_OPTIMIZER)),
        parallelism=parallelism,
        recompute=replace(parse_recompute(recompute or found.word("recompute", "none")), offload=offload_activations),
        stage_split=stage_split,
        loss=path,
        attention=attention or found.word("attention", "sdpa"),
        micro_batches=micro_batches,
        adapter=adapter,
        base=find_format(base or found.word("base")) if base or found.word("base") else None,
        compiled=found.word("compiled", "no") == "yes" if compiled is None else compiled,
        device=device,
        options=options or {},
    )
