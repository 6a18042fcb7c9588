"""Floating-point operations of matrix products: one multiply-add is 2 FLOPs.

Norms, activations, softmax and lookups are not counted under any convention here; they are a fraction of a percent
and bound by memory bandwidth, not by FLOPs.
"""

from __future__ import annotations

from planner.numeric import Num


def linear_flops(positions: Num, in_features: Num, out_features: Num) -> Num:
    """Product of activations with a weight.

    Parameters
    ----------
    positions : Num
        Rows of the activation matrix, summed over the batch. [token]
    in_features, out_features : Num
        Shape of the weight. [-]

    Returns
    -------
    Num
        2 per multiply-add. [FLOP]

    Examples
    --------
    >>> linear_flops(128, 768, 3072)  # 2 * 128 * 768 * 3072
    603979776
    """
    return 2 * positions * in_features * out_features


def attention_flops(pairs: Num, num_heads: Num, qk_head_dim: Num, v_head_dim: Num) -> Num:
    """Scores and weighted sum of values.

    Parameters
    ----------
    pairs : Num
        Query-key pairs, summed over the batch. [-]
    num_heads : Num
        Query heads: grouped key/value heads save memory, not products. [-]
    qk_head_dim, v_head_dim : Num
        Width of queries and keys, and of values. [-]

    Returns
    -------
    Num
        2 per multiply-add. [FLOP]

    Examples
    --------
    >>> attention_flops(128 * 128, 12, 64, 64)  # 2 * 16384 * 12 * (64 + 64)
    50331648
    """
    return 2 * pairs * num_heads * (qk_head_dim + v_head_dim)


def fused_attention_backward_flops(pairs: Num, num_heads: Num, qk_head_dim: Num, v_head_dim: Num) -> Num:
    """Backward of a fused attention kernel, which computes the scores again.

    Five products: scores (qk), gradient of the probabilities (v), of the values (v), of queries (qk) and keys (qk).

    Parameters
    ----------
    pairs, num_heads, qk_head_dim, v_head_dim : Num
        As in `attention_flops`.

    Returns
    -------
    Num
        2.5 times the forward pass where `qk_head_dim` equals `v_head_dim`. [FLOP]

    References
    ----------
    .. [1] T. Dao et al., "FlashAttention", 2022, section 3.1. arXiv:2205.14135

    Examples
    --------
    >>> fused_attention_backward_flops(128 * 128, 12, 64, 64) / attention_flops(128 * 128, 12, 64, 64)
    2.5
    """
    return 2 * pairs * num_heads * (3 * qk_head_dim + 2 * v_head_dim)


def halved_attention_flops(
    sequences: Num,
    queries: Num,
    past: Num,
    num_heads: Num,
    qk_head_dim: Num,
    v_head_dim: Num,
    new_keys: Num | None = None,
) -> Num:
    """Attention under the causal convention: the block of new tokens counts half, their past counts whole.

    Parameters
    ----------
    sequences : Num
        Batch. [-]
    queries, past : Num
        New tokens and cached tokens of one sequence. [token]
    num_heads, qk_head_dim, v_head_dim : Num
        As in `attention_flops`.
    new_keys : Num, optional
        Keys of the new tokens; one each where it is left out. [-]

    Returns
    -------
    Num
        2 per multiply-add, over `queries * past + queries * new_keys / 2` pairs a sequence. [FLOP]

    References
    ----------
    .. [1] J. Kaplan et al., "Scaling Laws for Neural Language Models", 2020, table 1. arXiv:2001.08361

    Examples
    --------
    >>> halved_attention_flops(1, 128, 0, 12, 64, 64)
    25165824
    """
    new = queries if new_keys is None else new_keys
    return sequences * queries * (2 * past + new) * num_heads * (qk_head_dim + v_head_dim)


def recurrence_flops(positions: Num, state_elements: Num, flops_per_element: Num) -> Num:
    """Recurrence of a state-space or linear-attention layer, element by element.

    Parameters
    ----------
    positions : Num
        Tokens, summed over the batch. [token]
    state_elements : Num
        Numbers in the state of one sequence. [-]
    flops_per_element : Num
        FLOPs a token and element: one of the constants below. [FLOP]

    Returns
    -------
    Num
        Linear in the sequence, whatever chunks an implementation takes. [FLOP]

    Examples
    --------
    >>> recurrence_flops(1, 1536 * 16, SELECTIVE_SCAN_FLOPS)  # a token through a layer of Mamba-130M
    221184
    """
    return positions * state_elements * flops_per_element


SELECTIVE_SCAN_FLOPS = 9
"""Mamba's selective scan, a token and element: 9 B L D N, as its authors count the parallel scan.

A. Gu, https://github.com/state-spaces/mamba/issues/110, of arXiv:2312.00752. [FLOP]
"""

SSD_FLOPS = 5
"""Mamba-2's scan, a token and element: ``h = a h + (dt x) B`` is three, ``y = C h`` two; `a` is one number a head.

T. Dao and A. Gu, "Transformers are SSMs", 2024, equation 2. arXiv:2405.21060 [FLOP]
"""

GATED_DELTA_RULE_FLOPS = 7
"""Gated delta rule, a token and element: the decay of ``S`` is one, ``S k``, ``S + d k`` and ``S q`` are two each.

S. Yang et al., "Gated Delta Networks", 2024, equation 10. arXiv:2412.06464 [FLOP]
"""

RG_LRU_FLOPS = 6
"""Real-gated linear recurrent unit, a token and element: the arithmetic of equation 4, as its authors count it.

S. De et al., "Griffin", 2024, section 4.2. arXiv:2402.19427 [FLOP]
"""

WKV_FLOPS = 4
"""RWKV's weighted average, a token and each of a channel's three numbers (numerator, denominator, largest exponent).

12 a channel: ``e^k`` (1), numerator (3) and denominator (2) carried on, ``u + k`` and its exponential (2), output (4).
B. Peng et al., "RWKV", 2023, equations 20 to 22; shifting the exponents against overflow is not counted.
arXiv:2305.13048 [FLOP]
"""
