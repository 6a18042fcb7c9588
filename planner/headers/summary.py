"""A checkpoint in a few rows: bytes by component and by dtype, which sum to the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planner.headers.gguf import ARCHITECTURE_KEY
from planner.headers.held import Comparison
from planner.headers.roles import WEIGHTS, Part, Role, weights_of
from planner.headers.stored import StoredCheckpoint, bytes_by_dtype
from planner.memory import SCALES, Memory, MemoryRow
from planner.memory import WEIGHTS as WEIGHTS_ROW

OVERHEAD = "headers and padding"

ROLE_WHY: Mapping[Role, str] = {
    "values": "weights and buffers as they are",
    "codes": "weights that are quantised",
    "scales": "scales of quantised weights",
    "zeros": "zero points of quantised weights",
    "order": "groups of input features",
    "codebook": "values that codes stand for",
    "description": "shapes and layouts",
    "activation scales": "scales of inputs",
}
"""What each role is, where no model says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """One row of the table of a checkpoint.

    Attributes
    ----------
    component : str
        Component of the model, kind of what is beyond it, or role where there is no model.
    parameters : int or None
        Of the model's component, by its config; None where the row is no part of the model. [-]
    stored : int
        Parameters that the files hold; elements where the row is no part of the model. [-]
    weight_bytes : int
        Values and codes. [B]
    beside_bytes : int
        Scales, zero points and whatever else stands beside codes; headers. [B]
    dtypes : mapping of str to int
        Size for each dtype. [B]
    why : str
        What it is, where it is no part of the model.
    """

    component: str
    parameters: int | None
    stored: int
    weight_bytes: int
    beside_bytes: int
    dtypes: Mapping[str, int]
    why: str = ""

    @property
    def size_bytes(self) -> int:
        """All of it. [B]"""
        return self.weight_bytes + self.beside_bytes


def summarise(stored: StoredCheckpoint, comparison: Comparison | None = None) -> tuple[StoredRow, ...]:
    """Rows of a checkpoint; their sizes sum to the size of its files.

    Parameters
    ----------
    stored : StoredCheckpoint
        The files.
    comparison : Comparison, optional
        With the model; without it the rows are roles.
    """
    rows = _rows_of_roles(stored) if comparison is None else _rows_of_model(comparison)
    overhead = StoredRow(
        component=OVERHEAD,
        parameters=None,
        stored=0,
        weight_bytes=0,
        beside_bytes=stored.overhead_bytes,
        dtypes={},
        why="names, shapes and places of the tensors",
    )
    return (*rows, overhead)


def _rows_of_model(comparison: Comparison) -> Iterable[StoredRow]:
    held: dict[str, list[Part]] = {}
    stored: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for one in comparison.held.values():
        held.setdefault(one.slot.bucket, []).extend(one.parts)
        stored[one.slot.bucket] = stored.get(one.slot.bucket, 0) + one.elements
        parameters[one.slot.bucket] = parameters.get(one.slot.bucket, 0) + one.slot.numel
    for slot in comparison.missing:
        parameters[slot.bucket] = parameters.get(slot.bucket, 0) + slot.numel
    for bucket in parameters:
        yield _row(bucket, held.get(bucket, ()), parameters[bucket], stored.get(bucket, 0), "")
    beyond: dict[tuple[str, str], list[Part]] = {}
    elements: dict[tuple[str, str], int] = {}
    for other in comparison.beyond:
        key = other.kind, other.why
        beyond.setdefault(key, []).extend(other.parts)
        elements[key] = elements.get(key, 0) + other.elements
    for (kind, why), parts in beyond.items():
        yield _row(kind, parts, None, elements[kind, why], why)


def _rows_of_roles(stored: StoredCheckpoint) -> Iterable[StoredRow]:
    by_role: dict[Role, list[Part]] = {}
    for weight in weights_of(stored.tensors).values():
        for part in weight:
            by_role.setdefault(part.role, []).append(part)
    for role, parts in by_role.items():
        yield _row(role, parts, None, sum(part.tensor.numel for part in parts), ROLE_WHY[role])


def _row(component: str, parts: Iterable[Part], parameters: int | None, stored: int, why: str) -> StoredRow:
    held = tuple(parts)
    weight_bytes = sum(part.tensor.size_bytes for part in held if part.role in WEIGHTS)
    return StoredRow(
        component=component,
        parameters=parameters,
        stored=stored,
        weight_bytes=weight_bytes,
        beside_bytes=sum(part.tensor.size_bytes for part in held) - weight_bytes,
        dtypes=bytes_by_dtype(tuple(part.tensor for part in held)),
        why=why,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBytes:
    """What one tensor of a model takes as its files store it.

    Attributes
    ----------
    size_bytes : int
        All of it. [B]
    weight_bytes : int
        Its values or codes. [B]
    dtype : str
        Of its values or codes, as the file spells it.
    path : str
        Name of the tensor in the tree, with stars for indices.
    """

    size_bytes: int
    weight_bytes: int
    dtype: str
    path: str


def stored_bytes_by_tensor(comparison: Comparison) -> dict[str, StoredBytes]:
    """Stored size of every tensor of the model that the files hold, by its name in the class of transformers."""
    return {
        name: StoredBytes(
            size_bytes=held.size_bytes, weight_bytes=held.weight_bytes, dtype=held.dtype, path=held.slot.path
        )
        for name, held in comparison.held.items()
    }


def stored_memory(stored: StoredCheckpoint, comparison: Comparison | None = None) -> Memory:
    """Weights in memory as the files store them: what the model holds, or, without a model, every tensor.

    What files hold beyond the parameters (buffers, a tied head twice, modules of multi-token prediction) is no part of
    it, as the class does not load it.
    """
    origin = f"headers of {len(stored.files)} {stored.format} file{'s' if len(stored.files) > 1 else ''}"
    if comparison is None:
        parts = [part for held in weights_of(stored.tensors).values() for part in held]
    else:
        parts = [part for one in comparison.held.values() for part in one.parts]
    total = sum(part.tensor.size_bytes for part in parts)
    weight_bytes = sum(part.tensor.size_bytes for part in parts if part.role in WEIGHTS)
    rows = [MemoryRow(name=WEIGHTS_ROW, size_bytes=weight_bytes, basis="exact", source=origin)]
    if total > weight_bytes:
        rows.append(MemoryRow(name=SCALES, size_bytes=total - weight_bytes, basis="exact", source=origin))
    return Memory(rows=tuple(rows))


def remarks(stored: StoredCheckpoint, comparison: Comparison | None) -> list[str]:
    """What a reader of the rows should know: oddities of the files, and where they and the config disagree."""
    notes = [f"{stored.format}, {len(stored.files)} file{'s' if len(stored.files) > 1 else ''}: {stored.origin}"]
    notes += stored.notes
    architecture = stored.files[0].metadata.get(ARCHITECTURE_KEY)
    if architecture is not None:
        notes.append(f"{ARCHITECTURE_KEY}: {architecture}")
    if comparison is None:
        return [*notes, "no config.json beside them: the headers alone, elements as they count them"]
    for slots, what in (
        ([slot.name for slot in comparison.missing], "of the model are in none of the files"),
        ([held.slot.name for held in comparison.differing], "are stored with another number of elements"),
        (sorted(comparison.by_shape), "have other names in the files and were told by their shape alone"),
    ):
        if slots:
            notes.append(f"{len(slots)} tensors {what}, the first one {slots[0]}")
    return notes
