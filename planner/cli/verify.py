"""`planner verify`: proof on the real model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.options import ClassName, ModelName, ModelsDir, Offline, Overrides, parse_overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.report.tables import Cell
    from planner.verify import Figure, Verification

FORMATS = ("text", "json")

EXIT_DIFFERENT = 1
"""Some number is not the real model's; 2 is left to errors."""

LONGEST_LIST = 50
"""Differing paths that the text form prints; JSON has all of them."""


def verify(
    model: ModelName,
    device: Annotated[
        str, typer.Option(metavar="meta|cpu|cuda", help="Where to build it; meta allocates nothing, whatever the size.")
    ] = "meta",
    batch_size: Annotated[int, typer.Option(min=1, help="Samples.")] = 1,
    sequence_length: Annotated[int, typer.Option(min=1, help="New tokens a sample.")] = 128,
    source_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of an encoder-decoder's encoder.", show_default="as sequence-length"),
    ] = None,
    past: Annotated[int, typer.Option(min=0, help="Tokens a sample that are already in the cache.")] = 0,
    images: Annotated[
        int, typer.Option(min=0, help="Images a sample beside the text, whose tokens are part of it.")
    ] = 0,
    attention: Annotated[
        str, typer.Option(metavar="eager|sdpa|all", help="Implementation of attention in transformers.")
    ] = "all",
    experts: Annotated[
        str,
        typer.Option(
            metavar="eager|batched_mm|grouped_mm|all|auto",
            help="Implementation of routed experts; auto is grouped_mm, transformers' own choice.",
        ),
    ] = "auto",
    backward: Annotated[bool, typer.Option("--backward", help="Run backward as well and count it.")] = False,
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
    output_format: Annotated[str, typer.Option("--format", metavar="text|json", help="How to print.")] = "text",
) -> None:
    """Build the real model with random weights, run it, and compare every parameter and every matrix product.

    Exit status: 0 if no path differs, 1 if one does, 2 if the question cannot be answered.
    """
    from planner.errors import UnknownNameError, near_miss
    from planner.models import load_model
    from planner.workload import Step

    if output_format not in FORMATS:
        raise UnknownNameError(
            f"unknown format '{output_format}', expected one of {', '.join(FORMATS)}",
            hint=near_miss(output_format, FORMATS),
        )
    loaded = load_model(
        model, models_dir=models_dir, overrides=parse_overrides(overrides), class_name=class_name, offline=offline
    )
    step = Step(
        batch_size=batch_size, sequence_length=sequence_length, source_length=source_length, past=past, images=images
    )
    with _progress() as tell:
        tell("loading torch and transformers")
        from planner.verify import verify as verify_model

        results = verify_model(
            loaded,
            step=step,
            device=device,
            attention=attention,
            experts=experts,
            backward=backward,
            progress=tell,
        )
    typer.echo(_json(results) if output_format == "json" else _text(results), nl=False)
    if not all(result.exact for result in results):
        raise typer.Exit(EXIT_DIFFERENT)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr: one changing line on a terminal, and otherwise a line each."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield status.update
    else:
        yield lambda words: typer.echo(words, err=True)


def _json(results: Sequence[Verification]) -> str:
    import json

    return json.dumps([result.to_json() for result in results], indent=2, ensure_ascii=False) + "\n"


def _text(results: Sequence[Verification]) -> str:
    from planner.report import Table, render

    first = results[0]
    versions = ", ".join(f"{name} {version}" for name, version in first.versions.items())
    table = Table(
        title=f"{first.model}: {first.class_name} on {first.device} ({first.dtype}), {_step(first)}; {versions}",
        columns=["attention", "experts", "quantity", "counted by", "planner", "real model", "difference"],
        rows=[row for result in results for row in _rows(result)],
        notes=list(_notes(results)),
    )
    return render(table, "text")


def _step(result: Verification) -> str:
    step = result.step
    words = f"{step.batch_size} x {step.sequence_length} tokens"
    words += f", {step.source} of the encoder" if step.source_length is not None else ""
    words += f", {step.images} images a sample" if step.images else ""
    return words + (f", {step.past} in the cache" if step.past else "")


def _rows(result: Verification) -> Iterator[list[Cell]]:
    def row(quantity: str, counted_by: str, figure: Figure) -> list[Cell]:
        numbers = (figure.expected, figure.actual, figure.difference)
        return [result.attention, result.experts, quantity, counted_by, *numbers]

    yield row("parameters", "named_parameters", result.parameters)
    yield row("forward FLOPs", "fvcore", result.flops)
    if result.witness.forward is not None:
        yield row("forward FLOPs", "FlopCounterMode", result.witness.forward)
    if result.witness.backward is not None:
        yield row("backward FLOPs", "FlopCounterMode", result.witness.backward)


def _notes(results: Sequence[Verification]) -> Iterator[str]:
    for result in results:
        how = result.attention + (f", {result.experts}" if result.experts else "")
        verdict = f"{len(result.differences)} paths differ" if result.differences else "no path differs"
        yield f"{how}: {result.tensors:,} tensors and {result.modules:,} modules compared one by one: {verdict}"
        for difference in result.differences[:LONGEST_LIST]:
            yield f"  {difference}"
        if len(result.differences) > LONGEST_LIST:
            yield f"  and {len(result.differences) - LONGEST_LIST:,} more, all of them with --format json"
        if result.apart:
            yield f"  {result.apart:,} FLOPs of recurrences and past the sequence: scan, not compared"
        if result.witness.reason is not None:
            yield f"  second count not run: {result.witness.reason}"
    yield from dict.fromkeys(note for result in results for note in result.notes)
    yield "1 multiply-add = 2 FLOPs; matrix products only, masked scores included"
