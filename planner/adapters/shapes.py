"""Tensors that a method adds to one module: which formula serves which method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from planner.adapters.adapter import Adapter
from planner.errors import UnsupportedError
from planner.formulas.adapters import (
    block_low_rank_shapes,
    kronecker_shapes,
    low_rank_shapes,
    off_diagonal_elements,
    random_basis_shapes,
    rotation_elements,
    singular_shapes,
)
from planner.numeric import Num, all_true, divides, exact_quotient, is_column, is_symbol, minimum


@dataclass(frozen=True, slots=True)
class Site:
    """A module that is adapted.

    Attributes
    ----------
    in_features, out_features : Num
        Width of what it reads and writes. [-]
    bias : bool
        Whether it has one.
    input_side : bool
        Whether it is changed on the side of its input, see `Adapter`.
    """

    in_features: Num
    out_features: Num
    bias: bool
    input_side: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor that is added.

    Attributes
    ----------
    name : str
        As peft calls it.
    shape : tuple of Num
        [-]
    trains : bool
        Whether it has a gradient.
    """

    name: str
    shape: tuple[Num, ...]
    trains: bool = True


Parts: TypeAlias = tuple[Part, ...]


def parts_of(adapter: Adapter, site: Site, rank: Num) -> Parts:
    """Tensors that a method adds to one module.

    Raises
    ------
    UnsupportedError
        The module's dimensions do not divide as the method needs, or its shapes depend on a rank that is a column.
    """
    return _PARTS[adapter.method](adapter, site, rank)


def factor_pair(dimension: int, factor: int) -> tuple[int, int]:
    """Two factors of a dimension, the smaller one first and at most `factor`; as equal as can be where that is -1.

    Examples
    --------
    >>> factor_pair(3072, 4), factor_pair(128, -1), factor_pair(127, -1)
    ((4, 768), (8, 16), (1, 127))
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    largest = dimension if factor == -1 else factor
    small = max(
        (divisor for divisor in range(1, int(dimension**0.5) + 1) if dimension % divisor == 0 and divisor <= largest),
        default=1,
    )
    return small, dimension // small


def _low_rank(adapter: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(rank, site.in_features, site.out_features)
    parts: Parts = (
        Part("lora_A.weight", first, trains=adapter.method != "lora-fa"),
        Part("lora_B.weight", second),
    )
    if adapter.method == "dora":
        return (*parts, Part("lora_magnitude_vector.weight", (site.out_features,)))
    return parts


def _block_diagonal(adapter: Adapter, site: Site, rank: Num) -> Parts:
    (rank, read), (written, _) = low_rank_shapes(rank, site.in_features, site.out_features)
    blocks = adapter.count("nblocks")
    if site.input_side:
        return Part("lora_A.weight", (rank, _divided(read, blocks))), Part("lora_B.weight", (written, rank))
    return Part("lora_A.weight", (rank, read)), Part("lora_B.weight", (written, _divided(rank, blocks)))


def _adalora(_: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(rank, site.in_features, site.out_features)
    return (
        Part("lora_A", first),
        Part("lora_B", second),
        Part("lora_E", (rank, 1)),
        Part("ranknum", (1,), trains=False),
    )


def _adamss(adapter: Adapter, site: Site, rank: Num) -> Parts:
    # Rows of the output fall into groups; every row is in one, and each group has a basis. That no group is smaller
    # than the basis depends on the weights, and holds for a basis of one vector.
    bases = adapter.count("num_subspaces") * adapter.count("subspace_rank")
    return (
        Part("adamss_A", (bases, rank)),
        Part("adamss_B", (site.out_features, adapter.count("subspace_rank"))),
    )


def _beft(_: Adapter, site: Site, __: Num) -> Parts:
    return (Part("beft_bias", (1, site.out_features)),)


def _boft(adapter: Adapter, site: Site, _: Num) -> Parts:
    block = adapter.count("boft_block_size")
    blocks = _divided(site.in_features, block)
    return (
        Part("boft_R", (adapter.count("boft_n_butterfly_factor"), blocks, block, block)),
        Part("boft_s", (site.out_features, 1)),
    )


def _c3a(adapter: Adapter, site: Site, _: Num) -> Parts:
    block = adapter.count("block_size")
    return (Part("c3a_kernel", (_divided(site.out_features, block), _divided(site.in_features, block), block)),)


def _deft(adapter: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(minimum(rank, site.out_features), site.in_features, site.out_features)
    return (Part("deft_P", second),) if adapter.option("para") else (Part("deft_P", second), Part("deft_R", first))


def _delora(_: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(rank, site.in_features, site.out_features)
    return Part("delora_A", first), Part("delora_B", second), Part("delora_lambda", (1,))


def _frequencies(name: str) -> Callable[[Adapter, Site, Num], Parts]:
    def parts(adapter: Adapter, _: Site, __: Num) -> Parts:
        return (Part(name, (adapter.count("n_frequency"),)),)

    return parts


def _frod(adapter: Adapter, site: Site, _: Num) -> Parts:
    entries = off_diagonal_elements(site.in_features, adapter.option("sparse_rate"))
    return (
        Part("frod_lambda_l", (site.in_features,)),
        Part("frod_lambda_s_values", (int(entries) if isinstance(entries, float) else entries,)),
    )


def _glora(_: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(rank, site.in_features, site.out_features)
    pairs = (
        Part("glora_A.Xd", second),
        Part("glora_A.Xu", first),
        Part("glora_B.Xd", second),
        Part("glora_B.Xu", first),
    )
    if not site.bias:
        return pairs
    of_bias = (Part("glora_C.Xd", (site.in_features, rank)), Part("glora_C.Xu", (rank, 1)))
    return (*pairs, *of_bias, Part("glora_D.X", (1,)), Part("glora_E.X", (1,)))


def _gralora(adapter: Adapter, site: Site, rank: Num) -> Parts:
    blocks = adapter.count("gralora_k")
    for dimension in (site.in_features, site.out_features):
        _divided(dimension, blocks)
    first, second = block_low_rank_shapes(rank, site.in_features, site.out_features, blocks)
    parts: Parts = (Part("gralora_A", first), Part("gralora_B", second))
    if not adapter.option("hybrid_r"):
        return parts
    first, second = low_rank_shapes(adapter.count("hybrid_r"), site.in_features, site.out_features)
    return (*parts, Part("gralora_A_general.weight", first), Part("gralora_B_general.weight", second))


def _hira(_: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(rank, site.in_features, site.out_features)
    return Part("hira_A", first), Part("hira_B", second)


def _hra(_: Adapter, site: Site, rank: Num) -> Parts:
    return (Part("hra_u", (site.in_features, rank)),)


def _ia3(_: Adapter, site: Site, __: Num) -> Parts:
    return (Part("ia3_l", (1, site.in_features) if site.input_side else (site.out_features, 1)),)


def _lily(adapter: Adapter, _: Site, rank: Num) -> Parts:
    # its two factors are shared by modules, see `planner.adapters.shared`
    return (Part("lily_router.weight", (adapter.count("num_B"), rank)),)


def _loha(_: Adapter, site: Site, rank: Num) -> Parts:
    first, second = low_rank_shapes(rank, site.in_features, site.out_features)
    return (
        Part("hada_w1_a", second),
        Part("hada_w1_b", first),
        Part("hada_w2_a", second),
        Part("hada_w2_b", first),
    )


def _lokr(adapter: Adapter, site: Site, rank: Num) -> Parts:
    if is_column(rank) or any(is_column(size) or is_symbol(size) for size in (site.in_features, site.out_features)):
        raise UnsupportedError(
            "the factors of 'lokr' depend on each dimension and rank", key="rank", hint="one at a time"
        )
    factor = adapter.count("decompose_factor")
    columns = factor_pair(int(site.in_features), factor)
    rows = factor_pair(int(site.out_features), factor)
    # Two matrices of low rank are not smaller than one from half of its longer side on.
    whole = not all_true(2 * rank < max(rows[1], columns[1]))
    shapes = kronecker_shapes(rank, (rows[0], columns[0]), (rows[1], columns[1]), whole=whole)
    names = ("lokr_w1", "lokr_w2") if whole else ("lokr_w1", "lokr_w2_a", "lokr_w2_b")
    return tuple(Part(name, shape) for name, shape in zip(names, shapes, strict=True))


def _miss(_: Adapter, site: Site, rank: Num) -> Parts:
    return (Part("miss_block", (rank, site.out_features)),)


def _oft(adapter: Adapter, site: Site, _: Num) -> Parts:
    block = adapter.count("oft_block_size")
    return (Part("oft_R.weight", (_divided(site.in_features, block), rotation_elements(block))),)


def _osf(_: Adapter, site: Site, rank: Num) -> Parts:
    left, values, right = singular_shapes(rank, site.in_features, site.out_features)
    return (
        Part("osf_svd_params.U_low", left),
        Part("osf_svd_params.S_low", values),
        Part("osf_svd_params.V_low", right),
    )


def _peanut(adapter: Adapter, site: Site, rank: Num) -> Parts:
    inner = tuple(
        Part(f"peanut_{side}.{layer}.weight", (rank, rank))
        for side in ("encoders", "decoders")
        for layer in range(adapter.count("depth"))
    )
    return (
        Part("peanut_A.weight", (rank, site.out_features)),
        *inner,
        Part("peanut_B.weight", (site.out_features, rank)),
    )


def _psoft(_: Adapter, __: Site, rank: Num) -> Parts:
    return (
        Part("psoft_R.weight", (rotation_elements(rank),)),
        Part("psoft_R.vector_b", (rank,)),
        Part("psoft_R.vector_a", (rank,)),
    )


def _pvera(_: Adapter, site: Site, rank: Num) -> Parts:
    return Part("pvera_lambda_b", (site.out_features,)), Part("pvera_lambda_d", (2 * rank,))


def _randlora(_: Adapter, site: Site, rank: Num) -> Parts:
    scales, gains = random_basis_shapes(rank, site.in_features, site.out_features)
    return Part("randlora_lambda", scales), Part("randlora_gamma", gains)


def _road(adapter: Adapter, site: Site, _: Num) -> Parts:
    size = exact_quotient(site.out_features * adapter.count("variant"), 2)
    return Part("road_theta", (size,)), Part("road_alpha", (size,))


def _shira(_: Adapter, site: Site, rank: Num) -> Parts:
    return (Part("shira_weight", (rank * (site.in_features + site.out_features),)),)


def _nothing(_: Adapter, __: Site, ___: Num) -> Parts:
    return ()


def _vblora(adapter: Adapter, site: Site, rank: Num) -> Parts:
    vectors, length = adapter.count("num_vectors"), adapter.count("vector_length")
    return (
        Part("vblora_logits_A", (rank, _divided(site.in_features, length), vectors)),
        Part("vblora_logits_B", (_divided(site.out_features, length), rank, vectors)),
    )


def _vera(_: Adapter, site: Site, rank: Num) -> Parts:
    return Part("vera_lambda_b", (site.out_features,)), Part("vera_lambda_d", (rank,))


_PARTS: Mapping[str, Callable[[Adapter, Site, Num], Parts]] = {
    **dict.fromkeys(("lora", "rslora", "qlora", "dora", "lora-fa"), _low_rank),
    "bdlora": _block_diagonal,
    "adalora": _adalora,
    "adamss": _adamss,
    "beft": _beft,
    "boft": _boft,
    "c3a": _c3a,
    "deft": _deft,
    "delora": _delora,
    "fourierft": _frequencies("fourierft_spectrum"),
    "frod": _frod,
    "glora": _glora,
    "gralora": _gralora,
    "hira": _hira,
    "hra": _hra,
    "ia3": _ia3,
    "lily": _lily,
    "loha": _loha,
    "lokr": _lokr,
    "miss": _miss,
    "oft": _oft,
    "osf": _osf,
    "peanut": _peanut,
    "psoft": _psoft,
    "pvera": _pvera,
    "randlora": _randlora,
    "road": _road,
    "shira": _shira,
    "tinylora": _nothing,
    "unilora": _nothing,
    "vblora": _vblora,
    "vera": _vera,
    "waveft": _frequencies("waveft_spectrum"),
}
"""By method; what modules share is in `planner.adapters.shared`. Shapes are those of peft 0.21, tuners/*/layer.py."""


def _divided(dimension: Num, parts: Num) -> Num:
    if not divides(parts, dimension):
        raise UnsupportedError(f"a dimension of {dimension} is no multiple of {parts}", key="options")
    return exact_quotient(dimension, parts)
