"""Bytes of weights and of what training keeps beside them."""

from __future__ import annotations

from collections.abc import Sequence

from planner.formulas.parameters import numel
from planner.numeric import Num, ceil_div, maximum, minimum, where


def packed_bytes(elements: Num, code_bits: Num, code_elements: Num = 1) -> Num:
    """Elements stored back to back.

    Parameters
    ----------
    elements : Num
        Elements of one tensor. [-]
    code_bits : Num
        Bits of `code_elements` elements. [bit]
    code_elements : Num
        Elements that share them: 1, or those of a block whose codes do not fall on whole bits. [-]

    Returns
    -------
    Num
        Whole bytes: a last byte that is half full counts. [B]

    Examples
    --------
    >>> packed_bytes(3, 4), packed_bytes(1024, 16)
    (2, 2048)
    >>> packed_bytes(1024, 480, 256)  # 1.875 bits each
    240
    """
    return ceil_div(elements * code_bits, 8 * code_elements)


def grouped_blocks(matrices: Num, out_features: Num, in_features: Num, block: Num, block_rows: Num = 1) -> Num:
    """Blocks of a weight that is divided along its dimensions.

    Parameters
    ----------
    matrices, out_features, in_features : Num
        Matrices in the tensor, and the shape of each. [-]
    block : Num
        Input features of a block; an incomplete block at the end of a row is one. [-]
    block_rows : Num
        Output features of a block, 1 for groups within a row. [-]

    Returns
    -------
    Num
        Blocks, each with its own scale. [-]

    Examples
    --------
    >>> grouped_blocks(1, 4096, 4096, 128)  # 4096 rows * 32 groups
    131072
    >>> grouped_blocks(1, 576, 7168, 128, 128)  # 5 * 56 squares of 128
    280
    """
    return matrices * ceil_div(out_features, block_rows) * ceil_div(in_features, block)


def nested_scale_bytes(blocks: Num, scale_bits: Num, nested_block: Num, nested_scale_bits: Num) -> Num:
    """Scales that are themselves quantised in blocks.

    Parameters
    ----------
    blocks : Num
        Scales of one tensor. [-]
    scale_bits, nested_scale_bits : Num
        Bits of a scale, and of the scale that `nested_block` scales share. [bit]
    nested_block : Num
        Scales that share one. [-]

    Returns
    -------
    Num
        Both levels. [B]

    References
    ----------
    .. [1] T. Dettmers et al., "QLoRA", 2023, section 3. arXiv:2305.14314

    Examples
    --------
    >>> nested_scale_bytes(256 * 64, 8, 256, 32)  # 16384 * 1 B + 64 * 4 B
    16640
    """
    return packed_bytes(blocks, scale_bits) + packed_bytes(ceil_div(blocks, nested_block), nested_scale_bits)


def block_quantised_state_bytes(
    elements: Num, element_bits: Num, block: Num, scale_bits: Num, table_bits: Num = 0
) -> Num:
    """Optimizer state of one tensor in blocks, each with its own scale.

    Parameters
    ----------
    elements : Num
        Elements of the tensor. [-]
    element_bits, scale_bits, table_bits : Num
        Bits of an element, of a block's scale, and of a code book kept with the tensor. [bit]
    block : Num
        Elements of a block. [-]

    Returns
    -------
    Num
        Elements, scales and code book. [B]

    References
    ----------
    .. [1] T. Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022. arXiv:2110.02861

    Examples
    --------
    >>> block_quantised_state_bytes(4096, 8, 256, 32)  # 4096 B + 16 * 4 B
    4160
    """
    codes = packed_bytes(elements, element_bits)
    return codes + packed_bytes(ceil_div(elements, block), scale_bits) + packed_bytes(table_bits, 1)


def layers_with_more_bits_below(layer: Num, layers: Num) -> Num:
    """Layers to which llama.cpp's mixtures of size M give more bits, among the first ones.

    They are the first eighth, the last eighth, and every third layer between.

    Parameters
    ----------
    layer : Num
        Layers that are looked at, counted from the first. [-]
    layers : Num
        Layers of the model. [-]

    Returns
    -------
    Num
        Layers with more bits. [-]

    References
    ----------
    .. [1] llama.cpp, src/llama-quant.cpp, use_more_bits

    Examples
    --------
    >>> layers_with_more_bits_below(32, 32)  # 0 to 3, then 6, 9, ..., 27, then 28 to 31
    16
    """
    first, last = layers // 8, 7 * layers // 8
    between = layers_between_below(layer, first, last)
    return minimum(layer, first) + between // 3 + maximum(layer - last, 0)


def layers_between_below(layer: Num, first: Num, last: Num) -> Num:
    """Layers from `first` up to `last`, which is not one of them, among the first ones.

    Parameters
    ----------
    layer : Num
        Layers that are looked at, counted from the first. [-]
    first, last : Num
        Where the layers begin and end. [-]

    Returns
    -------
    Num
        How many of them are looked at. [-]

    Examples
    --------
    >>> layers_between_below(10, 4, 28), layers_between_below(2, 4, 28)
    (6, 0)
    """
    return maximum(minimum(layer, last) - first, 0)


def block_squares(dim: Num, block: Num) -> Num:
    """Elements of a square matrix for each block of a dimension.

    Parameters
    ----------
    dim : Num
        Dimension of a tensor. [-]
    block : Num
        Largest block that it is cut into; what is left is a smaller one. [-]

    Returns
    -------
    Num
        Sum of the squares of the blocks. [-]

    Examples
    --------
    >>> block_squares(2500, 1024)  # 2 * 1024**2 + 452**2
    2301456
    """
    return dim // block * block**2 + (dim % block) ** 2


def preconditioner_elements(shape: Sequence[Num], block: Num) -> Num:
    """Matrices of Shampoo for a tensor that is cut into blocks: one for each dimension of each block.

    Parameters
    ----------
    shape : sequence of Num
        Dimensions of the tensor. [-]
    block : Num
        Largest dimension of a block; a tensor that is not larger altogether is one vector. [-]

    Returns
    -------
    Num
        Elements of the factor matrices; their inverse roots are as many. [-]

    References
    ----------
    .. [1] H.-J. M. Shi et al., "A Distributed Data-Parallel PyTorch Implementation of the Distributed Shampoo
       Optimizer", 2023. arXiv:2309.06497

    Examples
    --------
    >>> preconditioner_elements((4096, 2048), 1024) == 2 * 4096 * 2048  # a left and a right one for each square
    True
    """
    total: Num = 0
    for axis, dim in enumerate(shape):
        blocks: Num = 1
        for other in (*shape[:axis], *shape[axis + 1 :]):
            blocks = blocks * ceil_div(other, block)
        total = total + blocks * block_squares(dim, block)
    elements = numel(tuple(shape))
    return where(elements <= block, elements * elements, total)


def dimension_squares(shape: Sequence[Num], largest: Num) -> Num:
    """Matrices of SOAP for a tensor: a square one for each dimension that is not too large.

    Parameters
    ----------
    shape : sequence of Num
        Dimensions of the tensor. [-]
    largest : Num
        Largest dimension that has one. [-]

    Returns
    -------
    Num
        Elements of the matrices; their eigenvectors are as many. [-]

    References
    ----------
    .. [1] N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024. arXiv:2409.11321

    Examples
    --------
    >>> dimension_squares((4096, 14336), 10000)  # the second dimension is left alone
    16777216
    """
    total: Num = 0
    for dim in shape:
        total = total + where(dim <= largest, dim * dim, 0)
    return total


def projected_elements(rows: Num, columns: Num, rank: Num) -> tuple[Num, Num]:
    """Gradient of a matrix in the subspace of a low rank, and the projection that leads there.

    Parameters
    ----------
    rows, columns : Num
        Shape of the matrix. [-]
    rank : Num
        Rank of the projection, at most the shorter dimension. [-]

    Returns
    -------
    tuple of Num
        Elements of the projected gradient, and of the projection. [-]

    References
    ----------
    .. [1] J. Zhao et al., "GaLore", 2024, table 1: two states of n r and a projection of m r, m <= n. arXiv:2403.03507

    Examples
    --------
    >>> projected_elements(4096, 11008, 128)  # 11008 * 128, 4096 * 128
    (1409024, 524288)
    """
    short, long = minimum(rows, columns), maximum(rows, columns)
    kept = minimum(rank, short)
    return kept * long, kept * short
