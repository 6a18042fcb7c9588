"""FLOPs by the closed formulas of papers, which see a model as a few numbers and not as its products."""

from __future__ import annotations

from planner.numeric import Num

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
