"""Shapes of the tensors that adapters add to a matrix, and what they keep for backward."""

from __future__ import annotations

from planner.numeric import Num, ceil_div, exact_quotient, maximum, minimum

Shape = tuple[Num, ...]


def low_rank_shapes(rank: Num, in_features: Num, out_features: Num) -> tuple[Shape, Shape]:
    """Two factors of an update of low rank: the one that reads the input, and the one that writes the output.

    Parameters
    ----------
    rank : Num
        Rank of the update. [-]
    in_features, out_features : Num
        Width of what the matrix reads and writes. [-]

    Returns
    -------
    tuple of tuple of Num
        Shapes of A and B; together ``rank * (in_features + out_features)`` elements. [-]

    References
    ----------
    .. [1] E. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1. arXiv:2106.09685

    Examples
    --------
    >>> low_rank_shapes(16, 4096, 1024)  # a value projection of Llama-3-8B
    ((16, 4096), (1024, 16))
    """
    return (rank, in_features), (out_features, rank)


def block_low_rank_shapes(rank: Num, in_features: Num, out_features: Num, blocks: Num) -> tuple[Shape, Shape]:
    """Factors of low rank for each block of rows and columns: as many elements as one pair of the same rank.

    Parameters
    ----------
    rank : Num
        Rank. [-]
    in_features, out_features : Num
        Width of what the matrix reads and writes, multiples of `blocks`. [-]
    blocks : Num
        Blocks a side. [-]

    Returns
    -------
    tuple of tuple of Num
        Shapes of the stacked factors. [-]

    References
    ----------
    .. [1] Y. Jung et al., "GraLoRA", 2025. arXiv:2505.20355

    Examples
    --------
    >>> block_low_rank_shapes(32, 3072, 1024, 2)
    ((2, 1536, 32), (2, 32, 512))
    """
    return (
        (blocks, exact_quotient(in_features, blocks), rank),
        (blocks, rank, exact_quotient(out_features, blocks)),
    )


def expert_low_rank_shapes(rank: Num, experts: Num, in_features: Num, out_features: Num) -> tuple[Shape, Shape]:
    """Factors for a stack of experts, one pair of the rank for each.

    Parameters
    ----------
    rank : Num
        Rank for each expert. [-]
    experts : Num
        Experts in the stack. [-]
    in_features, out_features : Num
        Width of what an expert's matrix reads and writes. [-]

    Returns
    -------
    tuple of tuple of Num
        Shapes of A and B. [-]

    References
    ----------
    .. [1] peft, tuners/lora/layer.py, ParamWrapper: one matrix of ``rank * experts`` rows, and one of as many columns

    Examples
    --------
    >>> expert_low_rank_shapes(8, 128, 2048, 1536)
    ((1024, 2048), (1536, 1024))
    """
    return low_rank_shapes(rank * experts, in_features, out_features)


def kronecker_shapes(rank: Num, first: tuple[Num, Num], second: tuple[Num, Num], *, whole: bool) -> tuple[Shape, ...]:
    """Factors of a Kronecker product: the first as a matrix, the second as a matrix or as two of low rank.

    Parameters
    ----------
    rank : Num
        Rank of the second factor. [-]
    first, second : tuple of Num
        Rows and columns of the two factors. [-]
    whole : bool
        Whether the second factor is kept as a matrix, where two would not be smaller.

    Returns
    -------
    tuple of tuple of Num
        Shapes. [-]

    References
    ----------
    .. [1] S.-Y. Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
       2024. arXiv:2309.14859

    Examples
    --------
    >>> kronecker_shapes(32, (4, 4), (256, 768), whole=False)
    ((4, 4), (256, 32), (32, 768))
    """
    return (first, second) if whole else (first, (second[0], rank), (rank, second[1]))


def random_basis_shapes(rank: Num, in_features: Num, out_features: Num) -> tuple[Shape, Shape]:
    """Weights of the fixed random bases that together have full rank.

    Parameters
    ----------
    rank : Num
        Rank of one basis. [-]
    in_features, out_features : Num
        Width of what the matrix reads and writes. [-]

    Returns
    -------
    tuple of tuple of Num
        Shapes of the two diagonal scalings of all bases. [-]

    References
    ----------
    .. [1] P. Albert et al., "RandLoRA", 2025. arXiv:2502.00987

    Examples
    --------
    >>> random_basis_shapes(32, 3072, 1024)
    ((32, 32), (32, 1024))
    """
    short = minimum(in_features, out_features)
    bases = ceil_div(short, rank)
    return (rank, bases), (bases, short)


def rotation_elements(size: Num) -> Num:
    """Numbers that a rotation of a space has, as a skew-symmetric matrix.

    Parameters
    ----------
    size : Num
        Dimensions of the space. [-]

    Returns
    -------
    Num
        Entries above the diagonal. [-]

    References
    ----------
    .. [1] Z. Qiu et al., "Orthogonal Finetuning Made Scalable", 2025: packed skew-symmetric blocks. arXiv:2506.19847

    Examples
    --------
    >>> rotation_elements(32)
    496
    """
    return size * (size - 1) // 2


def singular_shapes(rank: Num, in_features: Num, out_features: Num) -> tuple[Shape, Shape, Shape]:
    """Singular vectors and values of a matrix, as many as are trained.

    Parameters
    ----------
    rank : Num
        Directions that are trained, at most the shorter dimension. [-]
    in_features, out_features : Num
        Width of what the matrix reads and writes. [-]

    Returns
    -------
    tuple of tuple of Num
        Shapes of the left vectors, the values and the right vectors. [-]

    References
    ----------
    .. [1] N. Nayak et al., "Sculpting Subspaces", 2025. arXiv:2504.07097

    Examples
    --------
    >>> singular_shapes(128, 3072, 1024)
    ((1024, 128), (128,), (128, 3072))
    """
    trained = minimum(rank, minimum(in_features, out_features))
    return (out_features, trained), (trained,), (trained, in_features)


def tied_groups(modules: int, tying: float) -> int:
    """Groups of modules that share one trained vector.

    Parameters
    ----------
    modules : int
        Adapted modules. [-]
    tying : float
        0 for a vector each, 1 for one vector altogether. [-]

    Returns
    -------
    int
        Vectors. [-]

    References
    ----------
    .. [1] peft, tuners/tinylora/model.py: rounds to a whole number, and at least one

    Examples
    --------
    >>> tied_groups(56, 0.0), tied_groups(56, 1.0)
    (56, 1)
    """
    return max(1, round(modules * (1 - tying)))


def off_diagonal_elements(size: Num, share: float) -> Num:
    """Entries of a sparse square matrix beside its diagonal, at least one.

    Parameters
    ----------
    size : Num
        Rows and columns. [-]
    share : float
        Share of all entries of the matrix that are trained. [-]

    Returns
    -------
    Num
        Trained entries, rounded down; a whole number as a float. [-]

    References
    ----------
    .. [1] peft, tuners/frod/model.py: ``int(size**2 * share)``

    Examples
    --------
    >>> int(off_diagonal_elements(3072, 0.01))
    94371
    """
    entries = size * size * share // 1
    return maximum(minimum(entries, size * (size - 1)), 1)


def activation_bytes(tokens: Num, features: Num, element_bytes: Num) -> Num:
    """One activation that an adapter keeps: what a trained matrix reads, or a factor of a product.

    Parameters
    ----------
    tokens : Num
        Positions that pass through. [token]
    features : Num
        Width. [-]
    element_bytes : Num
        Bytes of an element. [B]

    Returns
    -------
    Num
        Size. [B]

    Examples
    --------
    >>> activation_bytes(4096, 16, 4)  # what B reads, in fp32, of a sequence of 4096
    262144
    """
    return tokens * features * element_bytes
