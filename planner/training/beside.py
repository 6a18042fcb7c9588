"""What an adapter keeps beside the frozen matrix that it changes, by the path of that matrix.

Low-rank adapters follow from `planner.adapters`; of the others the catalog says what each module keeps, in shares of
its input, its output and its weight, as measured on peft's own layers.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, get_args

from planner.activations import SavedTensor
from planner.adapters import Adapter, adapter_saved
from planner.adapters.places import adapted_rows
from planner.adapters.saved import INPUT
from planner.catalog import read_text
from planner.compute import positions
from planner.errors import CatalogError
from planner.formulas.activations import tensor_bytes
from planner.nodes import Linear, Node, Row, walk
from planner.numeric import Num, minimum
from planner.workload import Step

FILENAME = "adapter_kept.csv"

KeptTensor: TypeAlias = Literal["input", "shared input", "output", "narrow", "weight", "input square", "narrow square"]
"""What is kept: something as large as the module's input, its output, or the narrower of the two; as its weight, or as
a square matrix over its input or its narrower side. A ``shared input`` is the very
tensor that the frozen matrix reads, which modules beside it read as well."""

KeptDtype: TypeAlias = Literal["own", "base"]
"""Its dtype: the adapter's, or that of the base's activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptShare:
    """One tensor that a method keeps for each module.

    Attributes
    ----------
    tensor : str
        See `KeptTensor`.
    share : float
        How many of them. [-]
    dtype : str
        See `KeptDtype`.
    source : str
        Where it was measured.
    """

    tensor: KeptTensor
    share: float
    dtype: KeptDtype
    source: str


@cache
def load_kept() -> Mapping[str, tuple[KeptShare, ...]]:
    """What each method keeps, by its name.

    Raises
    ------
    CatalogError
        A word that is none of those above.
    """
    found: dict[str, tuple[KeptShare, ...]] = {}
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    for row in reader:
        if row["tensor"] not in get_args(KeptTensor) or row["dtype"] not in get_args(KeptDtype):
            raise CatalogError(
                f"expected one of {', '.join(get_args(KeptTensor))} in 'tensor', of {', '.join(get_args(KeptDtype))} "
                "in 'dtype'",
                file=FILENAME,
                line=reader.line_num,
            )
        share = KeptShare(
            tensor=row["tensor"],  # type: ignore[arg-type]  # checked above
            share=float(row["share"]),
            dtype=row["dtype"],  # type: ignore[arg-type]
            source=row["source"],
        )
        found[row["method"]] = (*found.get(row["method"], ()), share)
    return found


def kept_beside(
    tree: Node, adapter: Adapter, step: Step, *, dtype: str, autocast: str | None, fused: bool
) -> dict[str, tuple[SavedTensor, ...]]:
    """Tensors that an adapter keeps beside each matrix, but for inputs that it shares with the matrix.

    Parameters
    ----------
    tree : Node
        The model.
    adapter : Adapter
        Its targets resolved.
    step : Step
        One micro-batch.
    dtype : str
        Of the base's activations.
    autocast : str, optional
        What products are computed in under autocast.
    fused : bool
        Kernels that read the matrix's own input, keep what dropout left of it, and compute all of the rank's width
        again.
    """
    found: dict[str, tuple[SavedTensor, ...]] = {}
    if adapter.is_low_rank and not fused:
        for tensor in adapter_saved(tree, adapter, step, dtype=dtype, autocast=autocast, device="cuda"):
            if tensor.name != INPUT:
                found[tensor.path] = (*found.get(tensor.path, ()), tensor)
        return found
    element_bytes: dict[KeptDtype, Num] = {"own": adapter.element_bits / 8, "base": 4 if dtype == "fp32" else 2}
    for row, copies, indices in adapted_rows(list(walk(tree)), adapter):
        if not isinstance(row.leaf, Linear):
            continue
        sizes = _fused(row, adapter, step, element_bytes) if fused else _shares(row, adapter, step, element_bytes)
        part = "attention" if row.bucket.startswith("attention") else "mlp"
        found[row.path] = tuple(
            SavedTensor(path=row.path, name=name, size_bytes=size, copies=copies, indices=indices, part=part)
            for name, size in sizes
        )
    return found


def shares_input(row: Row, adapter: Adapter) -> bool:
    """Whether a method other than a low-rank one keeps the very input of a matrix."""
    if not any(kept.tensor == "shared input" for kept in load_kept().get(adapter.method, ())):
        return False
    return next(adapted_rows([row], adapter), None) is not None


def _fused(row: Row, adapter: Adapter, step: Step, element_bytes: Mapping[KeptDtype, Num]) -> Iterator[tuple[str, Num]]:
    leaf = row.leaf
    if adapter.dropout and isinstance(leaf, Linear):
        tokens = positions(row.stream, step)
        yield "dropped input", tensor_bytes(tokens * leaf.in_features, element_bytes["base"])


def _shares(
    row: Row, adapter: Adapter, step: Step, element_bytes: Mapping[KeptDtype, Num]
) -> Iterator[tuple[str, Num]]:
    leaf = row.leaf
    assert isinstance(leaf, Linear)  # noqa: S101 - as it was chosen
    tokens = positions(row.stream, step)
    narrow = minimum(leaf.in_features, leaf.out_features)
    elements: dict[KeptTensor, Num] = {
        "narrow": tokens * narrow,
        "narrow square": narrow * narrow,
        "input": tokens * leaf.in_features,
        "output": tokens * leaf.out_features,
        "weight": leaf.in_features * leaf.out_features,
        "input square": leaf.in_features * leaf.in_features,
    }
    scales_input = adapter.method == "ia3" and row.path.rpartition(".")[2] in adapter.input_side_modules
    for kept in load_kept().get(adapter.method, ()):
        if kept.tensor == "shared input":
            continue
        tensor, dtype = ("input", "own") if scales_input else (kept.tensor, kept.dtype)
        yield f"{adapter.method} {tensor}", tensor_bytes(kept.share * elements[tensor], element_bytes[dtype])  # type: ignore[index]
