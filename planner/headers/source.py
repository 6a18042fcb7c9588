"""Bytes of a file that may lie here or far away: only ranges are read, never the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from planner.errors import CheckpointError

LARGEST_HEADER_BYTES = 100_000_000
"""What the safetensors library reads at most; the vocabularies in GGUF headers take a tenth of it."""


def last_part(name: str) -> str:
    """Name of a file without what stands before it.

    Examples
    --------
    >>> last_part("models/llama/model.safetensors")
    'model.safetensors'
    """
    return name.replace("\\", "/").rpartition("/")[2]


class Source(Protocol):
    """A file of known size, of which ranges can be read."""

    @property
    def name(self) -> str:
        """For errors: the path, or the repository and the file."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file. [B]"""

    def read(self, start: int, length: int) -> bytes:
        """Bytes from `start`; fewer than `length` only where the file ends."""


class Place(Protocol):
    """Where the files of a checkpoint lie side by side: a folder, or a repository of the hub."""

    @property
    def name(self) -> str:
        """For errors."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Files by name with their sizes. [B]"""

    def open(self, filename: str) -> Source:
        """File of that name."""

    def describe(self, filename: str) -> str:
        """The file's name for errors."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """File of this machine."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def size_bytes(self) -> int:
        """As the file system states it. [B]"""
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", file=self.path) from None

    def read(self, start: int, length: int) -> bytes:
        """See `Source.read`."""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", file=self.path) from None


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """Folder of this machine; a cache's snapshot holds links, which are followed."""

    path: Path

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Its files, folders in it left out. [B]"""
        try:
            return {entry.name: entry.stat().st_size for entry in sorted(self.path.iterdir()) if entry.is_file()}
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", file=self.path) from None

    def open(self, filename: str) -> Source:
        """File of that name."""
        return LocalFile(self.path / filename)

    def describe(self, filename: str) -> str:
        """Path of the file."""
        return str(self.path / filename)


FIRST_CHUNK_BYTES = 2**16
LARGEST_CHUNK_BYTES = 2**23


class Window:
    """Start of a file that grows as it is asked for, each piece as large as all before it.

    Parameters
    ----------
    source : Source
        The file.
    limit : int
        Bytes that are read at most. [B]
    """

    def __init__(self, source: Source, limit: int = LARGEST_HEADER_BYTES) -> None:
        self._source = source
        self.size_bytes = source.size_bytes
        self._limit = limit
        self._held = bytearray()

    def up_to(self, end: int, what: str) -> bytearray:
        """Bytes of the file from its start to at least `end`.

        Raises
        ------
        CheckpointError
            The file ends before, or the header is larger than any real one.
        """
        if end > self.size_bytes:
            raise CheckpointError(
                f"ends at byte {self.size_bytes:,}, expected {what} up to byte {end:,}", file=self._source.name
            )
        if end > self._limit:
            raise CheckpointError(
                f"has a header that reaches beyond {self._limit:,} bytes, where {what} stands", file=self._source.name
            )
        while len(self._held) < end:
            chunk = min(max(len(self._held), FIRST_CHUNK_BYTES), LARGEST_CHUNK_BYTES)
            wanted = min(max(chunk, end - len(self._held)), self.size_bytes - len(self._held))
            read = self._source.read(len(self._held), wanted)
            if len(read) != wanted:
                raise CheckpointError(
                    f"yields {len(read):,} bytes from {len(self._held):,} on, expected {wanted:,}",
                    file=self._source.name,
                )
            self._held += read
        return self._held
