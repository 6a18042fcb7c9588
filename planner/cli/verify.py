"""`planner verify`: proof on the real model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.options import ClassName, ModelsDir, ModuleName, Offline, Overrides, parse_overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from planner.models import Model
    from planner.report import Table
    from planner.verify import Verification
    from planner.workload import Step

FORMATS = ("text", "json")

EXIT_DIFFERENT = 1
"""Some number is not the real model's; 2 is left to errors."""

OF_A_MODEL = ("source_length", "past", "images", "attention", "experts", "backward", "memory")
OF_MEMORY = ("checkpointing", "dtype", "cache")
OF_A_CONFIG = ("class_name", "overrides", "models_dir", "offline")
OF_A_STEP = ("batch_size", "sequence_length")
OF_THE_CATALOG = ("limit", "family")
"""Options that mean something for one of MODEL, --module, --all and --memory only, by their names in the code."""

NOT_OF_TRAINING, NOT_OF_A_CACHE = ("backward", "past"), ("backward", "checkpointing")
"""Options that mean nothing for --memory, without --cache and with it."""


def verify(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A config.json or its folder, an <org>/<name>, or an alias such as gpt2.",
            show_default=False,
        ),
    ] = None,
    module: ModuleName = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every model of the catalog, in the implementation that is usual.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="meta|cpu|cuda",
            help="Where to build it; meta allocates nothing, whatever the size.",
            show_default="meta, and cpu for --module",
        ),
    ] = None,
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
    memory: Annotated[
        bool, typer.Option("--memory", help="Train for a step, and compare what backward keeps and what is held.")
    ] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="With --memory: compute blocks again in backward.")
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|autocast",
            help="With --memory: precision of weights and products; autocast is for training.",
        ),
    ] = "bf16",
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="dynamic|static",
            help="With --memory: no training, but a prompt and what follows it, with this cache of transformers.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --all: no more models than this.")] = None,
    family: Annotated[
        str | None, typer.Option(metavar="MODEL_TYPE", help="With --all: only this model_type, such as llama.")
    ] = None,
    class_name: ClassName = None,
    overrides: Overrides = None,
    models_dir: ModelsDir = None,
    offline: Offline = False,
    output_format: Annotated[str, typer.Option("--format", metavar="text|json", help="How to print.")] = "text",
) -> None:
    """Build the real model with random weights, run it, and compare every parameter and every matrix product.

    With --memory, compare what autograd keeps for backward, and what a whole training step holds at a time; with
    --cache, what the cache holds behind a prompt (--past, or all tokens) and behind what follows it.

    Exit status: 0 if no path differs, 1 if one does, 2 if the question cannot be answered.
    """
    from planner.errors import PlannerError, UnknownNameError, near_miss
    from planner.models import load_model
    from planner.workload import Step

    if output_format not in FORMATS:
        raise UnknownNameError(
            f"unknown format '{output_format}', expected one of {', '.join(FORMATS)}",
            hint=near_miss(output_format, FORMATS),
        )
    if [model is not None, module is not None, every].count(True) != 1:
        raise PlannerError("expected one of MODEL, --module and --all")
    step = Step(
        batch_size=batch_size, sequence_length=sequence_length, source_length=source_length, past=past, images=images
    )
    if every:
        _refuse(context, "--all", (*OF_A_MODEL, *OF_MEMORY, *OF_A_CONFIG))
        _every(step, device or "meta", limit, family, output_format)
    elif module is not None:
        _refuse(context, "--module", (*OF_A_MODEL, *OF_MEMORY, *OF_A_CONFIG, *OF_A_STEP, *OF_THE_CATALOG))
        _print([_of_module(module, device or "cpu")], output_format)
    elif model is not None:
        _refuse(context, "a model", OF_THE_CATALOG)
        _check_options(context, memory=memory, cache=cache)
        loaded = load_model(
            model, models_dir=models_dir, overrides=parse_overrides(overrides), class_name=class_name, offline=offline
        )
        if memory:
            how = {"device": device or "meta", "attention": attention, "experts": experts, "dtype": dtype}
            if cache is None:
                _memory(loaded, step, how, output_format, checkpointing=checkpointing)
            else:
                _inference(loaded, step, {**how, "cache": cache}, output_format)
            return
        with _progress() as tell:
            tell("loading torch and transformers")
            from planner.verify import verify as verify_model

            results = verify_model(
                loaded,
                step=step,
                device=device or "meta",
                attention=attention,
                experts=experts,
                backward=backward,
                progress=tell,
            )
        _print(results, output_format)


def _refuse(context: typer.Context, what: str, names: tuple[str, ...]) -> None:
    """An option that would change nothing is never what was meant."""
    from planner.errors import PlannerError

    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise PlannerError(f"means nothing for {what}", key=parameter.opts[0])


def _check_options(context: typer.Context, *, memory: bool, cache: str | None) -> None:
    """What is asked of a model: products, a training step, or a cache."""
    if not memory:
        _refuse(context, "products (ask for --memory)", OF_MEMORY)
    elif cache is None:
        _refuse(context, "--memory", NOT_OF_TRAINING)
    else:
        _refuse(context, "--cache", NOT_OF_A_CACHE)


def _of_module(name: str, device: str) -> Verification:
    with _progress() as tell:
        tell("loading torch")
        from planner.verify.module import verify_module

        return verify_module(name, device=device, progress=tell)


def _memory(model: Model, step: Step, how: dict[str, str], output_format: str, *, checkpointing: bool) -> None:
    from planner.cli.verify_memory import memory_json, memory_tables

    with _progress() as tell:
        tell("loading torch and transformers")
        from planner.verify.memory import verify_memory

        results = verify_memory(
            model,
            step=step,
            device=how["device"],
            attention=how["attention"],
            experts=how["experts"],
            dtype=how["dtype"],
            checkpointing=checkpointing,
            progress=tell,
        )
    _show(memory_tables, memory_json, results, output_format)


def _inference(model: Model, step: Step, how: dict[str, str], output_format: str) -> None:
    from planner.cli.verify_inference import inference_json, inference_tables

    with _progress() as tell:
        tell("loading torch and transformers")
        from planner.verify.inference import verify_inference

        results = verify_inference(
            model,
            step=step,
            cache=how["cache"],
            device=how["device"],
            attention=how["attention"],
            experts=how["experts"],
            dtype=how["dtype"],
            progress=tell,
        )
    _show(inference_tables, inference_json, results, output_format)


def _show(
    tables: Callable[[Any], Iterable[Table]], json: Callable[[Any], str], results: Sequence[Any], output_format: str
) -> None:
    """Print what was measured, and exit with the status that says whether all of it is exact."""
    from planner.report import render

    if output_format == "json":
        typer.echo(json(results), nl=False)
    else:
        typer.echo("\n".join(render(table, "text") for table in tables(results)), nl=False)
    if not all(result.exact for result in results):
        raise typer.Exit(EXIT_DIFFERENT)


def _every(step: Step, device: str, limit: int | None, family: str | None, output_format: str) -> None:
    from planner.cli.verify_report import outcomes_json, outcomes_table
    from planner.report import render

    with _progress() as tell:
        tell("loading torch and transformers")
        from planner.verify.every import chosen_models, verify_every

        outcomes = list(verify_every(chosen_models(family, limit), step=step, device=device, progress=tell))
    json = output_format == "json"
    typer.echo(outcomes_json(outcomes) if json else render(outcomes_table(outcomes, device), "text"), nl=False)
    if any(outcome.verdict in ("different", "failed") for outcome in outcomes):
        raise typer.Exit(EXIT_DIFFERENT)


def _print(results: Sequence[Verification], output_format: str) -> None:
    from planner.cli.verify_report import results_json, results_table
    from planner.report import render

    json = output_format == "json"
    typer.echo(results_json(results) if json else render(results_table(results), "text"), nl=False)
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
