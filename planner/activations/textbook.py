"""What autograd keeps by the published count: 16-bit tensors of a block with dropout and unfused attention.

Small tensors, such as statistics of norms, are left out, as the paper leaves them out; so a block of width h with an
MLP four times as wide keeps sbh (34 + 5 a s / h) bytes, divided as tensor and sequence parallelism divide it.
"""

from __future__ import annotations

from planner.activations.megatron import Engine, megatron_saved
from planner.activations.saved import SavedTensor
from planner.nodes import Node
from planner.workload import Step

ENGINE = Engine(attention="eager", hidden_dropout=0.1, attention_dropout=0.1, statistics=False)
"""The block of the paper: masks of a byte, probabilities before and behind their dropout."""


def textbook_saved(tree: Node, step: Step) -> tuple[SavedTensor, ...]:
    """Everything that is kept of one micro-batch.

    References
    ----------
    .. [1] V. Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, section 4.
       arXiv:2205.05198
    """
    return megatron_saved(tree, step, ENGINE)
