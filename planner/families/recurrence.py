"""Mixers whose memory is a state of fixed size: what the families of Mamba and of linear attention share.

A mixer is projections, a short causal convolution, and a recurrence. The recurrence is a `Scan`, apart from the matrix
products: `planner.formulas.flops` says what each kind costs for a token and a number of its state, and where from.
Transformers applies the convolution and some projections as functions inside the mixer's own `forward`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from planner.families.blocks import linear, rms_norm
from planner.families.config import Dimension, Names
from planner.formulas.flops import SELECTIVE_SCAN_FLOPS, SSD_FLOPS
from planner.nodes import Convolution, Module, Node, Norm, Parameter, Scan
from planner.numeric import Num, ceil_div

LINEAR = "linear_attention"
"""Kind of a layer with a recurrence, whatever recurrence it is; `transformers` calls them all so."""

LEGACY_KINDS = {"mamba": LINEAR, "attention": "full_attention"}
"""Kinds of layers in configs from before that convention."""

Kinds = Annotated[Names, AfterValidator(lambda kinds: [LEGACY_KINDS.get(kind, kind) for kind in kinds])]
"""List with the kind of each layer, by today's names."""


def _automatic(value: object) -> object:
    return None if value == "auto" else value


Rank = Annotated[Dimension | None, BeforeValidator(_automatic)]
"""Width of the step's latent; ``auto`` and null stand for a sixteenth of the model's width."""


def step_rank(rank: Num | None, hidden_size: Num) -> Num:
    """Width of the step's latent."""
    return ceil_div(hidden_size, 16) if rank is None else rank


def causal_convolution(channels: Num, kernel_size: Num, bias: bool) -> Convolution:
    """Each channel on its own, over the last few tokens; transformers keeps as many as the kernel spans."""
    return Convolution(
        in_channels=channels,
        out_channels=channels,
        kernel_size=(kernel_size,),
        groups=channels,
        bias=bias,
        caches=True,
        kept_by_class=kernel_size,
    )


def mamba_mixer(
    *,
    hidden_size: Num,
    inner_size: Num,
    state_size: Num,
    rank: Num,
    kernel_size: Num,
    bias: bool,
    conv_bias: bool,
    norms: Mapping[str, Norm] | None = None,
) -> Module:
    """Mamba: a selective scan, whose step, input and output matrices are made of its own input.

    Parameters
    ----------
    hidden_size, inner_size : Num
        Width of the model, channels of the scan. [-]
    state_size : Num
        Numbers in the state of a channel. [-]
    rank : Num
        Width of the step's latent. [-]
    kernel_size : Num
        Tokens under the convolution. [token]
    bias, conv_bias : bool
        Whether the outer projections and the convolution have a bias.
    norms : mapping of str to Norm, optional
        Further norms, by name.
    """
    children: dict[str, Node] = {
        "A_log": Parameter(shape=(inner_size, state_size)),
        "D": Parameter(shape=(inner_size,)),
        "conv1d": causal_convolution(inner_size, kernel_size, conv_bias),
        "in_proj": linear(hidden_size, 2 * inner_size, bias),
        "x_proj": linear(inner_size, rank + 2 * state_size),
        "dt_proj": linear(rank, inner_size, bias=True),
        "out_proj": linear(inner_size, hidden_size, bias),
        **(norms or {}),
        "": Scan(state_elements=inner_size * state_size, flops_per_element=SELECTIVE_SCAN_FLOPS),
    }
    return Module(children=children, bucket="ssm")


def mamba2_mixer(
    *,
    hidden_size: Num,
    num_heads: Num,
    head_dim: Num,
    num_groups: Num,
    state_size: Num,
    kernel_size: Num,
    bias: bool,
    conv_bias: bool,
) -> Module:
    """Mamba-2: a state for every head, input and output matrices for groups of them, all from one projection.

    Parameters
    ----------
    hidden_size : Num
        Width of the model. [-]
    num_heads, head_dim : Num
        Heads, channels of a head. [-]
    num_groups : Num
        Groups of heads that share input and output matrices. [-]
    state_size : Num
        Numbers in the state of a channel. [-]
    kernel_size : Num
        Tokens under the convolution. [token]
    bias, conv_bias : bool
        Whether the projections and the convolution have a bias.
    """
    inner_size = num_heads * head_dim
    conv_size = inner_size + 2 * num_groups * state_size
    children: dict[str, Node] = {
        "dt_bias": Parameter(shape=(num_heads,)),
        "A_log": Parameter(shape=(num_heads,)),
        "D": Parameter(shape=(num_heads,)),
        "conv1d": causal_convolution(conv_size, kernel_size, conv_bias),
        "in_proj": linear(hidden_size, inner_size + conv_size + num_heads, bias),
        "norm": rms_norm(inner_size),
        "out_proj": linear(inner_size, hidden_size, bias),
        "": Scan(state_elements=inner_size * state_size, flops_per_element=SSD_FLOPS),
    }
    return Module(children=children, bucket="ssm")
