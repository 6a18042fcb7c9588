"""Bytes that follow from the counts: weights as stored, and what training keeps for each parameter.

Activations, the KV cache and the runtime's own memory are not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

from planner.counts import Tensor, held_tensors
from planner.formats import WeightFormat
from planner.formulas.memory import (
    block_quantised_state_bytes,
    dimension_squares,
    packed_bytes,
    preconditioner_elements,
    projected_elements,
)
from planner.nodes import Node, Row, walk
from planner.numeric import Num, where
from planner.optimizers import Optimizer, State
from planner.precisions import Precision
from planner.quantisation import is_exact, stored_weights

Basis = Literal["exact", "modelled", "assumed"]

WEIGHTS = "weights"
SCALES = "scales"
GRADIENTS = "gradients"
MASTERS = "master weights"
OPTIMIZER = "optimizer state"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One named part of the memory.

    Attributes
    ----------
    name : str
        What it is.
    size_bytes : Num
        Over all devices. [B]
    basis : str
        ``exact``: follows from shapes and formats alone; ``modelled``: a formula with a measured error; ``assumed``.
    source : str
        Formula and catalog lines that it comes from.
    """

    name: str
    size_bytes: Num
    basis: Basis
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one model in one use.

    Attributes
    ----------
    rows : tuple of MemoryRow
        Parts that are resident at the same time.
    """

    rows: tuple[MemoryRow, ...]

    @property
    def total_bytes(self) -> Num:
        """Sum of the rows. [B]"""
        total: Num = 0
        for row in self.rows:
            total = total + row.size_bytes
        return total

    def size_of(self, name: str) -> Num:
        """Bytes of the row of that name; 0 where there is none. [B]"""
        return next((row.size_bytes for row in self.rows if row.name == name), 0)


def inference_memory(tree: Node, weights: WeightFormat) -> Memory:
    """Weights as a format stores them, and their scales and zero points."""
    stored = stored_weights(tree, weights)
    basis: Basis = "exact" if is_exact(tree, weights) else "modelled"
    origin = "; ".join(weights.sources)
    rows = [
        MemoryRow(name=WEIGHTS, size_bytes=stored.codes, basis=basis, source=f"parameters x {weights.name}: {origin}")
    ]
    if weights.has_scales:
        rows.append(
            MemoryRow(name=SCALES, size_bytes=stored.scales, basis=basis, source=f"blocks x {weights.name}: {origin}")
        )
    return Memory(rows=tuple(rows))


def training_memory(tree: Node, precision: Precision, optimizer: Optimizer) -> Memory:
    """Weights, gradients, master weights and optimizer state, every parameter trained, on one device."""
    elements: Num = 0
    states: Num = 0
    for row in walk(tree):
        for tensor in held_tensors(row):
            elements = elements + row.copies * tensor.numel
            for state in optimizer.states:
                if has_state(row, tensor, state):
                    states = states + row.copies * state_bytes(tensor, state, precision.optimised)
    kept = (
        (WEIGHTS, precision.parameters, precision.parameters_source),
        (GRADIENTS, precision.gradients, precision.gradients_source),
        (MASTERS, precision.masters, precision.masters_source),
    )
    rows = [
        MemoryRow(
            name=name,
            size_bytes=packed_bytes(elements, chosen.element_bits),
            basis="exact",
            source=f"parameters x {chosen.name}; {precision.name}: {source}",
        )
        for name, chosen, source in kept
        if chosen is not None
    ]
    names: dict[str, list[str]] = {}
    for state in optimizer.states:
        names.setdefault(state.source, []).append(state.name)
    origins = "; ".join(f"{', '.join(kept_as)}: {source}" for source, kept_as in names.items())
    rows.append(MemoryRow(name=OPTIMIZER, size_bytes=states, basis="exact", source=f"{optimizer.name}: {origins}"))
    return Memory(rows=tuple(rows))


def state_bytes(tensor: Tensor, state: State, optimised: WeightFormat) -> Num:
    """One state of one tensor. [B]"""
    elements, bits = state_elements(tensor, state), state.element_bits(optimised)
    if not state.block:
        return packed_bytes(elements, bits)
    quantised = block_quantised_state_bytes(elements, bits, state.block, state.scale_bits, state.table_bits)
    full = packed_bytes(elements, state.unquantised_bits(optimised))
    if state.whole_blocks:
        quantised = where(elements % state.block == 0, quantised, full)
    return where(elements < state.smallest, full, quantised)


def state_elements(tensor: Tensor, state: State) -> Num:
    """Elements of one state of one tensor. [-]"""
    match state.elements:
        case "none":
            return 0
        case "all":
            return tensor.numel
        case "rows":
            return tensor.numel // tensor.shape[-1]
        case "columns":
            return tensor.numel // tensor.shape[-2]
        case "block squares":
            return preconditioner_elements(tensor.shape, state.size)
        case "dimension squares":
            return dimension_squares(tensor.shape, state.size)
        case "projected" | "projection":
            matrices, rows, columns = _as_matrices(tensor)
            projected, projection = projected_elements(rows, columns, state.size)
            return matrices * (projected if state.elements == "projected" else projection)
        case _:
            assert_never(state.elements)


def _as_matrices(tensor: Tensor) -> tuple[Num, Num, Num]:
    """Matrices in a tensor, and the rows and columns of each."""
    if tensor.matrices is not None:
        return tensor.matrices.count, tensor.matrices.out_features, tensor.matrices.in_features
    rows, columns = tensor.shape[-2:]
    return tensor.numel // (rows * columns), rows, columns


def has_state(row: Row, tensor: Tensor, state: State) -> bool:
    """Whether an optimizer keeps a state for a tensor."""
    is_matrix = len(tensor.shape) >= 2
    is_hidden = is_matrix and not _is_table_or_head(row)
    match state.tensors:
        case "all":
            return True
        case "matrices":
            return is_matrix
        case "vectors":
            return not is_matrix
        case "hidden":
            return is_hidden
        case "other":
            return not is_hidden
        case _:
            assert_never(state.tensors)


def _is_table_or_head(row: Row) -> bool:
    component = row.bucket.split(".", 1)[-1] if row.bucket.startswith(("vision.", "audio.")) else row.bucket
    return component.startswith(("embeddings", "other"))
