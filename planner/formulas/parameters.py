"""Parameters of tensors."""

from __future__ import annotations

from planner.numeric import Num


def numel(shape: tuple[Num, ...]) -> Num:
    """Elements of a tensor.

    Parameters
    ----------
    shape : tuple of Num
        Its dimensions; an empty tuple is a scalar. [-]

    Returns
    -------
    Num
        Product of the dimensions. [-]

    Examples
    --------
    >>> numel((30522, 768))  # BERT-base's input table
    23440896
    """
    product: Num = 1
    for dimension in shape:
        product = product * dimension
    return product


def active_expert_parameters(routed_parameters: Num, num_experts: Num, top_k: Num) -> Num:
    """Parameters of routed experts that one token meets.

    Parameters
    ----------
    routed_parameters : Num
        Parameters of all routed experts of a layer. [-]
    num_experts, top_k : Num
        Experts of the layer, and how many of them a token visits. [-]

    Returns
    -------
    Num
        `top_k` experts' worth; exact, since experts are equal. [-]

    References
    ----------
    .. [1] N. Shazeer et al., "Outrageously Large Neural Networks", 2017. arXiv:1701.06538

    Examples
    --------
    >>> active_expert_parameters(8 * 3 * 4096 * 14336, 8, 2)  # a layer of Mixtral-8x7B
    352321536
    """
    return routed_parameters // num_experts * top_k
