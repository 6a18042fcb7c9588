"""Bytes that follow from the counts: weights as stored, and what training keeps for each parameter.

Activations, the KV cache and the runtime's own memory are not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

from planner.counts import Tensor, held_tensors
from planner.formats import WeightFormat, find_format
from planner.formulas.memory import block_quantised_state_bytes, grouped_blocks, nested_scale_bytes, packed_bytes
from planner.nodes import Linear, Node, Row, walk
from planner.numeric import Num, ceil_div, where
from planner.optimizers import Optimizer, State
from planner.precisions import Precision

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
    basis: Literal["exact", "modelled", "assumed"]
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
    elements: Num = 0
    scales: Num = 0
    for row in walk(tree):
        for tensor in held_tensors(row):
            quantised = weights.quantises == "all" or is_quantised(row, tensor)
            chosen = weights if quantised else find_format(weights.unquantised)
            elements = elements + row.copies * packed_bytes(tensor.numel, chosen.element_bits)
            if quantised and weights.blocks != "none":
                scales = scales + row.copies * scale_bytes(tensor, weights)
    origin = "; ".join(weights.sources)
    rows = [MemoryRow(name=WEIGHTS, size_bytes=elements, basis="exact", source=f"parameters x bits of {origin}")]
    if weights.blocks != "none":
        rows.append(
            MemoryRow(
                name=SCALES, size_bytes=scales, basis="exact", source=f"one set a {weights.blocks} block: {origin}"
            )
        )
    return Memory(rows=tuple(rows))


def is_quantised(row: Row, tensor: Tensor) -> bool:
    """Whether a format for matrices quantises a tensor: weights of linear layers and experts, routers and heads not."""
    if tensor.matrices is None:
        return False
    if row.bucket == "router" or row.bucket.startswith("other."):
        return False
    return not (isinstance(row.leaf, Linear) and row.leaf.yields_logits)


def scale_bytes(tensor: Tensor, weights: WeightFormat) -> Num:
    """Scales and zero points of one quantised tensor. [B]"""
    blocks = _blocks(tensor, weights)
    zeros = packed_bytes(blocks, weights.zero_bits)
    if weights.nested_block:
        nested = nested_scale_bytes(blocks, weights.scale_bits, weights.nested_block, weights.nested_scale_bits)
        return nested + zeros
    return packed_bytes(blocks, weights.scale_bits) + zeros


def _blocks(tensor: Tensor, weights: WeightFormat) -> Num:
    matrices = tensor.matrices
    if matrices is None:
        return 0
    match weights.blocks:
        case "none":
            return 0
        case "tensor":
            return matrices.count
        case "channel":
            return matrices.count * matrices.out_features
        case "group":
            return grouped_blocks(matrices.count, matrices.out_features, matrices.in_features, weights.block_elements)
        case "flat":
            return ceil_div(tensor.numel, weights.block_elements)
        case _:
            assert_never(weights.blocks)


def training_memory(tree: Node, precision: Precision, optimizer: Optimizer) -> Memory:
    """Weights, gradients, master weights and optimizer state, every parameter trained, on one device."""
    elements: Num = 0
    states: Num = 0
    for row in walk(tree):
        for tensor in held_tensors(row):
            elements = elements + row.copies * tensor.numel
            for state in optimizer.states:
                if _has_state(row, tensor, state):
                    states = states + row.copies * state_bytes(tensor, state, precision.optimised)
    recipe = f"precision {precision.name}: {'; '.join(precision.sources)}"
    kept = {WEIGHTS: precision.parameters, GRADIENTS: precision.gradients, MASTERS: precision.masters}
    rows = [
        MemoryRow(name=name, size_bytes=packed_bytes(elements, chosen.element_bits), basis="exact", source=recipe)
        for name, chosen in kept.items()
        if chosen is not None
    ]
    origins = "; ".join(dict.fromkeys(f"{state.name}: {state.source}" for state in optimizer.states))
    rows.append(MemoryRow(name=OPTIMIZER, size_bytes=states, basis="exact", source=f"{optimizer.name}: {origins}"))
    return Memory(rows=tuple(rows))


def state_bytes(tensor: Tensor, state: State, optimised: WeightFormat) -> Num:
    """One state of one tensor. [B]"""
    bits = state.element_bits(optimised)
    match state.elements:
        case "none":
            return 0
        case "rows":
            return packed_bytes(tensor.numel // tensor.shape[-1], bits)
        case "columns":
            return packed_bytes(tensor.numel // tensor.shape[-2], bits)
        case "all":
            if not state.block:
                return packed_bytes(tensor.numel, bits)
            quantised = block_quantised_state_bytes(tensor.numel, bits, state.block, state.scale_bits)
            full = packed_bytes(tensor.numel, find_format("fp32").element_bits)
            return where(tensor.numel < state.smallest, full, quantised)
        case _:
            assert_never(state.elements)


def _has_state(row: Row, tensor: Tensor, state: State) -> bool:
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
