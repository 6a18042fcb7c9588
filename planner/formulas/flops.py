"""Floating-point operations of matrix products: one multiply-add is 2 FLOPs.

Norms, activations, softmax and lookups are not counted under any convention here; they are a fraction of a percent
and bound by memory bandwidth, not by FLOPs.
"""

from __future__ import annotations

from planner.numeric import Num, maximum, minimum


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
    sequences: Num, queries: Num, past: Num, num_heads: Num, qk_head_dim: Num, v_head_dim: Num
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

    Returns
    -------
    Num
        2 per multiply-add, over `queries * past + queries**2 / 2` pairs a sequence. [FLOP]

    References
    ----------
    .. [1] J. Kaplan et al., "Scaling Laws for Neural Language Models", 2020, table 1. arXiv:2001.08361

    Examples
    --------
    >>> halved_attention_flops(1, 128, 0, 12, 64, 64)
    25165824
    """
    return sequences * queries * (2 * past + queries) * num_heads * (qk_head_dim + v_head_dim)


def recurrence_flops(positions: Num, state_elements: Num, flops_per_element: Num) -> Num:
    """Recurrence of a state-space or linear-attention layer, element by element.

    Parameters
    ----------
    positions : Num
        Tokens, summed over the batch. [token]
    state_elements : Num
        Numbers in the state of one sequence. [-]
    flops_per_element : Num
        FLOPs a token and element. [FLOP]

    Returns
    -------
    Num
        Linear in the sequence, whatever chunks an implementation takes. [FLOP]

    References
    ----------
    .. [1] A. Gu and T. Dao, "Mamba", 2023, appendix D: O(B L D N) with a constant of 9. arXiv:2312.00752

    Examples
    --------
    >>> recurrence_flops(1, 1536 * 16, 9)  # a token through a layer of Mamba-130M
    221184
    """
    return positions * state_elements * flops_per_element


def masked_pairs(queries: Num, past: Num, window: Num | None) -> Num:
    """Query-key pairs that a causal mask keeps, in one sequence.

    Parameters
    ----------
    queries, past : Num
        New tokens and the tokens before them. [token]
    window : Num or None
        Keys that a query sees at most, itself included. [token]

    Returns
    -------
    Num
        Exact: the i-th query sees ``min(past + i, window)`` keys. [-]

    Examples
    --------
    >>> masked_pairs(4, 0, None), masked_pairs(4, 0, 2)  # 1 + 2 + 3 + 4 and 1 + 2 + 2 + 2
    (10, 7)
    """
    if window is None:
        return queries * past + queries * (queries + 1) // 2
    # Queries whose whole past still fits into the window; all later ones see exactly the window.
    growing = minimum(maximum(window - past, 0), queries)
    return growing * past + growing * (growing + 1) // 2 + (queries - growing) * window


FORWARD_FLOPS_PER_PARAMETER = 2
"""One multiply-add a parameter and token."""

TRAINING_FLOPS_PER_PARAMETER = 6
"""Forward, and twice as much backward."""


def parameter_flops(parameters: Num, tokens: Num, flops_per_parameter: Num) -> Num:
    """FLOPs by the rule of thumb that each parameter is multiplied once by each token.

    Parameters
    ----------
    parameters : Num
        Active parameters, embeddings included. [-]
    tokens : Num
        Tokens. [token]
    flops_per_parameter : Num
        2 forward, 6 in training; half of it in an encoder-decoder, where a token meets half of the model. [FLOP]

    Returns
    -------
    Num
        Sees no attention products, and counts a looked-up table as if it were multiplied. [FLOP]

    References
    ----------
    .. [1] J. Kaplan et al., "Scaling Laws for Neural Language Models", 2020. arXiv:2001.08361
    .. [2] T. Brown et al., "Language Models are Few-Shot Learners", 2020, table D.1. arXiv:2005.14165

    Examples
    --------
    >>> parameter_flops(175e9, 300e9, 6)  # GPT-3
    3.15e+23
    """
    return flops_per_parameter * parameters * tokens


def palm_attention_flops(attention_width: Num, context: Num, tokens: Num, flops_per_parameter: Num) -> Num:
    """Attention term of PaLM's count, which is added to `parameter_flops`.

    Parameters
    ----------
    attention_width : Num
        Heads times head width, summed over layers: L * H * Q. [-]
    context : Num
        Keys of a query: T. [token]
    tokens : Num
        Queries. [token]
    flops_per_parameter : Num
        2 forward, 6 in training. [FLOP]

    Returns
    -------
    Num
        In training 12 L H Q T a token, not halved for a causal mask. [FLOP]

    References
    ----------
    .. [1] A. Chowdhery et al., "PaLM", 2022, appendix B. arXiv:2204.02311

    Examples
    --------
    >>> palm_attention_flops(2, 4, 1, 6)  # 12 * 2 * 4
    96
    """
    return 2 * flops_per_parameter * attention_width * context * tokens
