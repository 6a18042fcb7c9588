"""Checkpoints that arguments name: read, compared with their model, and shown as stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from planner.headers import Comparison, StoredBytes, StoredCheckpoint
    from planner.memory import Memory
    from planner.models import Model
    from planner.report import Table

FromFiles = Annotated[
    bool,
    typer.Option(
        "--from-files",
        help="Read the headers of the weight files of a name, from the cache or the hub; org/name:Q4_K_M names one.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What an argument names.

    Attributes
    ----------
    name : str
        The argument.
    model : Model or None
        None where there are files and no config.
    stored : StoredCheckpoint or None
        None where only a config is asked for.
    comparison : Comparison or None
        Of the two, where there are both.
    """

    name: str
    model: Model | None
    stored: StoredCheckpoint | None = None
    comparison: Comparison | None = None


def named(
    name: str,
    *,
    models_dir: Path | None,
    overrides: Sequence[str] | None,
    class_name: str | None,
    offline: bool,
    from_files: bool,
) -> Named:
    """Model and files of an argument: a path with weights is read, a name only where it is asked for."""
    from planner.cli.loading import named_model
    from planner.errors import PlannerError

    stored = checkpoint_of(name, offline=offline, from_files=from_files)
    if stored is None:
        found = named_model(name, models_dir=models_dir, overrides=overrides, class_name=class_name, offline=offline)
        return Named(name=name, model=found)
    if stored.config is None:
        if overrides or class_name is not None:
            raise PlannerError(
                f"means nothing for '{name}', which has no config.json", key="--set" if overrides else "--class"
            )
        return Named(name=name, model=None, stored=stored)
    model = _model_beside(name, stored, overrides, class_name)
    from planner.headers import compare

    return Named(name=name, model=model, stored=stored, comparison=compare(model, stored))


def checkpoint_of(name: str, *, offline: bool, from_files: bool) -> StoredCheckpoint | None:
    """Headers of the files that a path has, or, where it is asked for, those of a name."""
    path = Path(name)
    if not from_files and not path.exists():
        return None
    from planner.errors import UnknownNameError
    from planner.headers import has_weights, read_checkpoint

    if not from_files and not has_weights(path):
        return None
    try:
        return read_checkpoint(name, offline=offline)
    except UnknownNameError as error:
        if from_files or not (path / "config.json").is_file():
            raise
        # The config alone is an answer; which of several checkpoints is meant was not asked.
        typer.echo(f"warning: {error}", err=True)
        return None


def _model_beside(
    name: str, stored: StoredCheckpoint, overrides: Sequence[str] | None, class_name: str | None
) -> Model:
    """Model of the config that lies beside the files, which need not be the one that a catalog has for the name."""
    from planner.cli.options import parse_overrides
    from planner.cli.output import warn_about_unread_keys
    from planner.models import build_model
    from planner.sources import ConfigSource

    source = ConfigSource(name=name, raw=stored.config or {}, origin=stored.config_origin)
    model = build_model(source, parse_overrides(overrides), class_name)
    warn_about_unread_keys(model)
    return model


def stored_sizes(found: Named) -> Mapping[str, StoredBytes] | None:
    """Sizes of the model's tensors in its files; None where only a config was asked for."""
    from planner.headers import stored_bytes_by_tensor

    return None if found.comparison is None else stored_bytes_by_tensor(found.comparison)


def stored_table(found: Named) -> Table:
    """Rows of one checkpoint, which sum to the bytes of its files."""
    from planner.headers import remarks, summarise
    from planner.report import Table
    from planner.units import format_count, format_gib

    stored = _files(found)
    rows = summarise(stored, found.comparison)
    return Table(
        title=f"{found.name} as stored: {format_count(stored.size_bytes)} bytes, {format_gib(stored.size_bytes)} GiB",
        columns=("component", "parameters", "stored", "bytes", "of which scales", "bits each", "dtypes", "what it is"),
        rows=[
            *(
                [
                    row.component,
                    row.parameters,
                    row.stored,
                    row.size_bytes,
                    row.beside_bytes if row.weight_bytes else 0,
                    8 * row.size_bytes / row.stored if row.stored else None,
                    ", ".join(f"{dtype} {format_count(size)}" for dtype, size in row.dtypes.items()),
                    row.why,
                ]
                for row in rows
            ),
            ["total", _parameters(found), sum(row.stored for row in rows), stored.size_bytes, None, None, "", ""],
        ],
        notes=remarks(stored, found.comparison),
    )


def stored_rows_table(many: Sequence[Named]) -> Table:
    """Rows of several checkpoints for a spreadsheet: one line a component and dtype."""
    from planner.headers import summarise
    from planner.report import Table

    rows: list[list[str | int | None]] = []
    for found in many:
        for row in summarise(_files(found), found.comparison):
            place = [found.name, row.component, row.parameters, row.stored]
            sizes = row.dtypes or {"": row.size_bytes}
            rows.extend([*place, dtype, size, row.why] for dtype, size in sizes.items())
    return Table(
        title="as stored",
        columns=("model", "component", "parameters", "stored", "dtype", "size_bytes", "why"),
        rows=rows,
    )


def stored_record(found: Named) -> dict[str, object]:
    """A checkpoint for JSON."""
    from planner.headers import bytes_by_dtype, remarks, summarise

    stored = _files(found)
    comparison = found.comparison
    return {
        "origin": stored.origin,
        "format": stored.format,
        "files": [{"name": file.name, "size_bytes": file.size_bytes} for file in stored.files],
        "size_bytes": stored.size_bytes,
        "tensor_bytes": stored.tensor_bytes,
        "tensors": len(stored.tensors),
        "elements": stored.elements,
        "bytes_by_dtype": bytes_by_dtype(stored.tensors),
        "rows": [
            {
                "component": row.component,
                "parameters": row.parameters,
                "stored": row.stored,
                "size_bytes": row.size_bytes,
                "beside_bytes": row.beside_bytes,
                "bytes_by_dtype": dict(row.dtypes),
                "why": row.why,
            }
            for row in summarise(stored, comparison)
        ],
        "missing": [] if comparison is None else [slot.name for slot in comparison.missing],
        "differing": [] if comparison is None else [held.slot.name for held in comparison.differing],
        "notes": remarks(stored, comparison),
    }


def _files(found: Named) -> StoredCheckpoint:
    if found.stored is None:
        raise ValueError(f"{found.name} was not read from files")
    return found.stored


def _parameters(found: Named) -> int | None:
    from planner.counts import count

    return None if found.model is None else int(count(found.model.tree).total)


def files_memory(found: Named) -> tuple[str, Memory] | None:
    """What the weights take as the files store them, and its name; None where no files were read."""
    from planner.headers import stored_memory

    if found.stored is None:
        return None
    return f"weights as stored in {found.stored.format}", stored_memory(found.stored, found.comparison)


def files_memory_table(found: Named) -> Table:
    """The same where there is no model beside the files."""
    from planner.headers import remarks, stored_memory
    from planner.plan import NOT_INCLUDED
    from planner.report import Table
    from planner.units import format_gib

    stored = _files(found)
    memory = stored_memory(stored, None)
    rows = [[row.name, row.size_bytes, format_gib(row.size_bytes), row.basis, row.source] for row in memory.rows]
    return Table(
        title=f"{found.name}: weights as stored in {stored.format}",
        columns=("memory", "bytes", "GiB", "basis", "source"),
        rows=[*rows, ["total", memory.total_bytes, format_gib(memory.total_bytes), "", ""]],
        notes=["GiB is 2**30 bytes", NOT_INCLUDED, *remarks(stored, None)],
    )
