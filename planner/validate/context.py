"""In which kind of case a recipe was measured: an interval says nothing about another kind."""

from __future__ import annotations

from planner.nodes import Attention, Experts, Node, Scan, walk
from planner.training.job import TrainingJob


def training_context(tree: Node, job: TrainingJob) -> str:
    """Kind of a training job: what is recomputed, and of which architecture.

    Examples
    --------
    >>> from planner.nodes import Module
    >>> from planner.training.setup import training_job
    >>> from planner.workload import Step
    >>> core = Attention(num_heads=2, qk_head_dim=4, v_head_dim=4, causal=True)
    >>> training_context(Module(children={"": core}), training_job(Step(), "huggingface", recompute="full"))
    'decoder, full'
    """
    return f"{architecture(tree)}, {job.recompute.kind}"


def architecture(tree: Node) -> str:
    """``encoder-decoder``, ``recurrent``, ``experts``, ``decoder`` or ``encoder``: the first that a tree is."""
    rows = list(walk(tree))
    cores = [row.leaf for row in rows if isinstance(row.leaf, Attention)]
    if any(row.stream.kind == "source" for row in rows):
        return "encoder-decoder"
    if any(isinstance(row.leaf, Scan) for row in rows):
        return "recurrent"
    if any(isinstance(row.leaf, Experts) for row in rows):
        return "experts"
    return "decoder" if any(core.causal for core in cores) else "encoder"
