"""Header of a safetensors file, checked as the library of that name checks it, and more.

The library wants the whole file; a header of the hub comes by ranges. So it is read here, and the tests hold that both
accept and refuse the same files. Beyond the library, names that stand twice are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from planner.errors import CheckpointError, near_miss
from planner.headers.source import LARGEST_HEADER_BYTES, Source, Window, last_part
from planner.headers.stored import StoredFile, StoredTensor

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of an element of each dtype that the safetensors library knows (safetensors/src/tensor.rs)."""

LENGTH_BYTES = 8
METADATA = "__metadata__"
MOST_COLONS, MOST_COMMAS = 5_000_000, 10_000_000
"""A header of the largest size that has real names holds a million tensors, with four colons and some commas each."""
LARGEST_NUMBER = 2**64 - 1
"""Dimensions and offsets are 64-bit numbers."""


def read_safetensors(source: Source) -> StoredFile:
    """Tensors of a safetensors file, from its header alone.

    Raises
    ------
    CheckpointError
        The header lies about its length, is not JSON, or does not describe just the bytes that follow it.
    """
    window = Window(source, LARGEST_HEADER_BYTES + LENGTH_BYTES)
    length = int.from_bytes(window.up_to(LENGTH_BYTES, "the length of the header")[:LENGTH_BYTES], "little")
    if length > LARGEST_HEADER_BYTES:
        raise CheckpointError(
            f"states a header of {length:,} bytes, expected at most {LARGEST_HEADER_BYTES:,}: no safetensors file",
            file=source.name,
        )
    start = LENGTH_BYTES + length
    text = bytes(window.up_to(start, f"a header of {length:,} bytes")[LENGTH_BYTES:start])
    header = parse_json(text, source.name)
    metadata = _metadata(header.pop(METADATA, None), source.name)
    found = sorted((_tensor(name, stated, source.name) for name, stated in header.items()), key=lambda item: item[0])
    end = 0
    for (first, after), tensor in found:
        if first != end:
            what = "overlaps the tensor before it" if first < end else f"leaves {first - end:,} bytes unused before it"
            raise CheckpointError(f"starts at offset {first:,} and {what}", file=source.name, key=tensor.name)
        end = after
    if start + end != source.size_bytes:
        raise CheckpointError(
            f"is {source.size_bytes:,} bytes, expected {start + end:,} by its header: "
            f"{'cut off' if start + end > source.size_bytes else 'more than it describes'}",
            file=source.name,
        )
    return StoredFile(
        name=last_part(source.name),
        size_bytes=source.size_bytes,
        tensors=tuple(tensor for _, tensor in found),
        metadata=metadata,
    )


def parse_json(text: bytes, file: str) -> dict[str, Any]:
    """Object of a header or an index: UTF-8, every key once.

    Raises
    ------
    CheckpointError
        It is none.
    """
    if text.count(b":") > MOST_COLONS or text.count(b",") > MOST_COMMAS:
        raise CheckpointError("states more entries than any checkpoint has tensors", file=file)
    try:
        parsed = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise CheckpointError("is not text in UTF-8, expected a header in JSON", file=file) from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"is not JSON: {error.msg} at character {error.pos:,}", file=file) from None
    except RecursionError:
        raise CheckpointError("is nested deeper than any header", file=file) from None
    except CheckpointError as error:
        raise CheckpointError(error.message, file=file, key=error.key) from None
    except ValueError as error:
        # int() refuses digits beyond its own limit
        raise CheckpointError(f"holds a number that cannot be read: {error}", file=file) from None
    if not isinstance(parsed, dict):
        raise CheckpointError(f"expected a JSON object, got a {type(parsed).__name__}", file=file)
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CheckpointError("stands twice", key=twice)
    return found


def _no_constant(word: str) -> float:
    raise CheckpointError(f"holds {word}, which is not JSON")


def _metadata(stated: object, file: str) -> Mapping[str, str]:
    if stated is None:
        return {}
    if not isinstance(stated, dict) or not all(isinstance(value, str) for value in stated.values()):
        raise CheckpointError("expected texts by name", file=file, key=METADATA)
    return stated


def _tensor(name: str, stated: object, file: str) -> tuple[tuple[int, int], StoredTensor]:
    """Where a tensor lies, counted from the end of the header, and what it is."""
    if not isinstance(stated, dict):
        raise CheckpointError(f"expected dtype, shape and data_offsets, got {_short(stated)}", file=file, key=name)
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in stated]
    if missing:
        raise CheckpointError(f"states no {missing[0]}", file=file, key=name, hint=near_miss(missing[0], stated))
    dtype = stated["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        hint = near_miss(dtype, DTYPE_BITS) if isinstance(dtype, str) else None
        raise CheckpointError(f"has the unknown dtype {_short(dtype)}", file=file, key=name, hint=hint)
    shape = _whole_numbers(stated["shape"], "shape", file, name)
    offsets = _whole_numbers(stated["data_offsets"], "data_offsets", file, name)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"data_offsets: expected a start and an end, got {list(offsets)}", file=file, key=name)
    elements = 1
    for size in shape:
        elements *= size
        if elements > LARGEST_NUMBER:
            raise CheckpointError(f"has a shape beyond any memory: {list(shape)}", file=file, key=name)
    size_bytes, rest = divmod(elements * DTYPE_BITS[dtype], 8)
    if rest or size_bytes != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"takes {offsets[1] - offsets[0]:,} bytes, but {list(shape)} in {dtype} are "
            f"{elements * DTYPE_BITS[dtype] / 8:,.10g}",
            file=file,
            key=name,
        )
    tensor = StoredTensor(name=name, dtype=dtype, shape=shape, size_bytes=size_bytes, file=last_part(file))
    return (offsets[0], offsets[1]), tensor


def _whole_numbers(stated: object, what: str, file: str, name: str) -> tuple[int, ...]:
    whole = isinstance(stated, list) and all(type(number) is int and 0 <= number <= LARGEST_NUMBER for number in stated)
    if not whole:
        raise CheckpointError(f"{what}: expected whole numbers, got {_short(stated)}", file=file, key=name)
    return tuple(stated)  # type: ignore[arg-type]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
