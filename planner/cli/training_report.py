"""Text and records of a training job's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.devices import Device
    from planner.models import Model
    from planner.report import Table
    from planner.training import TrainingJob, TrainingMemory
    from planner.training.phases import StageMemory
    from planner.validate.intervals import Residuals


def record(model: Model, job: TrainingJob, memory: TrainingMemory, devices: list[Device]) -> dict[str, Any]:
    """Everything that is known, for machines."""
    from dataclasses import asdict

    from planner.plan import fit
    from planner.training.counters import device_bytes, reserved_bytes

    peak = memory.peak_bytes
    needed = device_bytes(peak, job)
    bounds = _interval(model, job, peak)
    return {
        "model": model.name,
        "class": model.class_name,
        "recipe": job.recipe.name,
        "stages": [
            {
                "stage": stage.stage.index,
                "resident": [asdict(row) for row in stage.resident],
                "phases": {name: [asdict(row) for row in rows] for name, rows in stage.phases.items()},
                "steady_bytes": stage.steady_bytes,
                "peak_bytes": stage.peak_bytes,
                "peak_phase": stage.peak_phase,
            }
            for stage in memory.stages
        ],
        "peak_bytes": peak,
        "peak_low_bytes": None if bounds is None else bounds[0],
        "peak_high_bytes": None if bounds is None else bounds[1],
        "reserved_bytes": reserved_bytes(peak, job),
        "device_bytes": needed,
        "gpus": [
            {
                "gpu": device.name,
                "memory_bytes": device.memory_bytes,
                "headroom_bytes": found.headroom_bytes,
                "fits": found.fits,
            }
            for device in devices
            for found in (fit(device.memory_bytes, needed),)
        ],
        "assumptions": [*model.assumptions, *_notes(model, job)],
    }


def _interval(model: Model, job: TrainingJob, peak: Any) -> tuple[Any, Any] | None:
    from planner.validate.context import training_context
    from planner.validate.intervals import interval

    return interval(job.recipe.name, "peak_bytes", peak, context=training_context(model.tree, job))


def stage_table(model: Model, job: TrainingJob, stage: StageMemory, stages: int) -> Table:
    """Rows of one pipeline stage: what stays, and what its fullest phase adds."""
    from planner.report import Table
    from planner.units import format_gib, whole_bytes

    phase = stage.peak_phase
    where = f", stage {stage.stage.index} of {stages}" if stages > 1 else ""
    step = job.step
    rows = [*(("always", row) for row in stage.resident), *((phase, row) for row in stage.phases[phase])]
    others: list[list[Any]] = [
        [f"peak of {name}", None, whole_bytes(stage.phase_bytes(name)), format_gib(stage.phase_bytes(name)), None, None]
        for name in stage.phases
    ]
    return Table(
        title=f"{model.name} ({model.class_name}), {job.recipe.name}: {job.precision.name} with {job.optimizer.name}, "
        f"micro-batch {step.batch_size} x {step.sequence_length} tokens, one GPU{where}",
        columns=("when", "memory", "bytes", "GiB", "basis", "source"),
        rows=[
            *list[list[Any]](
                [when, row.name, whole_bytes(row.size_bytes), format_gib(row.size_bytes), row.basis, row.source]
                for when, row in rows
                if row.size_bytes
            ),
            ["between steps", None, whole_bytes(stage.steady_bytes), format_gib(stage.steady_bytes), None, None],
            *others,
        ],
        notes=_notes(model, job),
    )


def _notes(model: Model, job: TrainingJob) -> list[str]:
    from planner.compute import step_warnings
    from planner.training.choices import left_out

    dropout = "".join(
        f", {name.replace('_', ' ')} {job.options[name]:g}"
        for name in ("hidden_dropout", "attention_dropout")
        if job.options.get(name)
    )
    return [
        f"loss path {job.loss}, attention {job.attention}, recomputation {job.recompute.kind}{dropout}",
        "GiB is 2**30 bytes; bytes that torch allocates, on the fullest rank of the stage",
        *step_warnings(model.tree, job.step),
        *left_out(model.tree, job),
    ]


def verdict_table(model: Model, job: TrainingJob, memory: TrainingMemory, devices: list[Device]) -> Table:
    """The three figures, their interval, and whether the asked accelerators hold them."""
    from planner.plan import fit
    from planner.report import Table
    from planner.training.counters import device_bytes, reserved_bytes
    from planner.units import format_gib
    from planner.validate.intervals import residuals_for

    peak = memory.peak_bytes
    needed = device_bytes(peak, job)
    bounds = _interval(model, job, peak)
    residuals = residuals_for(job.recipe.name, "peak_bytes")
    low, high = (None, None) if bounds is None else bounds
    scale = needed / peak
    rows: list[list[Any]] = [
        ["allocated", format_gib(peak), *(None if end is None else format_gib(end) for end in (low, high)), None, None],
        ["reserved by the allocator", format_gib(reserved_bytes(peak, job)), None, None, None, None],
        ["device, with context and collectives", format_gib(needed), None, None, None, None],
    ]
    for device in devices:
        found = fit(device.memory_bytes, needed)
        sure = "yes" if found.fits else "no"
        if low is not None and high is not None:
            inside = low * scale <= device.memory_bytes <= high * scale
            sure = f"{sure}, but the limit lies inside the interval" if inside else sure
        rows.append([device.name, format_gib(device.memory_bytes), None, None, format_gib(found.headroom_bytes), sure])
    return Table(
        title="peak on the fullest GPU",
        columns=("figure", "GiB", "low GiB", "high GiB", "headroom GiB", "fits"),
        rows=rows,
        notes=[_coverage(model, job, residuals)],
    )


def _coverage(model: Model, job: TrainingJob, residuals: Residuals | None) -> str:
    """What the interval rests on, or why there is none."""
    from planner.validate.context import training_context

    if residuals is None:
        return "no measurement covers this recipe: no interval can be given"
    context = training_context(model.tree, job)
    if not residuals.covers(context):
        return (
            f"no measurement of {job.recipe.name} covers this case ({context}): no interval can be given; "
            f"measured are {'; '.join(residuals.contexts)}"
        )
    return (
        f"the interval holds 90 % of {residuals.rows} measurements of {job.recipe.name} "
        f"({'; '.join(residuals.contexts)}), whose median error is {100 * residuals.median_error:.2f} % "
        "(`planner validate`)"
    )
