"""Header of a GGUF file: what its tensors are, and the few facts beside them that say which model it is.

The reader of the gguf library maps a whole file and believes its counts, so it suits neither the hub nor a file that
lies. The walk here reads no further than the header and checks every count before it follows it; dtypes, their block
sizes and the names of tensors are the library's.
"""

from __future__ import annotations

import struct
from typing import Any

from planner.errors import CheckpointError
from planner.headers.source import LARGEST_HEADER_BYTES, Source, Window, last_part
from planner.headers.stored import StoredFile, StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Version 1 counted in 32 bits and was in use for weeks."""

SMALLEST_KEY_BYTES = 13
"""Length and text of a name of one letter, type, and a value of one byte; rounded down."""
SMALLEST_TENSOR_BYTES = 24
"""Length of a name, number of dimensions, type and offset."""
MOST_THINGS = 1_000_000
"""Tensors, or keys; the largest models have some thousand of the one, and some hundred of the other."""
MOST_DIMENSIONS = 4
"""ggml/include/ggml.h: GGML_MAX_DIMS."""
LONGEST_NAME = 2**16
"""What the specification allows a key; ggml's tensors have names of 64 bytes."""
LONGEST_KEPT = 1024
"""Texts beyond this are templates and licences, which say nothing about tensors."""
LARGEST_SIZE = 2**63 - 1
"""ggml counts elements and bytes in signed 64-bit numbers."""
DEFAULT_ALIGNMENT = 32
"""ggml/include/gguf.h: GGUF_DEFAULT_ALIGNMENT."""
LARGEST_ALIGNMENT = 2**20

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Types of values by number (ggml/include/gguf.h: gguf_type)."""
TEXT, LIST = 8, 9

ALIGNMENT_KEY = "general.alignment"
ARCHITECTURE_KEY = "general.architecture"


def read_gguf(source: Source) -> StoredFile:
    """Tensors of a GGUF file, from its header alone.

    Raises
    ------
    CheckpointError
        No GGUF, another byte order or version, a count or length that cannot be, a tensor that lies elsewhere than
        behind the one before it, or a file that ends too early or too late.
    """
    walk = _Walk(source)
    if walk.take(4, "the magic number") != MAGIC:
        raise CheckpointError("does not start with the letters GGUF: no GGUF file", file=source.name)
    version = walk.number("<I", "the version")
    if version not in VERSIONS:
        why = "a big-endian file" if version & 0xFFFF == 0 and version else "a version that is not supported"
        raise CheckpointError(f"states version {version}: {why}, expected 2 or 3", file=source.name)
    count = walk.count("tensors", SMALLEST_TENSOR_BYTES, MOST_THINGS)
    keys = walk.count("keys", SMALLEST_KEY_BYTES, MOST_THINGS)
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = walk.text("a key", LONGEST_NAME)
        if key in metadata:
            raise CheckpointError("stands twice", file=source.name, key=key)
        metadata[key] = walk.value(key)
    infos = [walk.tensor() for _ in range(count)]
    alignment = _alignment(metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT), source.name)
    start = _padded(walk.position, alignment)
    return StoredFile(
        name=last_part(source.name),
        size_bytes=source.size_bytes,
        tensors=_placed(infos, start, alignment, source),
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def _alignment(stated: object, file: str) -> int:
    # bool is an int; a float or a text is neither
    if type(stated) is not int or not 1 <= stated <= LARGEST_ALIGNMENT or stated & (stated - 1):
        raise CheckpointError(f"expected a power of two, got {stated!r}", file=file, key=ALIGNMENT_KEY)
    return stated


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _placed(
    infos: list[tuple[StoredTensor, int]], start: int, alignment: int, source: Source
) -> tuple[StoredTensor, ...]:
    """Tensors, if each one starts where the one before it ends, and the last one where the file does."""
    end, after = 0, 0
    names: set[str] = set()
    for tensor, offset in infos:
        if tensor.name in names:
            raise CheckpointError("stands twice", file=source.name, key=tensor.name)
        names.add(tensor.name)
        if offset != after:
            raise CheckpointError(
                f"starts at offset {offset:,}, expected {after:,}, where the tensor before it ends",
                file=source.name,
                key=tensor.name,
            )
        end = offset + tensor.size_bytes
        after = _padded(end, alignment)
    smallest, largest = (start + end, start + after) if infos else (0, start)
    if not smallest <= source.size_bytes <= largest:
        raise CheckpointError(
            f"is {source.size_bytes:,} bytes, expected {largest:,} by its header: "
            f"{'cut off' if source.size_bytes < smallest else 'more than it describes'}",
            file=source.name,
        )
    return tuple(tensor for tensor, _ in infos)


class _Walk:
    """Position in a header; every read is checked against the size of the file before it is made."""

    def __init__(self, source: Source) -> None:
        self._window = Window(source)
        self._file = source.name
        self.position = 0

    def take(self, length: int, what: str) -> bytes:
        start, self.position = self.position, self.position + length
        return bytes(memoryview(self._window.up_to(self.position, what))[start : self.position])

    def skip(self, length: int, what: str) -> None:
        self.position += length
        self._window.up_to(self.position, what)

    def number(self, kind: str, what: str) -> Any:
        (value,) = struct.unpack(kind, self.take(struct.calcsize(kind), what))
        return value

    def count(self, what: str, smallest_bytes: int, limit: int = LARGEST_HEADER_BYTES) -> int:
        """Number of things that the header states, of which so many at most fit into the file."""
        stated: int = self.number("<Q", f"the number of {what}")
        most = min(self._window.size_bytes // smallest_bytes, limit)
        if stated > most:
            raise CheckpointError(
                f"states {stated:,} {what}, but a file of {self._window.size_bytes:,} bytes has {most:,} at most",
                file=self._file,
            )
        return stated

    def text(self, what: str, longest: int) -> str:
        length: int = self.number("<Q", f"the length of {what}")
        if length > longest:
            raise CheckpointError(f"has {what} of {length:,} bytes, expected at most {longest:,}", file=self._file)
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"has {what} that is not in UTF-8", file=self._file) from None

    def value(self, key: str) -> Any:
        """Value of a key; None for a list, and for a text that is too long to be about tensors."""
        what = f"the value of '{key}'"
        kind: int = self.number("<I", f"the type of '{key}'")
        if kind in SCALARS:
            return self.number(SCALARS[kind], what)
        if kind == TEXT:
            return self._value_text(what)
        if kind != LIST:
            raise CheckpointError(f"has the unknown type {kind}", file=self._file, key=key)
        inner: int = self.number("<I", what)
        if inner not in SCALARS and inner != TEXT:
            raise CheckpointError(f"is a list of the unknown type {inner}", file=self._file, key=key)
        if inner == TEXT:
            for _ in range(self.count(f"texts in '{key}'", 8)):
                self.skip(self.number("<Q", what), what)
            return None
        size = struct.calcsize(SCALARS[inner])
        self.skip(self.count(f"values in '{key}'", size) * size, what)
        return None

    def _value_text(self, what: str) -> str | None:
        length: int = self.number("<Q", what)
        if length > LONGEST_KEPT:
            self.skip(length, what)
            return None
        return self.take(length, what).decode("utf-8", errors="replace")

    def tensor(self) -> tuple[StoredTensor, int]:
        """A tensor, and its offset behind the header."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.text("the name of a tensor", LONGEST_NAME)
        dimensions: int = self.number("<I", f"'{name}'")
        if dimensions > MOST_DIMENSIONS:
            raise CheckpointError(
                f"has {dimensions:,} dimensions, expected at most {MOST_DIMENSIONS}", file=self._file, key=name
            )
        sizes: list[int] = [self.number("<Q", f"'{name}'") for _ in range(dimensions)]
        kind: int = self.number("<I", f"'{name}'")
        offset: int = self.number("<Q", f"'{name}'")
        try:
            dtype = GGMLQuantizationType(kind)
        except ValueError:
            raise CheckpointError(f"has the unknown type {kind}", file=self._file, key=name) from None
        elements = 1
        for size in sizes:
            elements *= size
        if elements > LARGEST_SIZE:
            raise CheckpointError(f"has a shape beyond any memory: {sizes[::-1]}", file=self._file, key=name)
        block, block_bytes = GGML_QUANT_SIZES[dtype]
        row = sizes[0] if sizes else 1
        if row % block:
            raise CheckpointError(
                f"has rows of {row:,} elements, which no whole blocks of {block} in {dtype.name} hold",
                file=self._file,
                key=name,
            )
        tensor = StoredTensor(
            name=name,
            dtype=dtype.name,
            shape=tuple(reversed(sizes)),
            size_bytes=elements // block * block_bytes,
            file=last_part(self._file),
        )
        return tensor, offset
