"""How a class of transformers computes, where no shape says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.numeric import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How the class of transformers computes what a tree holds, where no shape says it: what autograd keeps follows.

    Attributes
    ----------
    activation : str
        Name of the MLP's nonlinearity as transformers knows it; empty where it is not known.
    norm : str
        How a norm without a bias is computed; ``rms``: in fp32, its result cast and multiplied by the gain;
        ``rms_wide``: multiplied by the gain in fp32, and then cast; ``rms_plus_one``: as that, but by one plus the
        gain; ``rms_cast_gain``: by the gain cast to fp32; ``rms_late``: only its mean square in fp32; ``rms_fused``: in
        torch's own kernel; ``layer``: a LayerNorm, whose gain is all that it has; ``layer_wide``: one of single
        operators in fp32; ``layer_plus_one``: LayerNorms, also those with a bias, whose gain is one plus the weight.
    residual : str
        Where the norms of a block stand; ``pre``: before each sublayer; ``post``: behind the sum of its output and its
        input; ``output``: behind its output; ``sandwich``: before it and behind its output; ``parallel``: before all
        sublayers, which read the same input. Empty: as the number of norms suggests.
    rotary : str
        Positions that turn queries and keys: ``none``; ``table``: by products with cosines and sines, which all layers
        share; ``by_window``: layers with a window have some of their own; ``by_block``: each layer makes its own of
        those; ``by_operand``: each layer makes some for its queries and some for its keys.
    rotary_share : float
        Share of a head that is turned. [-]
    rotary_width : Num, optional
        Elements of a head that are turned, where the config says so. [-]
    queries_by_head : bool
        Each head of the queries lies in one piece, as where what is turned was joined with the rest of a head.
    rotary_halved : bool
        Cosines and sines have one number for the two elements that an angle turns.
    rotary_by_sample : bool
        Each sample has cosines and sines of its own, as where images have positions in a plane.
    rotary_wide : bool
        Cosines and sines are fp32, whatever they are multiplied with.
    softmax : str
        Precision of attention's probabilities where no kernel fuses them: ``float32``, or that of the ``model``.
    sinks : bool
        Each head has one more score, which takes a share of the probabilities and is dropped.
    gate_clamped : bool
        Gate and up are clamped, and the gate is multiplied with a sigmoid of itself and with one plus up.
    scores_capped, logits_capped : bool
        A tanh bounds attention's scores, or the logits.
    loss : str
        ``float32``: over logits that are cast, with labels that are shifted; ``model``: as they are.
    router : str
        How experts are chosen; ``softmax``: of all their scores; ``softmax_top``: of the scores of the chosen ones;
        ``sigmoid``: of each, the chosen ones by sums over groups of them.
    router_wide : bool
        The router's product is in fp32.
    router_cast : bool
        The weights of the experts that a token visits are cast to the dtype of what they weigh.
    router_normed : bool
        The weights of the experts that a token visits are divided by their sum.
    router_groups, router_groups_chosen : int
        Groups of experts, and how many of them a token's experts come from; 0 where there are none. [-]
    positions : str
        What a table of positions is looked up by: numbers that are ``made`` once for all samples, or for each token of
        the ``batch``; or a ``buffer`` of the model, of which nothing is kept.
    blocks_take_masks : bool
        A block takes the mask, the encoder's output and the positions' bias by place and not by keyword, so that
        checkpointing keeps them beside the block's input.
    relative : bool
        A table of relative positions in the first block yields what every block adds to its scores.
    bare_norms : bool
        Norms have no parameters, and so are not in the tree: LayerNorms in fp32, before each sublayer and at the end.
    mlp_recast : bool
        An MLP casts to the dtype of its last weight before that weight, which autocast then undoes.
    """

    activation: str = ""
    norm: Literal[
        "rms",
        "rms_wide",
        "rms_plus_one",
        "rms_cast_gain",
        "rms_late",
        "rms_fused",
        "layer",
        "layer_wide",
        "layer_plus_one",
    ] = "rms"
    residual: Literal["", "pre", "post", "output", "sandwich", "parallel"] = ""
    rotary: Literal["none", "table", "by_window", "by_block", "by_operand"] = "table"
    rotary_share: float = 1.0
    rotary_width: Num | None = None
    queries_by_head: bool = False
    rotary_halved: bool = False
    rotary_by_sample: bool = False
    rotary_wide: bool = False
    softmax: Literal["float32", "model"] = "float32"
    sinks: bool = False
    gate_clamped: bool = False
    scores_capped: bool = False
    logits_capped: bool = False
    loss: Literal["float32", "model"] = "float32"
    router: Literal["softmax", "softmax_top", "sigmoid"] = "softmax"
    router_wide: bool = False
    router_cast: bool = False
    router_normed: bool = True
    router_groups: int = 0
    router_groups_chosen: int = 0
    positions: Literal["made", "batch", "buffer"] = "made"
    blocks_take_masks: bool = False
    relative: bool = False
    bare_norms: bool = False
    mlp_recast: bool = False
