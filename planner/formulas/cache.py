"""Cache of keys and values, and recurrent states: what one layer keeps of one sequence, and what a pool reserves."""

from __future__ import annotations

from collections.abc import Sequence

from planner.formulas.memory import packed_bytes
from planner.numeric import Num, ceil_div, maximum, minimum, where

MOSTLY_EQUAL = 3, 2
"""vLLM 0.12 and later, v1/core/kv_cache_utils.py: groups are as large as the largest kind of layers where that is less
than three halves of the smallest, and as large as the smallest otherwise."""


def row_bytes(width: Num, code_bits: Num, code_elements: Num, scales: Num, scale_bits: Num) -> Num:
    """One part of what a key leaves in a cache: codes, and the scales beside them.

    Parameters
    ----------
    width : Num
        Numbers. [-]
    code_bits : Num
        Bits of `code_elements` numbers. [bit]
    code_elements : Num
        Numbers that share them: 1, or those of a block whose codes do not fall on whole bits. [-]
    scales : Num
        Scales of the row. [-]
    scale_bits : Num
        Bits of one, and of a zero point where there is one. [bit]

    Returns
    -------
    Num
        Whole bytes. [B]

    References
    ----------
    .. [1] FlashMLA, "FP8 with scale": 512 E4M3 values and 4 fp32 scales, and 64 values in bf16: 656 B. DeepSeek, 2025

    Examples
    --------
    >>> row_bytes(128, 16, 1, 0, 0), row_bytes(128, 8, 1, 1, 32)
    (256, 132)
    >>> row_bytes(512, 8, 1, 4, 32) + row_bytes(64, 16, 1, 0, 0)
    656
    """
    return packed_bytes(width, code_bits, code_elements) + packed_bytes(scales, scale_bits)


def rank_heads(heads: Num, tp: Num) -> Num:
    """Rows that one of `tp` tensor-parallel ranks keeps of a key: each rank holds at least one head whole.

    A latent is one row that all heads share, so that no rank can do without it.

    Parameters
    ----------
    heads : Num
        Key/value heads, or 1 for a row that all heads share. [-]
    tp : Num
        Ranks that divide them. [-]

    Returns
    -------
    Num
        Heads of the rank that has most. [-]

    References
    ----------
    .. [1] M. Shoeybi et al., "Megatron-LM", 2019. arXiv:1909.08053, section 3

    Examples
    --------
    >>> rank_heads(8, 2), rank_heads(8, 16), rank_heads(1, 8)
    (4, 1, 1)
    """
    return ceil_div(heads, tp)


def window_tokens(tokens: Num, window: Num) -> Num:
    """Tokens that a layer with a window keeps: no query sees what lies before it.

    Parameters
    ----------
    tokens : Num
        Of the sequence. [token]
    window : Num
        Keys that a query sees, itself included. [token]

    Returns
    -------
    Num
        Kept tokens. [token]

    References
    ----------
    .. [1] A. Q. Jiang et al., "Mistral 7B", 2023. arXiv:2310.06825, rolling buffer cache

    Examples
    --------
    >>> window_tokens(100, 4096), window_tokens(32768, 4096)
    (100, 4096)
    """
    return minimum(tokens, window)


def paged_tokens(tokens: Num, block_size: Num) -> Num:
    """Slots of whole blocks that hold a sequence.

    Parameters
    ----------
    tokens : Num
        Of one sequence. [token]
    block_size : Num
        Slots of a block. [token]

    Returns
    -------
    Num
        Slots. [token]

    References
    ----------
    .. [1] W. Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023. arXiv:2309.06180

    Examples
    --------
    >>> paged_tokens(17, 16)
    32
    """
    return ceil_div(tokens, block_size) * block_size


def waiting_tokens(tokens: Num, pool: Num) -> Num:
    """Tokens at the end of a sequence whose pool is not yet whole.

    Parameters
    ----------
    tokens : Num
        Of the sequence. [token]
    pool : Num
        Tokens that become one key. [token]

    Returns
    -------
    Num
        They wait until it is. [token]

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V4", 2026, compressed sparse and heavily compressed attention

    Examples
    --------
    >>> waiting_tokens(23, 5)
    3
    """
    return tokens - pool * (tokens // pool)


def carried_tokens(tokens: Num, pool: Num) -> Num:
    """Tokens of the last whole pool, which overlaps with the next.

    Parameters
    ----------
    tokens : Num
        Of the sequence. [token]
    pool : Num
        Tokens that become one key. [token]

    Returns
    -------
    Num
        None before the first pool is whole. [token]

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V4", 2026, compressed sparse attention

    Examples
    --------
    >>> carried_tokens(3, 4), carried_tokens(23, 4)
    (0, 4)
    """
    return pool * minimum(tokens // pool, 1)


def convolution_state(channels: Num, inputs: Num) -> Num:
    """Inputs that a causal convolution keeps for later tokens.

    Parameters
    ----------
    channels : Num
        Each convolved alone or together. [-]
    inputs : Num
        Of each channel: one fewer than its kernel spans, where no more are kept than are needed. [token]

    Returns
    -------
    Num
        Numbers of one sequence. [-]

    References
    ----------
    .. [1] A. Gu and T. Dao, "Mamba", 2023. arXiv:2312.00752, section 3.4

    Examples
    --------
    >>> convolution_state(8192, 3)
    24576
    """
    return channels * inputs


def state_bytes(elements: Num, element_bits: Num, tp: Num = 1) -> Num:
    """State of fixed size on one of `tp` ranks, which divide its channels or heads.

    Parameters
    ----------
    elements : Num
        Numbers of one sequence. [-]
    element_bits : Num
        Of each. [bit]
    tp : Num
        Ranks. [-]

    Returns
    -------
    Num
        Of one layer and sequence. [B]

    References
    ----------
    .. [1] T. Dao and A. Gu, "Transformers are SSMs", 2024. arXiv:2405.21060, section 8 (tensor parallelism)

    Examples
    --------
    >>> state_bytes(32 * 128 * 128, 32)
    2097152
    """
    return packed_bytes(ceil_div(elements, tp), element_bits)


def state_block_tokens(state_bytes: Num, token_bytes: Num, multiple: Num) -> Num:
    """Token slots of a block that is as large as a state, where both share a pool.

    Parameters
    ----------
    state_bytes : Num
        Everything that one layer with a state keeps of a sequence. [B]
    token_bytes : Num
        What one key leaves in one layer of the others. [B]
    multiple : Num
        Blocks are whole multiples of this. [token]

    Returns
    -------
    Num
        Slots of a block. [token]

    References
    ----------
    .. [1] vLLM 0.10.2, model_executor/models/config.py, HybridAttentionMambaModelConfig

    Examples
    --------
    >>> state_block_tokens(548_864, 1024, 16)  # Qwen3-Next-80B on 2 ranks, states in bf16
    544
    """
    return paged_tokens(ceil_div(state_bytes, token_bytes), multiple)


def padded_layers(kinds: Sequence[Num]) -> Num:
    """Layers that a paged pool reserves a token for, where kinds of layers share it in groups of one size.

    Parameters
    ----------
    kinds : sequence of Num
        Layers of each kind: those with the same window and the same rows. [-]

    Returns
    -------
    Num
        Layers, the padding of the last group of each kind included. [-]

    References
    ----------
    .. [1] vLLM, docs/design/hybrid_kv_cache_manager.md and v1/core/kv_cache_utils.py

    Examples
    --------
    >>> padded_layers([10, 52])  # groups of 10: 1 and 6 of them
    70
    >>> padded_layers([12, 12]), padded_layers([32])
    (24, 32)
    """
    smallest = largest = kinds[0]
    for layers in kinds[1:]:
        smallest, largest = minimum(smallest, layers), maximum(largest, layers)
    times, of = MOSTLY_EQUAL
    group = where(largest * of < smallest * times, largest, smallest)
    total: Num = 0
    for layers in kinds:
        total = total + ceil_div(layers, group) * group
    return total
