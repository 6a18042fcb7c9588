"""Whether a model fits the memory that is free now, asked before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from planner.compute import attention_pairs, positions
from planner.counts import count, tensors
from planner.errors import UnsupportedError
from planner.nodes import Attention, Convolution, Experts, Linear, Node, Row, walk
from planner.workload import Step

MARGIN = 1.25
"""Over weights and activations: allocators round, and the process itself needs room."""

COPIES = 4
"""Tensors that eager elementwise operations hold beside each product's output; a rough guess."""

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def refuse_what_does_not_fit(needed: int, device: str) -> None:
    """Raise `UnsupportedError` where a real model would not fit, with the bytes needed and free."""
    free = free_bytes(device)
    if needed > free:
        raise UnsupportedError(
            f"the real model needs about {needed:,} bytes on {device}, and {free:,} bytes are free",
            hint="--device meta allocates nothing",
        )


def needed_bytes(tree: Node, step: Step, element_bytes: int, *, experts: str | None, backward: bool) -> int:
    """Rough memory of one step with random weights.

    Parameters
    ----------
    tree : Node
        The model.
    step : Step
        What it is asked to do.
    element_bytes : int
        Of a weight and of an activation. [B]
    experts : str or None
        Implementation of the experts: ``batched_mm`` copies a slice of the weights for every visit of a token.
    backward : bool
        Gradients and saved activations as well.

    Returns
    -------
    int
        Weights (twice with gradients), outputs of the products (of the largest, or of all where backward keeps them),
        and a margin. [B]
    """
    outputs = [(row.copies, _output_elements(row, step, gathers=experts == "batched_mm")) for row in walk(tree)]
    held = sum(copies * size for copies, size in outputs) if backward else max(size for _, size in outputs)
    weights = count(tree).total * (2 if backward else 1)
    return int(MARGIN * element_bytes * (weights + COPIES * held))


def _output_elements(row: Row, step: Step, *, gathers: bool) -> int:
    leaf = row.leaf
    if isinstance(leaf, Attention):
        return int(attention_pairs(leaf, row.stream, step).executed * leaf.num_heads)
    at = positions(row.stream, step)
    if isinstance(leaf, Linear):
        return int(at * leaf.out_features)
    if isinstance(leaf, Convolution):
        return int(at * leaf.out_channels)
    if isinstance(leaf, Experts):
        one_expert = sum(tensor.numel for tensor in tensors(leaf)) // leaf.num_experts
        return int(at * leaf.top_k * (2 * leaf.intermediate_size + (one_expert if gathers else 0)))
    return 0


def free_bytes(device: str) -> int:
    """Memory that a process can still allocate on a device. [B]"""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    limits = [_available_to_machine(), *_available_to_group()]
    return min(limits)


def _available_to_machine() -> int:
    if MEMINFO.is_file():
        for line in MEMINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "MemAvailable":
                return int(value.split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available_to_group() -> list[int]:
    """What is left of the limit of a container, where one is set."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        # no control group of version 2, or "max": no limit
        return []
    return [max(limit - used, 0)]
