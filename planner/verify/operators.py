"""Operators of a trace that hold no matrix product, by name: all others must have a handle or are refused.

A list of what is known to be harmless, and not of what is known to multiply: the names of products cannot be listed
to the end (`bilinear`, `lstm`, `cdist`, `ger`, every custom kernel), and one that is missing would be counted as zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from planner.errors import UnsupportedError


def _words(text: str) -> list[str]:
    return text.split()


_ELEMENTWISE = _words("""
abs add addcdiv addcmul bitwise_and bitwise_not bitwise_or bitwise_xor ceil clamp clamp_max clamp_min clip copysign cos
cosh deg2rad div divide eq erf erfc erfinv exp exp2 expm1 floor floor_divide fmod frac ge greater greater_equal gt
isfinite isin isinf isnan le lerp less less_equal log log10 log1p log2 logical_and logical_not logical_or logical_xor
lt masked_fill maximum minimum mul multiply nan_to_num ne neg negative not_equal polar pow reciprocal remainder round
rsqrt rsub sgn sign signbit sin sinh sqrt square sub subtract tan tanh true_divide trunc where xlogy
""")

_ACTIVATIONS = _words("""
celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_softmax mish prelu relu relu6 rrelu selu
sigmoid silu softmax softplus softshrink softsign tanhshrink threshold
""")

_NORMS = _words("""
batch_norm group_norm instance_norm layer_norm native_layer_norm rms_norm _fused_rms_norm normalize
""")

_REDUCTIONS = _words("""
all amax amin any argmax argmin bincount count_nonzero cummax cummin cumsum histc linalg_vector_norm logsumexp max mean
median min mode norm nonzero nonzero_numpy numel std sum topk unique unique_consecutive unique_dim _unique2 var var_mean
""")

_SHAPES = _words("""
alias as_strided broadcast_tensors broadcast_to cat chunk concat contiguous diagonal dim dsplit expand expand_as flatten
flip hsplit hstack is_contiguous meshgrid moveaxis movedim narrow numpy_T permute repeat repeat_interleave reshape
reshape_as resolve_conj resolve_neg roll select slice split split_with_sizes squeeze stack swapaxes swapdims t
tensor_split tile transpose unbind unflatten unfold unsqueeze view view_as view_as_complex view_as_real vsplit vstack
pad constant_pad_nd pixel_shuffle pixel_unshuffle size stride
""")

_INDEXING = _words("""
argsort bucketize embedding embedding_bag gather index index_add index_copy index_fill index_put index_select
masked_scatter masked_select one_hot scatter scatter_add scatter_reduce searchsorted sort take take_along_dim tril triu
""")

_RESAMPLING = _words("""
_upsample_bicubic2d_aa _upsample_bilinear2d_aa adaptive_avg_pool1d adaptive_avg_pool2d avg_pool1d avg_pool2d avg_pool3d
col2im im2col max_pool1d max_pool2d max_pool3d upsample_bicubic2d upsample_bilinear2d upsample_linear1d
upsample_nearest1d upsample_nearest2d
""")

_CREATION = _words("""
arange bernoulli clone copy empty empty_like eye fill full full_like lift_fresh linspace new_empty new_full new_ones
new_tensor new_zeros ones ones_like rand rand_like randint randn randn_like randperm scalar_tensor tensor zero zeros
zeros_like
""")

_BOOKKEEPING = _words("""
Bool Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __derive_index __getitem__ __iand__
__ilshift__ __invert__ __ior__ __irshift__ __is__ __isnot__ __ixor__ __len__ __lshift__ __not__ __or__ __range_length
__rshift__ __xor__ _assert_async _assert_scalar _cast_Float _shape_as_tensor alpha_dropout cpu cuda detach device
diff dropout feature_dropout format item len requires_grad result_type to type_as warn
""")

ZERO = frozenset(
    name
    for group in (
        _ELEMENTWISE,
        _ACTIVATIONS,
        _NORMS,
        _REDUCTIONS,
        _SHAPES,
        _INDEXING,
        _RESAMPLING,
        _CREATION,
        _BOOKKEEPING,
    )
    for name in group
)
"""Names inside the ``aten`` namespace, without the underscore of the in-place form."""

PYTHON = frozenset({"prim::PythonOp.GeLUFunction", "prim::PythonOp.SqrtBoundDerivative"})
"""Functions that a model of transformers writes in Python, by their class: BLOOM's activation, Griffin's root."""

HIDING = ("prim::If", "prim::Loop", "prim::CallMethod", "prim::fork", "prim::DifferentiableGraph")
"""Nodes with a graph inside, whose operators the walk over a trace does not see."""


def is_zero(kind: str) -> bool:
    """Whether an operator of a trace is known to hold no matrix product.

    Examples
    --------
    >>> is_zero("aten::softmax"), is_zero("aten::add_"), is_zero("aten::bilinear"), is_zero("mine::softmax")
    (True, True, False, False)
    """
    if kind in PYTHON:
        return True
    namespace, _, name = kind.partition("::")
    return namespace == "aten" and (name in ZERO or name.removesuffix("_") in ZERO)


def refuse_unknown(kinds: Iterable[str], paths: Mapping[str, str] | None = None) -> None:
    """Refuse a trace with an operator that has no handle and is not known to hold no product.

    Parameters
    ----------
    kinds : iterable of str
        Operators without a handle, such as ``aten::softmax``.
    paths : mapping of str to str, optional
        A module in which each was seen.

    Raises
    ------
    UnsupportedError
        Names the operators and where they were seen.
    """
    unknown = sorted({kind for kind in kinds if not is_zero(kind)})
    if unknown:
        places = paths or {}
        shown = ", ".join(f"{kind} in '{places[kind]}'" if kind in places else kind for kind in unknown)
        raise UnsupportedError(
            f"the traced model runs operators that could hold a matrix product and have no count: {shown}",
            hint="a handle in planner/verify/handles.py or a line in planner/verify/operators.py would settle it",
        )
