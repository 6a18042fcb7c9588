import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from planner.errors import CheckpointError
from planner.headers.safetensors import DTYPE_BITS, read_safetensors
from planner.headers.source import LocalFile


class _Bytes:
    """File in memory."""

    name = "there/model.safetensors"

    def __init__(self, held: bytes, size_bytes: int | None = None) -> None:
        self._held = held
        self.size_bytes = len(held) if size_bytes is None else size_bytes

    def read(self, start: int, length: int) -> bytes:
        return self._held[start : start + length]


def _file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _info(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_names_dtypes_shapes_and_sizes_are_those_of_the_library(tmp_path: Path) -> None:
    held: dict[str, Any] = {
        "b.weight": np.zeros((3, 5), np.float32),
        "a.bias": np.zeros(7, np.float16),
        "scalar": np.zeros((), np.int64),
        "empty": np.zeros((0, 4), np.uint8),
    }
    path = tmp_path / "model.safetensors"
    save_file(held, path, metadata={"format": "np"})
    file = read_safetensors(LocalFile(path))
    found = {tensor.name: (tensor.shape, tensor.size_bytes, tensor.file) for tensor in file.tensors}
    assert found == {name: (array.shape, array.nbytes, "model.safetensors") for name, array in held.items()}
    assert {tensor.name: tensor.dtype for tensor in file.tensors}["a.bias"] == "F16"
    assert file.metadata == {"format": "np"}
    # 8 bytes of length, the header, the tensors
    assert file.overhead_bytes + sum(array.nbytes for array in held.values()) == path.stat().st_size


def test_four_bit_elements_are_half_bytes() -> None:
    # 2 * 4 elements of 4 bits = 4 B
    file = read_safetensors(_Bytes(_file({"w": _info("F4", (2, 4), (0, 4))}, bytes(4))))
    assert (file.tensors[0].size_bytes, file.tensors[0].numel) == (4, 8)


def test_every_dtype_is_one_of_the_library_with_as_many_bits() -> None:
    for dtype, bits in DTYPE_BITS.items():
        # eight elements fill whole bytes in every dtype
        made = _file({"w": _info(dtype, (8,), (0, bits))}, bytes(bits))
        assert list(_library(made) or ()) == ["w"], dtype


def _library(held: bytes) -> dict[str, tuple[int, ...]] | None:
    """What the library reads; None where it refuses."""
    deserialize: Any = safetensors.deserialize
    try:
        return {name: tuple(info["shape"]) for name, info in deserialize(held)}
    except safetensors.SafetensorError:
        return None


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "ends at byte 0, expected the length of the header"),
    "half a length": (b"\x01\0\0", "ends at byte 3"),
    "length beyond the file": (_file({}, length=50), "expected a header of 50 bytes up to byte 58"),
    "length beyond any header": (_file({}, length=100_000_001), "states a header of 100,000,001 bytes"),
    "a length that is negative if signed": (_file({}, length=2**64 - 1), "states a header of"),
    "no JSON": (_file(b"{"), "is not JSON"),
    "no UTF-8": (_file(b'{"\xff": 1}'), "is not text in UTF-8"),
    "no object": (_file([1]), "expected a JSON object"),
    "deeply nested": (_file(b"[" * 100_000), "nested deeper"),
    "NaN": (_file(b'{"w": NaN}'), "NaN"),
    "a number of 5,000 digits": (_file(b'{"w": ' + b"9" * 5000 + b"}"), "cannot be read"),
    "a name twice": (_file(b'{"w": {}, "w": {}}'), "w: stands twice"),
    "a tensor that is a number": (_file({"w": 3}), "w: expected dtype, shape and data_offsets, got 3"),
    "no dtype": (_file({"w": {"shape": [], "data_offsets": [0, 0]}}), "w: states no dtype"),
    "a near miss": (_file({"w": {"dtype": "F32", "shape": [], "data_offset": [0, 4]}}), "'data_offset'"),
    "an unknown dtype": (_file({"w": _info("BF61")}), "w: has the unknown dtype 'BF61' (did you mean 'BF16'"),
    "a dtype that is a list": (_file({"w": {**_info(), "dtype": []}}), "w: has the unknown dtype []"),
    "a fraction": (_file({"w": _info(shape=(2.0,))}, bytes(8)), "w: shape: expected whole numbers"),
    "a negative size": (_file({"w": _info(shape=(-2,))}, bytes(8)), "w: shape: expected whole numbers"),
    "true as a size": (_file({"w": _info(shape=(True, 2))}, bytes(8)), "w: shape: expected whole numbers"),
    "sizes that overflow": (_file({"w": _info(shape=(2**62, 4, 4))}, bytes(8)), "w: has a shape beyond any memory"),
    "a size beyond 64 bits": (_file({"w": _info(shape=(2**64,))}, bytes(8)), "w: shape: expected whole numbers"),
    "one offset": (_file({"w": _info(offsets=(8,))}, bytes(8)), "w: data_offsets: expected a start and an end"),
    "an end before its start": (_file({"w": _info(offsets=(8, 0))}, bytes(8)), "expected a start and an end"),
    "bytes that are not its shape's": (
        _file({"w": _info(shape=(3,))}, bytes(8)),
        "w: takes 8 bytes, but [3] in F32 are 12",
    ),
    "a half-byte left over": (
        _file({"w": _info("F4", (3,), (0, 1))}, bytes(1)),
        "w: takes 1 bytes, but [3] in F4 are 1.5",
    ),
    "an overlap": (_file({"a": _info(), "b": _info(offsets=(4, 12))}, bytes(12)), "b: starts at offset 4 and overlaps"),
    "a gap": (
        _file({"a": _info(), "b": _info(offsets=(12, 20))}, bytes(20)),
        "b: starts at offset 12 and leaves 4 bytes",
    ),
    "a gap before the first": (_file({"a": _info(offsets=(4, 12))}, bytes(12)), "leaves 4 bytes unused"),
    "cut off": (_file({"w": _info()}, bytes(7)), "cut off"),
    "bytes that no tensor has": (_file({"w": _info()}, bytes(9)), "more than it describes"),
    "a hundred megabytes of nothing": (_file(b"{" + b'"":0,' * 6_000_000 + b"}"), "more entries than any checkpoint"),
    "metadata that is no text": (_file({"__metadata__": {"a": 1}}), "__metadata__: expected texts by name"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_by_name(case: str) -> None:
    held, message = HOSTILE[case]
    with pytest.raises(CheckpointError) as refused:
        read_safetensors(_Bytes(held))
    assert message in str(refused.value)
    assert str(refused.value).startswith("there/model.safetensors: ")


def test_an_absurd_size_of_the_file_reads_no_more_than_the_header() -> None:
    reads: list[int] = []

    class Watched(_Bytes):
        def read(self, start: int, length: int) -> bytes:
            reads.append(length)
            return super().read(start, length) + bytes(max(0, start + length - len(self._held)))

    # 10**15 bytes in F32 are 25 * 10**13 elements
    header = {"w": _info(shape=(25 * 10**13,), offsets=(0, 10**15))}
    made = _file(header)
    file = read_safetensors(Watched(made, len(made) + 10**15))
    assert file.tensors[0].size_bytes == 10**15
    assert sum(reads) <= 2**17


small = st.integers(-1, 5)
infos = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPE_BITS, "X"]),
        "shape": st.lists(small, max_size=3),
        "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3)
        | st.tuples(st.just(0), st.integers(0, 40)),
    }
)


@st.composite
def whole_files(draw: st.DrawFn) -> bytes:
    """Files that are right, and files in which one thing is not."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        dtype, shape = (
            draw(st.sampled_from(["F32", "BF16", "F4", "I64", "U8"])),
            draw(st.lists(st.integers(0, 4), max_size=3)),
        )
        size = int(np.prod(shape, dtype=int)) * DTYPE_BITS[dtype] // 8
        header[name] = _info(dtype, shape, (end, end + size))
        end += size
    if draw(st.booleans()) and header:
        header[draw(st.sampled_from(sorted(header)))] = draw(infos)
    made = bytearray(_file(header, bytes(max(0, end + draw(st.sampled_from([0, 0, 0, 1, -1]))))))
    if draw(st.booleans()):
        made[draw(st.integers(0, len(made) - 1))] = draw(st.integers(0, 255))
    return bytes(made)


@settings(max_examples=400, deadline=None)
@given(whole_files())
def test_both_accept_and_refuse_the_same_files(held: bytes) -> None:
    """The library's verdict is ours, but for a name that stands twice, of which it takes the last."""
    theirs = _library(held)
    ours = _read(held)
    if isinstance(ours, CheckpointError):
        assert theirs is None or "stands twice" in str(ours), ours
    else:
        assert ours == theirs


def _read(held: bytes) -> dict[str, tuple[int, ...]] | CheckpointError:
    try:
        return {tensor.name: tensor.shape for tensor in read_safetensors(_Bytes(held)).tensors}
    except CheckpointError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(held: bytes) -> None:
    read = _read(held)
    if isinstance(read, CheckpointError):
        assert "there/model.safetensors" in str(read)
    else:
        assert held.startswith(struct.pack("<Q", len(held) - 8))
