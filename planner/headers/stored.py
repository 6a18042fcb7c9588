"""What a checkpoint's headers say: tensors with their dtypes, shapes and sizes, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["safetensors", "gguf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a file.

    Attributes
    ----------
    name : str
        As the file names it.
    dtype : str
        As the format spells it: ``BF16``, ``F8_E4M3``, ``I32``; ``Q4_K`` in GGUF.
    shape : tuple of int
        In torch's order, the last dimension being the one whose elements lie side by side. [-]
    size_bytes : int
        What it takes in the file. [B]
    file : str
        Name of the file that holds it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    file: str

    @property
    def numel(self) -> int:
        """Elements as the header counts them: one that packs several codes is one. [-]"""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of a checkpoint.

    Attributes
    ----------
    name : str
        Without its folder.
    size_bytes : int
        Of the whole file. [B]
    tensors : tuple of StoredTensor
        In the order of their bytes.
    metadata : mapping
        What else the header states: the strings of safetensors, the numbers and short texts of GGUF.
    """

    name: str
    size_bytes: int
    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overhead_bytes(self) -> int:
        """Header and padding: what is no tensor. [B]"""
        return self.size_bytes - sum(tensor.size_bytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCheckpoint:
    """A checkpoint as its headers describe it.

    Attributes
    ----------
    origin : str
        Folder, file or repository that was read.
    format : str
        ``safetensors`` or ``gguf``.
    files : tuple of StoredFile
        Those that make it up, in the order of their names.
    config : mapping or None
        The config.json beside them.
    config_origin : str
        Where that was read; empty where there is none.
    notes : tuple of str
        What is odd about the files, and no reason to refuse them.
    """

    origin: str
    format: Format
    files: tuple[StoredFile, ...]
    config: Mapping[str, Any] | None = None
    config_origin: str = ""
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """Those of all files."""
        return tuple(tensor for file in self.files for tensor in file.tensors)

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors. [B]"""
        return sum(tensor.size_bytes for tensor in self.tensors)

    @property
    def overhead_bytes(self) -> int:
        """Headers and padding of all files. [B]"""
        return sum(file.overhead_bytes for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Size of all files. [B]"""
        return sum(file.size_bytes for file in self.files)

    @property
    def elements(self) -> int:
        """Elements of all tensors, as the headers count them. [-]"""
        return sum(tensor.numel for tensor in self.tensors)


def bytes_by_dtype(tensors: tuple[StoredTensor, ...]) -> dict[str, int]:
    """Size of tensors for each of their dtypes, the largest first. [B]

    Examples
    --------
    >>> weight = StoredTensor(name="w", dtype="BF16", shape=(2, 3), size_bytes=12, file="model.safetensors")
    >>> bytes_by_dtype((weight,))
    {'BF16': 12}
    """
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size_bytes
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
