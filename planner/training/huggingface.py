"""What the classes of transformers keep when a trainer runs them: whole, with frozen weights, or beside adapters.

One pass over a clocked tape yields both what autograd keeps and what is alive while a block runs backward. A recipe or
the options of a job say:

``norms``
    ``class``: as the class of the model computes them; ``fused``: one kernel (Liger, Unsloth), which keeps its input
    and one number a vector.
``adapters``
    ``peft``: peft's own layers; ``fused``: kernels that read an adapter's input from the matrix beside it and compute
    what has the width of the rank again.
``autocast``
    ``yes`` where products run under autocast though the weights are in 16 bits.
``experts``
    ``eager`` where they run one after the other in a loop; else a grouped product runs them all.
``residual``
    ``fp32`` where embeddings and norms were cast to fp32 (peft's prepare_model_for_kbit_training), so that all that
    blocks hand on is.
``dropout``
    ``config``: with the probabilities that the model's config states, which are the options `hidden_dropout` and
    `attention_dropout` of a job.
``checkpointing``
    ``reentrant``: the output of a block that is computed again stays until its backward is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.activations import SavedTensor
from planner.activations.context import AttentionKernel, ExpertKernel
from planner.activations.huggingface import TrainingDtype, huggingface_saved
from planner.activations.replay import BlockAtWork, ClockedTape
from planner.activations.tape import Arithmetic
from planner.adapters import Adapter, keeps_own_input, trains
from planner.adapters.places import adapted_rows
from planner.counts import held_tensors
from planner.formulas.activations import tensor_bytes
from planner.nodes import Experts, Linear, Module, Node, Row, Style, walk
from planner.numeric import Num, maximum
from planner.training.beside import kept_beside, shares_input
from planner.training.job import TrainingJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One micro-batch of a model on one rank.

    Attributes
    ----------
    saved : tuple of SavedTensor
        What autograd keeps; logits and their loss are a loss path's, and left out.
    blocks : tuple of BlockAtWork
        Every kind of block while it runs backward.
    """

    saved: tuple[SavedTensor, ...]
    blocks: tuple[BlockAtWork, ...]

    @property
    def fullest(self) -> BlockAtWork | None:
        """Block that has most alive; its input and its output are those of any block."""
        if not self.blocks:
            return None
        peak: Num = 0
        for block in self.blocks:
            peak = maximum(peak, block.peak_bytes)
        return replace(self.blocks[0], peak_bytes=peak)


def played(tree: Node, job: TrainingJob) -> Played:
    """Forward pass of one micro-batch, as the recipe and the job have it."""
    adapter = job.adapter
    beside = {}
    if adapter is not None:
        beside = kept_beside(
            tree, adapter, job.step, dtype=_activations(job), autocast=_under_autocast(job), fused=_fused(job)
        )
    experts = _experts(job)
    turns = {
        row.path: row.leaf.num_experts for row in walk(tree) if isinstance(row.leaf, Experts) and experts == "eager"
    }
    tapes: list[ClockedTape] = []

    def make_tape(arithmetic: Arithmetic) -> ClockedTape:
        tapes.append(ClockedTape(arithmetic, beside=beside, turns=turns))
        return tapes[-1]

    saved = huggingface_saved(
        _styled(tree, job),
        job.step,
        dtype=_dtype(job),
        attention=_kernel(job),
        hidden_dropout=float(job.option("hidden_dropout", 0.0)),
        attention_dropout=float(job.option("attention_dropout", 0.0)),
        experts=experts,
        device="cuda",
        trains=_trains(adapter),
        adapted=_reads_whole_input(job, adapter),
        input_needs_grad=adapter is not None,
        make_tape=make_tape,
    )
    kept = [tensor for tensor in saved if tensor.path != "loss"]
    kept += [tensor for tensors in beside.values() for tensor in tensors]
    if adapter is not None:
        kept.append(_head_input(tree, job))
    return Played(saved=tuple(kept), blocks=tapes[0].blocks())


def _dtype(job: TrainingJob) -> TrainingDtype:
    """Arithmetic of the forward pass: sharded data parallelism gathers parameters in the dtype of the products."""
    if job.precision.name == "fp32" or _habit(job, "residual", "model") == "fp32":
        return "fp32"
    if job.precision.name == "autocast" and job.parallelism.zero < 3:
        return "autocast"
    return "bf16"


def _experts(job: TrainingJob) -> ExpertKernel:
    return "eager" if _habit(job, "experts", "grouped_mm") == "eager" else "grouped_mm"


def _kernel(job: TrainingJob) -> AttentionKernel:
    known: dict[str, AttentionKernel] = {"eager": "eager", "flash": "flash"}
    return known.get(job.attention, "sdpa")


def _styled(tree: Node, job: TrainingJob) -> Node:
    if _habit(job, "norms", "class") != "fused" or not isinstance(tree, Module):
        return tree
    return replace(tree, style=replace(tree.style or Style(), norm="rms_fused"))


def _habit(job: TrainingJob, name: str, default: str) -> str:
    return str(job.option(name, job.recipe.word(name, default)))


def _trains(adapter: Adapter | None) -> Callable[[Row], bool]:
    if adapter is None:
        return lambda _: True
    return lambda row: any(trains(row, tensor, adapter) for tensor in held_tensors(row))


def _under_autocast(job: TrainingJob) -> str | None:
    """Dtype of products under autocast; None without it."""
    return "bf16" if _habit(job, "autocast", "no") == "yes" or _dtype(job) == "autocast" else None


def _activations(job: TrainingJob) -> str:
    """Dtype of what adapters read."""
    return "fp32" if _dtype(job) == "fp32" else "bf16"


def _fused(job: TrainingJob) -> bool:
    return _habit(job, "adapters", "peft") == "fused"


def _reads_whole_input(job: TrainingJob, adapter: Adapter | None) -> Callable[[Row], bool]:
    """Whether an adapter keeps the very input of a matrix, which all matrices beside it share."""
    if adapter is None:
        return lambda _: False
    if not adapter.is_low_rank:
        return lambda row: isinstance(row.leaf, Linear) and shares_input(row, adapter)
    if not _fused(job) and keeps_own_input(adapter, _activations(job), _under_autocast(job)):
        return lambda _: False
    return lambda row: isinstance(row.leaf, Linear) and next(adapted_rows([row], adapter), None) is not None


def _head_input(tree: Node, job: TrainingJob) -> SavedTensor:
    """Last hidden states: a frozen head does not keep them, but the forward pass still names them."""
    hidden: Num = 0
    for row in walk(tree):
        if isinstance(row.leaf, Linear) and row.leaf.yields_logits:
            hidden = row.leaf.in_features
    tokens = job.step.batch_size * job.step.sequence_length
    size = tensor_bytes(tokens * hidden, 4 if _dtype(job) == "fp32" else 2)
    return SavedTensor(path="last hidden states", name="output", size_bytes=size, copies=1, part="head")


def work_bytes(tree: Node, job: TrainingJob) -> Num:
    """What the backward of one block has alive at its fullest beyond what the block saved, on one rank. [B]"""
    found = played(tree, job)
    beyond: Num = 0
    for block in found.blocks:
        saved: Num = 0
        for tensor in found.saved:
            if tensor.in_block and tensor.path.startswith(block.path) and tensor.indices[0] == block.indices:
                inner = 1 if block.indices is None else tensor.copies // len(block.indices)
                saved = saved + inner * tensor.size_bytes
        again = job.recompute.kind == "full"
        saved = saved - (block.input_bytes if again or block.keeps_input else 0)
        reentrant = again and _habit(job, "checkpointing", "reentrant") == "reentrant"
        beyond = maximum(beyond, block.peak_bytes - saved + (block.input_bytes if reentrant else 0))
    return beyond / job.parallelism.cp


def block_input_bytes(tree: Node, job: TrainingJob) -> Num:
    """Hidden states that enter a block, on one rank, in the dtype in which blocks hand them on. [B]"""
    size: Num = 0
    for block in played(tree, job).blocks:
        size = maximum(size, block.input_bytes)
    return size / job.parallelism.cp
