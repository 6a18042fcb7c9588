"""What an inference engine holds of weights, and what it leaves for the cache: segments, tables, copies, pools."""

from __future__ import annotations

from planner.numeric import Num, ceil_div, maximum, where

MIB = 2**20

LARGE_TENSOR_BYTES = 10 * MIB
"""From this size on, torch's caching allocator asks the driver for a segment of its own (kMinLargeAlloc)."""

SEGMENT_BYTES = 2 * MIB
"""Such a segment is rounded up to a multiple of this (kRoundLarge)."""

UNSPLIT_BYTES = MIB
"""A rest of at most this stays part of the block, because a large block is not split for less (kSmallSize)."""


def allocated_bytes(size_bytes: Num) -> Num:
    """Bytes that torch counts as allocated for one tensor.

    Parameters
    ----------
    size_bytes : Num
        Of the tensor. [B]

    Returns
    -------
    Num
        The tensor, and the rest of its segment where that is too small to be split off. [B]

    References
    ----------
    .. [1] pytorch, c10/cuda/CUDACachingAllocator.cpp: get_allocation_size, should_split

    Examples
    --------
    >>> allocated_bytes(21 * 2**20 + 512) / 2**20  # rounded up to 22 MiB, less than 1 MiB is left
    22.0
    >>> allocated_bytes(20 * 2**20 + 512) / 2**20  # more than 1 MiB is left, which is split off
    20.00048828125
    """
    rounded = ceil_div(size_bytes, SEGMENT_BYTES) * SEGMENT_BYTES
    keeps_rest = (size_bytes >= LARGE_TENSOR_BYTES) & (rounded - size_bytes <= UNSPLIT_BYTES)
    return where(keeps_rest, rounded, size_bytes)


def segment_bytes(size_bytes: Num) -> Num:
    """Memory that leaves the device for one tensor, where it is large; small tensors share segments.

    Parameters
    ----------
    size_bytes : Num
        Of the tensor. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] pytorch, c10/cuda/CUDACachingAllocator.cpp: get_allocation_size

    Examples
    --------
    >>> segment_bytes(20 * 2**20 + 512) / 2**20
    22.0
    """
    return where(size_bytes >= LARGE_TENSOR_BYTES, ceil_div(size_bytes, SEGMENT_BYTES) * SEGMENT_BYTES, size_bytes)


def rope_cache_bytes(positions: Num, width: Num, element_bytes: Num) -> Num:
    """Table of cosines and sines of every position.

    Parameters
    ----------
    positions : Num
        Rows. [-]
    width : Num
        Elements of a head that are turned; half as many cosines and as many sines. [-]
    element_bytes : Num
        Of one. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, model_executor/layers/rotary_embedding: RotaryEmbedding._compute_cos_sin_cache

    Examples
    --------
    >>> rope_cache_bytes(131072, 128, 2) / 2**20  # Llama-3.1
    32.0
    """
    return positions * width * element_bytes


def absorbed_bytes(heads: Num, first_width: Num, second_width: Num, element_bytes: Num) -> Num:
    """A matrix of MLA that an engine keeps a second time, multiplied into or cut out of its neighbours.

    Parameters
    ----------
    heads : Num
        Query heads of a rank. [-]
    first_width, second_width : Num
        What it joins, for each head. [-]
    element_bytes : Num
        Absorbed matrices are never quantised. [B]

    Returns
    -------
    Num
        Of one layer. [B]

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V2", 2024. arXiv:2405.04434, appendix C
    .. [2] vLLM, v1/attention/backends/mla/common.py: process_weights_after_loading (W_UV, W_UK_T)

    Examples
    --------
    >>> absorbed_bytes(128, 512, 128, 2) / 2**20  # W_UK of DeepSeek-V3
    16.0
    """
    return heads * first_width * second_width * element_bytes


def pool_budget_bytes(
    memory_bytes: Num, utilization: Num, weights_bytes: Num, peak_bytes: Num, other_bytes: Num
) -> Num:
    """What is left for the cache of what an engine may use; negative where the rest alone is too large.

    Parameters
    ----------
    memory_bytes : Num
        Of the device, as the engine sees it. [B]
    utilization : Num
        Share of it that the engine may use. [-]
    weights_bytes, peak_bytes, other_bytes : Num
        Weights, the peak of the profile run, and what is not torch's. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] vLLM, v1/worker/gpu_worker.py: determine_available_memory

    Examples
    --------
    >>> pool_budget_bytes(80, 0.5, 20, 3, 1)
    16.0
    """
    return memory_bytes * utilization - weights_bytes - peak_bytes - other_bytes


def whole_blocks(pool_bytes: Num, block_bytes: Num) -> Num:
    """Whole blocks of a pool; none where nothing is left for it.

    Parameters
    ----------
    pool_bytes, block_bytes : Num
        Of the pool and of one block over all layers. [B]

    Returns
    -------
    Num
        [-]

    References
    ----------
    .. [1] vLLM, v1/core/kv_cache_utils.py: get_num_blocks

    Examples
    --------
    >>> whole_blocks(100, 30), whole_blocks(-5, 30)
    (3, 0)
    """
    return maximum(pool_bytes, 0) // block_bytes


def concatenated_bytes(size_bytes: Num, layer_bytes: Num) -> Num:
    """Peak of a cache that grows by concatenation: a layer's new tensor is whole before its old one is freed.

    Parameters
    ----------
    size_bytes : Num
        Of the cache behind the step. [B]
    layer_bytes : Num
        Of the keys or values of its largest layer before the step. [B]

    Returns
    -------
    Num
        [B]

    References
    ----------
    .. [1] transformers, cache_utils.py: DynamicLayer.update, torch.cat of keys and then of values

    Examples
    --------
    >>> concatenated_bytes(1000, 50)
    1050
    """
    return size_bytes + layer_bytes
