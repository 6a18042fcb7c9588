"""Bytes of weights and of what training keeps beside them."""

from __future__ import annotations

from planner.numeric import Num, ceil_div


def packed_bytes(elements: Num, element_bits: Num) -> Num:
    """Elements stored back to back.

    Parameters
    ----------
    elements : Num
        Elements of one tensor. [-]
    element_bits : Num
        Bits of one element. [bit]

    Returns
    -------
    Num
        Whole bytes: a last byte that is half full counts. [B]

    Examples
    --------
    >>> packed_bytes(3, 4), packed_bytes(1024, 16)
    (2, 2048)
    """
    return ceil_div(elements * element_bits, 8)


def grouped_blocks(matrices: Num, out_features: Num, in_features: Num, block: Num) -> Num:
    """Blocks of a weight whose groups run along the input dimension.

    Parameters
    ----------
    matrices, out_features, in_features : Num
        Matrices in the tensor, and the shape of each. [-]
    block : Num
        Elements of a group; an incomplete group at the end of a row is one. [-]

    Returns
    -------
    Num
        Groups, each with its own scale. [-]

    Examples
    --------
    >>> grouped_blocks(1, 4096, 4096, 128)  # 4096 rows * 32 groups
    131072
    """
    return matrices * out_features * ceil_div(in_features, block)


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


def block_quantised_state_bytes(elements: Num, element_bits: Num, block: Num, scale_bits: Num) -> Num:
    """Optimizer state of one tensor in blocks, each with its own scale.

    Parameters
    ----------
    elements : Num
        Elements of the tensor. [-]
    element_bits, scale_bits : Num
        Bits of an element and of a block's scale. [bit]
    block : Num
        Elements of a block. [-]

    Returns
    -------
    Num
        Elements and scales. [B]

    References
    ----------
    .. [1] T. Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022. arXiv:2110.02861

    Examples
    --------
    >>> block_quantised_state_bytes(4096, 8, 256, 32)  # 4096 B + 16 * 4 B
    4160
    """
    return packed_bytes(elements, element_bits) + packed_bytes(ceil_div(elements, block), scale_bits)
