"""Which files of a folder or a repository are one checkpoint: a file, shards with an index, the parts of a GGUF."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from planner.errors import CheckpointError, UnknownNameError, near_miss
from planner.headers.gguf import read_gguf
from planner.headers.safetensors import parse_json, read_safetensors
from planner.headers.source import LARGEST_HEADER_BYTES, Place, Source
from planner.headers.stored import Format, StoredCheckpoint, StoredFile

SAFETENSORS, GGUF, INDEX = ".safetensors", ".gguf", ".safetensors.index.json"
SINGLE_FILE = "model.safetensors"
"""Name that transformers gives to a checkpoint of one file."""
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{5,6})-of-(?P<count>\d{5,6})(?P<ending>\.safetensors|\.gguf)")
"""Names of shards, for both formats."""

MOST_FILES = 10_000
"""Shards that an index may name; the largest checkpoints have some hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Files of one checkpoint.

    Attributes
    ----------
    format : str
        ``safetensors`` or ``gguf``.
    files : tuple of str
        Their names, in order.
    index : str or None
        Index that names them.
    """

    format: Format
    files: tuple[str, ...]
    index: str | None = None


def is_weights(filename: str) -> bool:
    """Whether a name is that of a file of weights, or of an index of such files.

    Examples
    --------
    >>> [is_weights(name) for name in ("model.safetensors", "model.safetensors.index.json", "config.json")]
    [True, True, False]
    """
    return filename.endswith((SAFETENSORS, GGUF, INDEX))


def choose(place: Place, wanted: str | None = None) -> Choice:
    """Files of the one checkpoint that a place holds, or of the one that is wanted.

    Parameters
    ----------
    place : Place
        Folder or repository.
    wanted : str, optional
        Name of one of the files, or a part of it that no other checkpoint has, such as ``Q4_K_M``.

    Raises
    ------
    UnknownNameError
        There is none, or there are several and it is not said which.
    CheckpointError
        A shard is missing.
    """
    found = _checkpoints(place)
    if not found:
        pickled = [name for name in place.sizes if name.endswith(PICKLED)]
        why = f"; {pickled[0]} is pickled, which is code and is not read" if pickled else ""
        raise UnknownNameError(f"'{place.name}' holds neither safetensors nor GGUF files{why}")
    if wanted is not None:
        return _wanted(found, wanted, place)
    if len(found) == 1:
        return found[0]
    usual = [one for one in found if one.index == f"{SINGLE_FILE}.index.json" or one.files == (SINGLE_FILE,)]
    if len(usual) == 1:
        return usual[0]
    listed = ", ".join(_title(one) for one in found[:8]) + (", ..." if len(found) > 8 else "")
    raise UnknownNameError(f"'{place.name}' holds {len(found)} checkpoints, expected one of {listed}")


def _checkpoints(place: Place) -> list[Choice]:
    sizes = place.sizes
    found = [
        Choice(format="safetensors", files=_indexed(place, name), index=name) for name in sizes if name.endswith(INDEX)
    ]
    indexed = {name for one in found for name in one.files}
    left = [name for name in sizes if name.endswith((SAFETENSORS, GGUF)) and name not in indexed]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name in left:
        numbering = _numbering(name)
        if numbering is None:
            found.append(Choice(format=_format(name), files=(name,)))
        else:
            groups.setdefault(numbering, []).append(name)
    for (_, count, _), names in groups.items():
        _check_complete(place, names, int(count))
        found.append(Choice(format=_format(names[0]), files=tuple(sorted(names))))
    return found


def _indexed(place: Place, name: str) -> tuple[str, ...]:
    """Files that an index names, and other shards of the same numbering."""
    files = set(read_index(place, name).values())
    sets = {_numbering(file) for file in files} - {None}
    return tuple(sorted(files | {file for file in place.sizes if _numbering(file) in sets}))


def _numbering(name: str) -> tuple[str, str, str] | None:
    """What the names of all shards of a checkpoint have in common; None for a name without a number."""
    found = NUMBERED.fullmatch(name)
    return None if found is None else (found["stem"], found["count"], found["ending"])


def _format(name: str) -> Format:
    return "gguf" if name.endswith(GGUF) else "safetensors"


def _check_complete(place: Place, names: Sequence[str], count: int) -> None:
    numbers = sorted(int(found.group("number")) for name in names if (found := NUMBERED.fullmatch(name)))
    if count > MOST_FILES:
        raise CheckpointError(f"is one of {count:,} parts, expected at most {MOST_FILES:,}", file=names[0])
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing or len(numbers) != count:
        raise CheckpointError(
            f"is one of {count} parts, but part {missing[0] if missing else numbers[-1]} is not there",
            file=place.describe(names[0]),
        )


def _wanted(found: Sequence[Choice], wanted: str, place: Place) -> Choice:
    exact = [one for one in found if wanted in (*one.files, one.index)]
    close = exact or [one for one in found if wanted.casefold() in _title(one).casefold()]
    if len(close) == 1:
        return close[0]
    titles = [_title(one) for one in close or found]
    raise UnknownNameError(
        f"'{wanted}' names {len(close) or 'none'} of the checkpoints of '{place.name}', expected one of "
        + ", ".join(titles[:8])
        + (", ..." if len(titles) > 8 else ""),
        hint=near_miss(wanted, titles),
    )


def _title(one: Choice) -> str:
    return one.index or one.files[0]


def read_index(place: Place, name: str) -> Mapping[str, str]:
    """File of each tensor, as an index states it.

    Raises
    ------
    CheckpointError
        It is no index, or names a file that is missing or lies elsewhere.
    """
    source, described = place.open(name), place.describe(name)
    if source.size_bytes > LARGEST_HEADER_BYTES:
        raise CheckpointError(
            f"is {source.size_bytes:,} bytes, expected an index of at most {LARGEST_HEADER_BYTES:,}", file=described
        )
    stated = parse_json(source.read(0, source.size_bytes), described).get("weight_map")
    if not isinstance(stated, dict) or not stated:
        raise CheckpointError("expected the file of each tensor", file=described, key="weight_map")
    files: set[str] = set()
    sizes = place.sizes
    for tensor, filename in stated.items():
        if not isinstance(filename, str):
            raise CheckpointError(f"expected the name of a file, got {filename!r}", file=described, key=tensor)
        if filename in files:
            continue
        # Only plain names: an index must not lead out of its folder.
        if not filename.endswith(SAFETENSORS) or re.search(r"[/\\\0:]", filename):
            raise CheckpointError(
                f"names '{filename[:100]}', expected a {SAFETENSORS} file beside the index", file=described, key=tensor
            )
        if filename not in sizes:
            raise CheckpointError(
                f"names '{filename}', which is not there",
                file=described,
                key=tensor,
                hint=near_miss(filename, sizes),
            )
        files.add(filename)
        if len(files) > MOST_FILES:
            raise CheckpointError(f"names more than {MOST_FILES:,} files", file=described)
    return stated


def read_choice(place: Place, choice: Choice) -> StoredCheckpoint:
    """Headers of the files of a checkpoint, and how they agree with each other.

    Raises
    ------
    CheckpointError
        A header is broken, a tensor stands in two files, or the index or the parts contradict the headers.
    """
    read = read_gguf if choice.format == "gguf" else read_safetensors
    files = tuple(_read_all(read, [place.open(name) for name in choice.files]))
    _check_unique(files, place)
    notes: tuple[str, ...] = ()
    if choice.index is not None:
        notes = _check_index(read_index(place, choice.index), files, place.describe(choice.index))
    if choice.format == "gguf":
        _check_parts(files, place)
    return StoredCheckpoint(origin=place.name, format=choice.format, files=files, notes=notes)


READERS = 8
"""Headers that are asked for at the same time: a hub answers one in some tenths of a second."""


def _read_all(read: object, sources: Sequence[Source]) -> Iterable[StoredFile]:
    if len(sources) == 1:
        return [read(sources[0])]  # type: ignore[operator]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, sources))  # type: ignore[arg-type]


def _check_unique(files: Sequence[StoredFile], place: Place) -> None:
    seen: dict[str, str] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor.name in seen:
                raise CheckpointError(
                    f"stands in '{seen[tensor.name]}' as well", file=place.describe(file.name), key=tensor.name
                )
            seen[tensor.name] = file.name


def _check_index(index: Mapping[str, str], files: Sequence[StoredFile], described: str) -> tuple[str, ...]:
    held = {tensor.name: file.name for file in files for tensor in file.tensors}
    for name, filename in index.items():
        if held.get(name) != filename:
            where = f"in '{held[name]}'" if name in held else "in none of the files"
            raise CheckpointError(f"is said to stand in '{filename}', but stands {where}", file=described, key=name)
    unlisted = [name for name in held if name not in index]
    if not unlisted:
        return ()
    return (f"{len(unlisted)} tensors of the files are not in the index, the first one '{unlisted[0]}'",)


def _check_parts(files: Sequence[StoredFile], place: Place) -> None:
    """A GGUF in parts says in each how many there are, which one it is, and how many tensors all have."""
    count = len(files)
    for number, file in enumerate(files):
        for key, expected in (("split.count", count), ("split.no", number)):
            stated = file.metadata.get(key, expected if count == 1 else None)
            # Writers put 0 parts where the file is not split.
            if stated != expected and not (count == 1 and stated == 0):
                raise CheckpointError(
                    f"states {stated}, but is part {number + 1} of {count}", file=place.describe(file.name), key=key
                )
    stated = files[0].metadata.get("split.tensors.count")
    held = sum(len(file.tensors) for file in files)
    if count > 1 and stated is not None and stated != held:
        raise CheckpointError(
            f"states {stated}, but the parts hold {held} tensors",
            file=place.describe(files[0].name),
            key="split.tensors.count",
        )
