"""Tensors that backward keeps: how many elements they have, and their bytes."""

from __future__ import annotations

from planner.numeric import Num, ceil_div


def tensor_bytes(elements: Num, element_bytes: Num) -> Num:
    """One tensor.

    Parameters
    ----------
    elements : Num
        Over the whole batch. [-]
    element_bytes : Num
        Bytes of an element; the mask of a dropout has 1 on CUDA. [B]

    Returns
    -------
    Num
        Its size. [B]

    Examples
    --------
    >>> tensor_bytes(2 * 1024 * 768, 2)  # 2 samples * 1024 tokens * 768 * 2 B
    3145728
    """
    return elements * element_bytes


def score_elements(pairs: Num, num_heads: Num) -> Num:
    """One number for every pair of a query and a key, in each head: attention's scores, and its probabilities.

    Parameters
    ----------
    pairs : Num
        Pairs over the whole batch, masked or not. [-]
    num_heads : Num
        Query heads; 1 for a mask that they share. [-]

    Returns
    -------
    Num
        Elements of the tensor. [-]

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, section 4.1:
       its ``a s^2 b``. arXiv:2205.05198

    Examples
    --------
    >>> score_elements(2 * 1024 * 1024, 12)
    25165824
    """
    return pairs * num_heads


def log_sum_exp_elements(sequences: Num, num_heads: Num, queries: Num, multiple: Num = 1) -> Num:
    """What a fused attention kernel keeps in place of the probabilities: one number a query and head, in fp32.

    Parameters
    ----------
    sequences, num_heads, queries : Num
        Sequences of the batch, query heads, queries of a sequence. [-]
    multiple : Num
        To which the kernel rounds the queries up: 32 in the memory-efficient kernel, else 1. [-]

    Returns
    -------
    Num
        Elements of the tensor. [-]

    References
    ----------
    .. [1] T. Dao et al., "FlashAttention", 2022, section 3.1. arXiv:2205.14135

    Examples
    --------
    >>> log_sum_exp_elements(2, 12, 1000), log_sum_exp_elements(2, 12, 1000, 32)  # 1024 in place of 1000
    (24000, 24576)
    """
    return sequences * num_heads * ceil_div(queries, multiple) * multiple


def statistics_elements(elements: Num, dim: Num, numbers: Num) -> Num:
    """Statistics that a norm keeps of every vector.

    Parameters
    ----------
    elements : Num
        Of the tensor that is normed. [-]
    dim : Num
        Width of a vector. [-]
    numbers : Num
        2 in a LayerNorm, mean and reciprocal deviation; 1 in an RMSNorm. [-]

    Returns
    -------
    Num
        Elements of all of them. [-]

    Examples
    --------
    >>> statistics_elements(2 * 1024 * 768, 768, 2)
    4096
    """
    return elements // dim * numbers


def activation_bytes(positions: Num, features: Num, element_bytes: Num) -> Num:
    """One vector for every position.

    Parameters
    ----------
    positions, features : Num
        Positions over the whole batch, and elements of each. [-]
    element_bytes : Num
        Bytes of an element. [B]

    Returns
    -------
    Num
        Size of the tensor. [B]

    Examples
    --------
    >>> activation_bytes(2 * 1024, 768, 2)  # 2 samples * 1024 tokens * 768 * 2 B
    3145728
    """
    return tensor_bytes(positions * features, element_bytes)


def score_bytes(pairs: Num, num_heads: Num, element_bytes: Num) -> Num:
    """Scores or probabilities of an attention, see `score_elements`.

    Parameters
    ----------
    pairs, num_heads : Num
        Pairs over the whole batch, and query heads. [-]
    element_bytes : Num
        Bytes of an element. [B]

    Returns
    -------
    Num
        Size of the tensor. [B]

    Examples
    --------
    >>> score_bytes(2 * 1024 * 1024, 12, 2)  # 2 * 12 * 1024**2 * 2 B
    50331648
    """
    return tensor_bytes(score_elements(pairs, num_heads), element_bytes)


def log_sum_exp_bytes(sequences: Num, num_heads: Num, queries: Num, multiple: Num = 1) -> Num:
    """The fp32 numbers of `log_sum_exp_elements`.

    Parameters
    ----------
    sequences, num_heads, queries, multiple : Num
        As there. [-]

    Returns
    -------
    Num
        Size of the tensor. [B]

    Examples
    --------
    >>> log_sum_exp_bytes(2, 12, 1000)  # 2 * 12 * 1000 * 4 B
    96000
    """
    return tensor_bytes(log_sum_exp_elements(sequences, num_heads, queries, multiple), 4)


def statistics_bytes(rows: Num, numbers: Num, element_bytes: Num) -> Num:
    """Statistics that a norm keeps of every row.

    Parameters
    ----------
    rows, numbers : Num
        Vectors that are normed, and numbers of each, see `statistics_elements`. [-]
    element_bytes : Num
        Bytes of a number. [B]

    Returns
    -------
    Num
        Size of all of them. [B]

    Examples
    --------
    >>> statistics_bytes(2 * 1024, 2, 4)
    16384
    """
    return tensor_bytes(rows * numbers, element_bytes)
