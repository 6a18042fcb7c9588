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


def banded_pairs(queries: Num, window: Num) -> Num:
    """Query-key pairs that a window on both sides keeps, in one sequence.

    Parameters
    ----------
    queries : Num
        Tokens. [token]
    window : Num
        Keys that a query sees at most on each side, itself included. [token]

    Returns
    -------
    Num
        Exact: both causal halves, which share the diagonal. [-]

    Examples
    --------
    >>> banded_pairs(4, 2)  # 2 + 3 + 3 + 2
    10
    """
    return 2 * masked_pairs(queries, 0, window) - queries


def chunked_pairs(queries: Num, past: Num, chunk: Num) -> Num:
    """Query-key pairs that a causal mask keeps where the sequence is cut into pieces, in one sequence.

    Parameters
    ----------
    queries, past : Num
        New tokens and the tokens before them. [token]
    chunk : Num
        Length of a piece. [token]

    Returns
    -------
    Num
        Exact: the token at position p, counted from 0, sees ``p % chunk + 1`` keys. [-]

    Examples
    --------
    >>> chunked_pairs(5, 0, 3), chunked_pairs(2, 4, 3)  # 1 + 2 + 3 + 1 + 2 and 2 + 3
    (9, 5)
    """

    def from_the_start(tokens: Num) -> Num:
        whole = tokens // chunk
        rest = tokens - whole * chunk
        return whole * (chunk * (chunk + 1) // 2) + rest * (rest + 1) // 2

    return from_the_start(past + queries) - from_the_start(past)


def pooled_pairs(queries: Num, past: Num, pool: Num, selected: Num | None) -> Num:
    """Query-key pairs that a causal mask keeps where several tokens share one key, in one sequence.

    Parameters
    ----------
    queries, past : Num
        New tokens and the tokens before them. [token]
    pool : Num
        Tokens that share a key, which is seen once the last of them is there. [token]
    selected : Num or None
        Keys that a query sees at most. [-]

    Returns
    -------
    Num
        Exact: the i-th query sees ``min((past + i) // pool, selected)`` keys. [-]

    References
    ----------
    .. [1] DeepSeek-AI, "DeepSeek-V4", section 2.3, as the class of transformers masks it.

    Examples
    --------
    >>> pooled_pairs(6, 0, 2, None), pooled_pairs(6, 0, 2, 2)  # 0 + 1 + 1 + 2 + 2 + 3 and 0 + 1 + 1 + 2 + 2 + 2
    (9, 8)
    """

    def from_the_start(tokens: Num) -> Num:
        # Queries that see no more keys than they may; all later ones see exactly as many.
        growing = tokens if selected is None else minimum(tokens, pool * (selected + 1) - 1)
        keys = growing // pool
        seen = pool * (keys * (keys - 1) // 2) + keys * (growing - keys * pool + 1)
        return seen if selected is None else seen + (tokens - growing) * selected

    return from_the_start(past + queries) - from_the_start(past)


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


def kaplan_forward_flops(num_layers: Num, hidden_size: Num, context: Num) -> Num:
    """Forward pass of one token by Kaplan's closed form: ``2 N + 2 n_layer n_ctx d_attn``, the logits left out.

    Parameters
    ----------
    num_layers, hidden_size : Num
        Shape of a decoder whose MLP is four times as wide as it: N is ``12 n_layer d_model**2``. [-]
    context : Num
        Length of the sequence. [token]

    Returns
    -------
    Num
        What the convention ``causal`` counts, where the sequence is as long as the context. [FLOP]

    References
    ----------
    .. [1] J. Kaplan et al., "Scaling Laws for Neural Language Models", 2020, table 1. arXiv:2001.08361

    Examples
    --------
    >>> kaplan_forward_flops(12, 768, 1024)  # 24 * 12 * 768**2 + 2 * 12 * 1024 * 768
    188743680
    """
    return 24 * num_layers * hidden_size**2 + 2 * num_layers * context * hidden_size


def megatron_flops(batch_size: Num, sequence_length: Num, num_layers: Num, hidden_size: Num, vocab_size: Num) -> Num:
    """One iteration by Megatron's closed form: ``72 B L s h**2 (1 + s / 6h + V / 12hL)``.

    Parameters
    ----------
    batch_size : Num
        B. [sample]
    sequence_length : Num
        s. [token]
    num_layers, hidden_size, vocab_size : Num
        L, h and V of a GPT whose MLP is four times as wide as it. [-]

    Returns
    -------
    Num
        Forward and backward, nothing computed twice, scores not halved for a causal mask. [FLOP]

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, appendix A.
       arXiv:2205.05198

    Examples
    --------
    >>> megatron_flops(1, 2, 3, 4, 5)  # 72 * 2 * 3 * 16 + 12 * 4 * 3 * 4 + 6 * 2 * 4 * 5
    7728
    """
    weights = 72 * batch_size * num_layers * sequence_length * hidden_size**2
    scores = 12 * batch_size * num_layers * sequence_length**2 * hidden_size
    return weights + scores + 6 * batch_size * sequence_length * hidden_size * vocab_size


def megatron_recomputing_flops(
    batch_size: Num, sequence_length: Num, num_layers: Num, hidden_size: Num, vocab_size: Num
) -> Num:
    """One iteration by Megatron's older closed form, with every layer's forward pass computed twice.

    Parameters
    ----------
    batch_size, sequence_length, num_layers, hidden_size, vocab_size : Num
        As in `megatron_flops`.

    Returns
    -------
    Num
        ``96 B L s h**2 (1 + s / 6h + V / 16hL)``: a third more in the layers, nothing more for the logits. [FLOP]

    References
    ----------
    .. [1] D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
       2021, equation 3. arXiv:2104.04473

    Examples
    --------
    >>> megatron_recomputing_flops(1, 2, 3, 4, 5)  # 96 * 2 * 3 * 16 + 16 * 4 * 3 * 4 + 6 * 2 * 4 * 5
    10224
    """
    weights = 96 * batch_size * num_layers * sequence_length * hidden_size**2
    scores = 16 * batch_size * num_layers * sequence_length**2 * hidden_size
    return weights + scores + 6 * batch_size * sequence_length * hidden_size * vocab_size


def chinchilla_layer_flops(
    sequence_length: Num, hidden_size: Num, intermediate_size: Num, num_heads: Num, head_dim: Num
) -> Num:
    """Forward pass of one sequence through one layer by Chinchilla's count, which holds the softmax as well.

    Parameters
    ----------
    sequence_length : Num
        Length of the sequence. [token]
    hidden_size, intermediate_size, num_heads, head_dim : Num
        Shape of the layer. [-]

    Returns
    -------
    Num
        Projections, scores, 3 a score for the softmax, weighted values, output, MLP; nothing halved. [FLOP]

    References
    ----------
    .. [1] J. Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, appendix F. arXiv:2203.15556

    Examples
    --------
    >>> chinchilla_layer_flops(2, 4, 16, 1, 4)  # 6*2*4*4 + 2*4*4 + 3*4 + 2*4*4 + 2*2*4*4 + 4*2*4*16
    844
    """
    width = num_heads * head_dim
    projections = 8 * sequence_length * hidden_size * width
    scores_and_values = 4 * sequence_length**2 * width
    softmax = 3 * num_heads * sequence_length**2
    return projections + scores_and_values + softmax + 4 * sequence_length * hidden_size * intermediate_size


def chinchilla_table_flops(sequence_length: Num, hidden_size: Num, vocab_size: Num) -> Num:
    """Forward pass of one sequence through input table and output head by Chinchilla's count.

    Parameters
    ----------
    sequence_length : Num
        Length of the sequence. [token]
    hidden_size, vocab_size : Num
        Shape of the tables. [-]

    Returns
    -------
    Num
        Both as products of matrices, though the first is a lookup. [FLOP]

    References
    ----------
    .. [1] J. Hoffmann et al., "Training Compute-Optimal Large Language Models", 2022, appendix F. arXiv:2203.15556

    Examples
    --------
    >>> chinchilla_table_flops(2, 3, 5)  # twice 2 * 2 * 3 * 5
    120
    """
    return 4 * sequence_length * hidden_size * vocab_size
