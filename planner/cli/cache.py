"""`planner cache`: what a request keeps between tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.options import ModelsDir, Offline

if TYPE_CHECKING:
    from planner.memory import Memory
    from planner.models import Model
    from planner.report import Table


OPTIONS = {"tensor_parallel_size": "--tp", "kv_cache_dtype": "--kv-cache-dtype", "kv_dtype": "--kv-cache-dtype"}
"""Options by what serving and cache formats call them."""


def cache(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Models, as for `planner params`.")],
    context: Annotated[int, typer.Option("--context", metavar="N", help="Tokens of the request.")] = 131072,
    dtype: Annotated[
        str, typer.Option("--kv-cache-dtype", metavar="FORMAT", help="bf16, fp8, int8, fp8-ds-mla, ...")
    ] = "bf16",
    tp: Annotated[int, typer.Option("--tp", metavar="N", help="Tensor-parallel ranks; the figures are of one.")] = 1,
    output_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="text, json, csv or markdown.")
    ] = "text",
    models_dir: ModelsDir = None,
    offline: Offline = False,
) -> None:
    """Show the KV cache and recurrent state of one request, and what one formula for every layer would say."""
    import json

    from planner.cache import Requests, bytes_per_token, cache_bytes, storage
    from planner.cli.loading import named_model
    from planner.cli.output import emit
    from planner.errors import PlannerError
    from planner.report import check_format
    from planner.serving.formats import kv_format_of
    from planner.serving.options import ServeOptions
    from planner.serving.serve import check_layout

    check_format(output_format)
    for option, number in (("--context", context), ("--tp", tp)):
        if number < 1:
            raise PlannerError(f"must be at least 1, got {number}", key=option)
    found = []
    try:
        dtype = kv_format_of(dtype, "bf16")
        kept_in = storage(dtype, state="bf16")
        for name in names:
            model = named_model(name, models_dir=models_dir, overrides=None, class_name=None, offline=offline)
            check_layout(model.tree, ServeOptions(tensor_parallel_size=tp))
            memory = cache_bytes(model.tree, Requests(tokens=context), kept_in, tp=tp)
            found.append((model, float(bytes_per_token(model.tree, kept_in, tp=tp)), memory))
    except PlannerError as error:
        known_as = OPTIONS.get(error.key or "", error.key)
        raise type(error)(error.message, file=error.file, line=error.line, key=known_as, hint=error.hint) from None
    if output_format == "json":
        typer.echo(json.dumps([_record(*item, context) for item in found], indent=2, ensure_ascii=False))
        return
    emit(_table(found, context, dtype, tp), output_format)


def _record(model: Model, token_bytes: float, memory: Memory, context: int) -> dict[str, Any]:
    from planner.serving.comparison import uniform_token_bytes

    return {
        "model": model.name,
        "context": context,
        "bytes_per_token": token_bytes,
        "request_bytes": memory.total_bytes,
        "rows": [{"name": row.name, "size_bytes": row.size_bytes, "source": row.source} for row in memory.rows],
        "uniform_bytes_per_token": uniform_token_bytes(model.raw),
    }


def _table(found: list[tuple[Model, float, Memory]], context: int, dtype: str, tp: int) -> Table:
    from planner.report import Table
    from planner.serving.comparison import uniform_token_bytes
    from planner.units import format_gib

    rows: list[list[Any]] = []
    # The formula is about one rank that keeps 16 bits: no other figure compares with it.
    compares = tp == 1 and dtype in ("bf16", "fp16")
    for model, token_bytes, memory in found:
        uniform = (uniform_token_bytes(model.raw) or 0) * context
        total = memory.total_bytes
        rows.append(
            [
                model.name,
                round(token_bytes),
                format_gib(total),
                ", ".join(f"{row.name.removeprefix('cache: ')} {format_gib(row.size_bytes)}" for row in memory.rows),
                format_gib(uniform) if uniform else None,
                f"{uniform / float(total):.2f}x" if total and uniform and compares else None,
            ]
        )
    return Table(
        title=f"one request of {context:,} tokens, cache in {dtype}" + (f", one of {tp} ranks" if tp > 1 else ""),
        columns=("model", "bytes a token", "request GiB", "of which", "uniform formula GiB", "too high by"),
        rows=rows,
        notes=[
            "bytes a token: what one more token of a long request takes",
            "uniform formula: 2 x layers x key/value heads x head_dim x 2 B, for every layer and token, on one rank",
        ],
    )
