import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import CheckpointError
from planner.headers.gguf import read_gguf
from planner.headers.source import LocalFile
from planner.headers.stored import StoredFile

UINT8, UINT32, TEXT, LIST = 0, 4, 8, 9


class _Bytes:
    """File in memory."""

    name = "there/model.gguf"

    def __init__(self, held: bytes, size_bytes: int | None = None) -> None:
        self._held = held
        self.size_bytes = len(held) if size_bytes is None else size_bytes

    def read(self, start: int, length: int) -> bytes:
        return self._held[start : start + length]


def _write(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list([f"token {number}" for number in range(3000)])
    writer.add_token_scores([0.5] * 3000)
    writer.add_chat_template("{{ messages }}" * 200)
    writer.add_tensor("token_embd.weight", np.zeros((6, 64), np.float16))
    # 3 rows of 512 elements are 6 blocks of 256 in 144 B each
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((3, 288), np.uint8), raw_dtype=GGMLQuantizationType.Q4_K)
    writer.add_tensor("blk.0.attn_norm.weight", np.zeros(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_names_dtypes_shapes_and_sizes_are_those_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    _write(path)
    file = read_gguf(LocalFile(path))
    theirs = {
        tensor.name: (tensor.tensor_type.name, tuple(reversed(tensor.shape.tolist())), tensor.n_bytes)
        for tensor in GGUFReader(path).tensors
    }
    assert {tensor.name: (tensor.dtype, tensor.shape, tensor.size_bytes) for tensor in file.tensors} == theirs
    assert theirs["blk.0.attn_q.weight"] == ("Q4_K", (3, 512), 6 * 144)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 2
    # lists and long texts are not kept
    assert not [key for key in file.metadata if key.startswith("tokenizer")]


def _text(text: str | bytes) -> bytes:
    held = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(held)) + held


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _tensor(
    name: str = "w", sizes: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0, dimensions: int = -1
) -> bytes:
    count = len(sizes) if dimensions < 0 else dimensions
    return _text(name) + struct.pack(f"<I{len(sizes)}QIQ", count, *sizes, kind, offset)


def _file(
    tensors: tuple[bytes, ...] = (),
    keys: tuple[bytes, ...] = (),
    data: int = 0,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
) -> bytes:
    stated = (len(tensors), len(keys)) if counts is None else counts
    header = magic + struct.pack("<IQQ", version, *stated) + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends at byte 0, expected the magic number"),
    "other letters": (_file(magic=b"GGML"), "does not start with the letters GGUF"),
    "version 1": (_file(version=1), "states version 1: a version that is not supported"),
    "a version of the future": (_file(version=4), "states version 4"),
    "big-endian": (_file(version=3 << 24), "a big-endian file"),
    "absurdly many tensors": (_file(counts=(2**60, 0)), f"states {2**60:,} tensors, but a file of 32 bytes has 1"),
    "absurdly many keys": (_file(counts=(0, 2**63)), f"states {2**63:,} keys"),
    "a name of 2**62 letters": (_file(keys=(struct.pack("<Q", 2**62),)), "has a key of"),
    "a key that is no text": (
        _file(keys=(_text(b"\xff") + struct.pack("<IB", UINT8, 1),)),
        "a key that is not in UTF-8",
    ),
    "a key twice": (_file(keys=(_key("a", UINT8, b"\1"),) * 2), "a: stands twice"),
    "a value of an unknown type": (_file(keys=(_key("a", 13, b""),)), "a: has the unknown type 13"),
    "a text beyond the file": (_file(keys=(_key("a", TEXT, struct.pack("<Q", 2**61)),)), "expected the value of 'a'"),
    "a list beyond the file": (
        _file(keys=(_key("a", LIST, struct.pack("<IQ", UINT32, 2**61)),)),
        f"states {2**61:,} values in 'a'",
    ),
    "a list of lists": (
        _file(keys=(_key("a", LIST, struct.pack("<IQ", LIST, 1)),)),
        "a: is a list of the unknown type 9",
    ),
    "texts beyond the file": (
        _file(keys=(_key("a", LIST, struct.pack("<IQ", TEXT, 2) + _text("b") + struct.pack("<Q", 2**61)),)),
        "expected the value of 'a'",
    ),
    "an alignment of 0": (
        _file(keys=(_key("general.alignment", UINT32, struct.pack("<I", 0)),)),
        "general.alignment: expected a power of two, got 0",
    ),
    "an alignment of 48": (
        _file(keys=(_key("general.alignment", UINT32, struct.pack("<I", 48)),)),
        "general.alignment: expected a power of two, got 48",
    ),
    "an alignment that is a text": (
        _file(keys=(_key("general.alignment", TEXT, _text("32")),)),
        "general.alignment: expected a power of two, got '32'",
    ),
    "five dimensions": (_file((_tensor(sizes=(1,) * 5),), data=32), "w: has 5 dimensions"),
    "2**31 dimensions": (_file((_tensor(dimensions=2**31),), data=32), f"w: has {2**31:,} dimensions"),
    "sizes that overflow": (_file((_tensor(sizes=(2**40, 2**40)),), data=32), "w: has a shape beyond any memory"),
    "an unknown type": (_file((_tensor(kind=999),), data=32), "w: has the unknown type 999"),
    "a type that was removed": (_file((_tensor(kind=4),), data=32), "w: has the unknown type 4"),
    "rows of half a block": (_file((_tensor(sizes=(48,), kind=2),), data=32), "w: has rows of 48 elements"),
    "a name twice": (_file((_tensor(), _tensor(offset=32)), data=64), "w: stands twice"),
    "an overlap": (_file((_tensor("a"), _tensor("b", offset=0)), data=64), "b: starts at offset 0, expected 32"),
    "a gap": (_file((_tensor("a"), _tensor("b", offset=64)), data=96), "b: starts at offset 64, expected 32"),
    "an offset beyond the file": (_file((_tensor(offset=2**63),), data=32), "w: starts at offset"),
    "cut off": (_file((_tensor(sizes=(64,)),), data=255), "cut off"),
    "bytes that no tensor has": (_file((_tensor(),), data=33), "more than it describes"),
    "cut off in a tensor's name": (_file(counts=(1, 0)) + b"\5", "ends at byte"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused_by_name(case: str) -> None:
    held, message = HOSTILE[case]
    with pytest.raises(CheckpointError) as refused:
        read_gguf(_Bytes(held))
    assert message in str(refused.value)
    assert str(refused.value).startswith("there/model.gguf: ")


def test_every_type_of_the_library_takes_its_blocks() -> None:
    for kind, (block, block_bytes) in GGML_QUANT_SIZES.items():
        # 2 rows of 3 blocks
        size = 2 * 3 * block_bytes
        file = read_gguf(_Bytes(_file((_tensor(sizes=(3 * block, 2), kind=kind.value),), data=-(-size // 32) * 32)))
        assert (file.tensors[0].dtype, file.tensors[0].shape) == (kind.name, (2, 3 * block))
        assert file.tensors[0].size_bytes == size


def test_the_last_tensor_may_lack_its_padding() -> None:
    # 8 elements in F32 are 32 B; 9 are 36 B, padded to 64
    for data in (36, 64):
        assert read_gguf(_Bytes(_file((_tensor(sizes=(9,)),), data=data))).tensors[0].size_bytes == 36


def test_an_alignment_of_its_own_holds_for_offsets() -> None:
    key = _key("general.alignment", UINT32, struct.pack("<I", 64))
    # the header is 8 + 16 + 37 + 2 * 33 = 127 B, so that 32 and 64 pad it alike
    held = _file((_tensor("a"), _tensor("b", offset=64)), (key,), data=128)
    assert len(held) == 128 + 128
    assert [tensor.name for tensor in read_gguf(_Bytes(held)).tensors] == ["a", "b"]


def test_only_the_header_of_a_large_file_is_read(tmp_path: Path) -> None:
    reads: list[int] = []

    class Watched(LocalFile):
        def read(self, start: int, length: int) -> bytes:
            reads.append(length)
            return LocalFile.read(self, start, length)

    held = _file((_tensor(sizes=(2**28,)),))
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(held)
        file.truncate(len(held) + 2**30)  # a hole, which takes no disk
    assert read_gguf(Watched(path)).tensors[0].size_bytes == 2**30
    assert sum(reads) <= 2**17


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    _write(path)
    return path.read_bytes()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_byte_or_a_cut_is_refused_by_name_or_changes_no_size(data: st.DataObject, written: bytes) -> None:
    held = bytearray(written)
    place = data.draw(st.integers(0, 400) | st.integers(0, len(held) - 1))
    held[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(held)) | st.integers(0, len(held)))
    read = _read(bytes(held[:end]))
    if isinstance(read, CheckpointError):
        assert read.file == "there/model.gguf"
    else:
        assert 0 <= read.overhead_bytes <= read.size_bytes == end


def _read(held: bytes) -> StoredFile | CheckpointError:
    try:
        return read_gguf(_Bytes(held))
    except CheckpointError as error:
        return error
