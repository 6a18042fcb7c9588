"""From a path or a name to the headers of a checkpoint: a file, a folder, the cache of Hugging Face, or the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from planner.errors import CheckpointError, UnknownNameError, near_miss
from planner.headers.choose import INDEX, NUMBERED, Choice, choose, is_weights, read_choice
from planner.headers.source import LocalFolder, Place
from planner.headers.stored import StoredCheckpoint
from planner.sources import LARGEST_CONFIG_BYTES, cached_repository, hub_is_off, parse_config

CONFIG = "config.json"


def read_checkpoint(where: Path | str, *, offline: bool = False) -> StoredCheckpoint:
    """Headers of a checkpoint; no weight is read.

    Parameters
    ----------
    where : Path or str
        A folder; a .safetensors or .gguf file, or an index of such files; or the ``<org>/<name>`` of a repository,
        which is looked for in the cache and then in the hub. Where a repository holds several checkpoints,
        ``<org>/<name>:<part of a file's name>`` says which, as in ``org/name:Q4_K_M``.
    offline : bool
        Do not ask the hub. ``HF_HUB_OFFLINE`` says the same.

    Raises
    ------
    UnknownNameError
        Nothing is there, or several checkpoints are and it is not said which.
    CheckpointError
        A file is not what its header says it is.
    """
    path = Path(where)
    if path.is_dir():
        return _with_config(LocalFolder(path), read_choice(LocalFolder(path), choose(LocalFolder(path))), str(path))
    if path.is_file():
        return _read_file(path)
    name = str(where)
    if isinstance(where, Path) or is_weights(name) or name.startswith((".", "/", "~")):
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UnknownNameError(f"no such file or folder: '{where}'", hint=near_miss(path.name, siblings))
    repository, _, wanted = name.partition(":")
    return _read_repository(repository, wanted or None, offline=offline)


def has_weights(path: Path) -> bool:
    """Whether a path is a file of weights, an index of them, or a folder with one."""
    if path.is_dir():
        return any(is_weights(name) for name in LocalFolder(path).sizes)
    return path.is_file() and is_weights(path.name)


def _read_file(path: Path) -> StoredCheckpoint:
    if not is_weights(path.name):
        raise UnknownNameError(f"'{path}' is neither a .safetensors nor a .gguf file, nor an index of such files")
    place = LocalFolder(path.parent)
    if path.name.endswith(INDEX) or NUMBERED.fullmatch(path.name):
        return _with_config(place, read_choice(place, choose(place, path.name)), str(path))
    alone = Choice(format="gguf" if path.suffix == ".gguf" else "safetensors", files=(path.name,))
    return _with_config(place, read_choice(place, alone), str(path))


def _read_repository(repository: str, wanted: str | None, *, offline: bool) -> StoredCheckpoint:
    unread: CheckpointError | UnknownNameError | None = None
    snapshot = _snapshot(repository)
    if snapshot is not None:
        place = LocalFolder(snapshot)
        try:
            return _with_config(place, read_choice(place, choose(place, wanted)), str(snapshot))
        except (CheckpointError, UnknownNameError) as error:
            # A cache holds what somebody has fetched, which may be a config or some of the shards.
            unread = error
    if offline or hub_is_off():
        raise unread or UnknownNameError(f"'{repository}': no such path, not in the cache, and the hub is off")
    from planner.headers.hub import find_repository

    try:
        found = find_repository(repository)
    except UnknownNameError as error:
        raise unread or error from None
    return _with_config(found, read_choice(found, choose(found, wanted)), found.name)


def _snapshot(repository: str) -> Path | None:
    """Folder of a cached repository at the commit of its main branch, or the only one that is there."""
    folder = cached_repository(repository)
    if folder is None:
        return None
    reference, snapshots = folder / "refs" / "main", folder / "snapshots"
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"\w+", commit) and (snapshots / commit).is_dir():
            return snapshots / commit
    held = [entry for entry in snapshots.iterdir() if entry.is_dir()] if snapshots.is_dir() else []
    return held[0] if len(held) == 1 else None


def _with_config(place: Place, stored: StoredCheckpoint, origin: str) -> StoredCheckpoint:
    """Checkpoint with the config.json that lies beside it."""
    size = place.sizes.get(CONFIG)
    if size is None:
        return replace(stored, origin=origin)
    config_origin = place.describe(CONFIG)
    return replace(stored, origin=origin, config=_config(place, size, config_origin), config_origin=config_origin)


def _config(place: Place, size: int, origin: str) -> Mapping[str, Any]:
    if size > LARGEST_CONFIG_BYTES:
        raise CheckpointError(f"is {size:,} bytes, expected at most {LARGEST_CONFIG_BYTES:,}", file=origin)
    try:
        text = place.open(CONFIG).read(0, size).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("is not text in UTF-8, expected JSON", file=origin) from None
    return parse_config(text, origin)
