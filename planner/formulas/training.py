"""Pipelines and phases of a training step: how many micro-batches lie on a stage, and what peaks when."""

from __future__ import annotations

from planner.numeric import Num, ceil_div, maximum, minimum, next_power_of_two


def in_flight_micro_batches(stage: Num, stages: Num, micro_batches: Num) -> Num:
    """Micro-batches whose activations a stage of a 1F1B pipeline holds at its fullest.

    Parameters
    ----------
    stage, stages : Num
        Position of the stage, from 0, and how many there are. [-]
    micro_batches : Num
        Micro-batches of one step. [-]

    Returns
    -------
    Num
        The first stage holds as many as there are stages, the last one 1. [-]

    References
    ----------
    .. [1] D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", 2021,
       section 2.2. arXiv:2104.04473

    Examples
    --------
    >>> in_flight_micro_batches(0, 4, 16), in_flight_micro_batches(3, 4, 16), in_flight_micro_batches(0, 4, 2)
    (4, 1, 2)
    """
    return minimum(stages - stage, micro_batches)


def in_flight_chunks(stage: Num, stages: Num, chunks: Num, micro_batches: Num) -> Num:
    """Model chunks whose activations a stage of an interleaved pipeline holds at its fullest.

    Parameters
    ----------
    stage, stages : Num
        Position of the stage, from 0, and how many there are. [-]
    chunks : Num
        Model chunks on each stage. [-]
    micro_batches : Num
        Micro-batches of one step. [-]

    Returns
    -------
    Num
        Forward passes of one chunk before the first backward one: the warm-up of the schedule, and the one that
        follows it. [-]

    References
    ----------
    .. [1] Megatron-LM, megatron/core/pipeline_parallel/schedules.py, get_pp_rank_microbatches

    Examples
    --------
    >>> in_flight_chunks(0, 4, 2, 16)  # 2 * 3 + 1 * 4 + 1: 1 + (p - 1) / (p v) of p micro-batches' layers
    11
    """
    warm_up = 2 * (stages - stage - 1) + (chunks - 1) * stages
    return minimum(warm_up + 1, chunks * micro_batches)


def in_flight_of_chunk(passes: Num, chunk: Num, chunks: Num, stages: Num) -> Num:
    """Micro-batches of one model chunk among the first forward passes of an interleaved pipeline.

    Parameters
    ----------
    passes : Num
        Forward passes of one chunk that a stage has made, as `in_flight_chunks` counts them. [-]
    chunk, chunks : Num
        Position of the chunk on the stage, from 0, and how many there are. [-]
    stages : Num
        Stages of the pipeline: so many micro-batches pass a chunk before the next chunk's turn. [-]

    Returns
    -------
    Num
        Passes of that chunk. [-]

    References
    ----------
    .. [1] Megatron-LM, megatron/core/pipeline_parallel/schedules.py, get_schedule_table

    Examples
    --------
    >>> [in_flight_of_chunk(9, chunk, 3, 4) for chunk in range(3)]  # 4 of the first, 4 of the second, 1 of the third
    [4, 4, 1]
    """
    turns = passes // (chunks * stages)
    rest = passes - turns * chunks * stages
    return turns * stages + minimum(maximum(rest - chunk * stages, 0), stages)


def chunk_tokens(tokens: Num, chunks: Num) -> Num:
    """Positions of the longest of several chunks.

    Examples
    --------
    >>> chunk_tokens(1030, 8)
    129
    """
    return ceil_div(tokens, chunks)


def linear_chunk_tokens(tokens: Num, vocabulary: Num, hidden: Num) -> Num:
    """Positions of a chunk of a fused linear cross entropy, so that its logits are about as large as all hidden states.

    Parameters
    ----------
    tokens : Num
        Positions. [token]
    vocabulary, hidden : Num
        Shape of the head. [-]

    Returns
    -------
    Num
        Power of two at or above an even share of so many chunks as the vocabulary is wider, at most all. [token]

    References
    ----------
    .. [1] Liger-Kernel, liger_kernel/ops/fused_linear_cross_entropy.py

    Examples
    --------
    >>> linear_chunk_tokens(16384, 128256, 4096)  # 32 chunks
    512
    >>> linear_chunk_tokens(1000, 32000, 4096)  # 8 chunks, 125 rounded up
    128
    """
    return minimum(tokens, next_power_of_two(ceil_div(tokens, ceil_div(vocabulary, hidden))))
