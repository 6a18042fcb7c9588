"""Loss paths: what logits and their loss take, phase by phase, from the catalog.

A path is measured in bytes a logit, a logit being one position times one entry of the vocabulary. Beside them lie, on
some paths, gradients of the head's matrix and of the hidden states, which are measured in their own elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from planner.catalog import Fact, read_facts
from planner.errors import CatalogError, UnknownNameError, near_miss
from planner.formulas.memory import packed_bytes
from planner.formulas.training import chunk_tokens, linear_chunk_tokens
from planner.memory import MemoryRow
from planner.nodes import Embedding, Linear
from planner.numeric import Num, maximum, minimum
from planner.parallelism import Stage
from planner.sharding import RankTensor
from planner.training.job import TrainingJob

FILENAME = "loss_paths.csv"

LOGITS = "logits and loss"
GRADIENT = "gradient of the head"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPath:
    """How a loss is computed from the last hidden states.

    Attributes
    ----------
    name : str
        As `--loss` takes it.
    forward : float
        Bytes a logit that are alive at the peak of the forward pass. [B/logit]
    kept : float
        Bytes a logit that stay from there until backward begins. [B/logit]
    backward : float
        Bytes a logit that are alive at the peak of the loss's own backward pass. [B/logit]
    handed_on : float
        Bytes a logit that are alive while the head's matrix gets its gradient. [B/logit]
    vocabulary_parallel : bool
        Whether tensor parallelism divides them; it does not where the head's output is gathered first.
    chunk_tokens : int
        Positions of each sample in a chunk; 0 where the chunks are not of a fixed length. [token]
    chunk_count : int
        Chunks; 0 where they are not of a fixed number. [-]
    chunk_gradient : float
        Bytes a logit of one chunk that backward adds. [B/logit]
    linear_chunks : bool
        Whether the head's product is made chunk by chunk too, so that `forward` counts the logits of one chunk, of
        which there are as many as the vocabulary is wider than the hidden states.
    weight_gradient, input_gradient : bool
        Whether gradients of the head's matrix and of the hidden states are there from the forward pass on.
    source : str
        Where it was read or measured.
    """

    name: str
    forward: float
    kept: float
    backward: float
    handed_on: float
    vocabulary_parallel: bool
    chunk_tokens: int = 0
    chunk_count: int = 0
    chunk_gradient: float = 0
    linear_chunks: bool = False
    weight_gradient: bool = False
    input_gradient: bool = False
    source: str


@cache
def load_loss_paths() -> dict[str, LossPath]:
    """Every loss path of the catalog by name.

    Raises
    ------
    CatalogError
        A row is missing, or one is no number in bytes a logit.
    """
    return {name: _loss_path(name, facts) for name, facts in read_facts(FILENAME).items()}


def _loss_path(name: str, facts: dict[str, Fact]) -> LossPath:
    needed = ("forward", "kept", "backward", "handed_on", "vocabulary_parallel")
    missing = [parameter for parameter in needed if parameter not in facts]
    if missing:
        raise CatalogError(f"'{name}' has no row '{missing[0]}'", file=FILENAME)

    def says(parameter: str, word: str) -> bool:
        return parameter in facts and facts[parameter].value == word

    return LossPath(
        name=name,
        forward=facts["forward"].number("B/logit"),
        kept=facts["kept"].number("B/logit"),
        backward=facts["backward"].number("B/logit"),
        handed_on=facts["handed_on"].number("B/logit"),
        vocabulary_parallel=says("vocabulary_parallel", "yes"),
        chunk_tokens=facts["chunk_tokens"].integer("token") if "chunk_tokens" in facts else 0,
        chunk_count=facts["chunk_count"].integer("-") if "chunk_count" in facts else 0,
        chunk_gradient=facts["chunk_gradient"].number("B/logit") if "chunk_gradient" in facts else 0,
        linear_chunks=says("chunks", "vocabulary over hidden"),
        weight_gradient=says("weight_gradient", "yes"),
        input_gradient=says("input_gradient", "yes"),
        source="; ".join(dict.fromkeys(facts[parameter].source for parameter in needed[:3])),
    )


def find_loss_path(name: str) -> LossPath:
    """Loss path by name.

    Raises
    ------
    UnknownNameError
        The catalog does not know it.
    """
    paths = load_loss_paths()
    if name not in paths:
        raise UnknownNameError(
            f"unknown loss path '{name}', expected one of {', '.join(paths)}", key="loss", hint=near_miss(name, paths)
        )
    return paths[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Output matrix over the vocabulary, as one rank meets it.

    Attributes
    ----------
    vocabulary : Num
        Entries, padded, before any rank divides them. [-]
    hidden : Num
        Width of what it reads. [-]
    elements : Num
        Of the matrix on this rank, before data parallelism divides it. [-]
    trained : bool
        Whether it gets a gradient.
    """

    vocabulary: Num
    hidden: Num
    elements: Num
    trained: bool


def find_head(held: Sequence[RankTensor], job: TrainingJob) -> Head | None:
    """Head among the tensors of a rank: the matrix that yields logits, or the table that serves as one.

    Where a table and a head are both there, the head is meant; a model without either has no logits.
    """
    heads = [item for item in held if isinstance(item.row.leaf, Linear) and item.row.leaf.yields_logits]
    matrices = [item for item in heads if len(item.tensor.shape) == 2]
    tables = [
        item for item in held if isinstance(item.row.leaf, Embedding) and item.row.bucket.endswith("embeddings.token")
    ]
    found = matrices or tables
    if not found:
        return None
    item = found[-1]
    rows = item.tensor.shape[0] * (job.parallelism.tp if item.cut == "vocabulary" else 1)
    return Head(
        vocabulary=maximum(rows, item.whole.shape[0]),
        hidden=item.whole.shape[-1],
        elements=item.tensor.numel,
        trained=job.adapter is None or job.adapter.method == "full",
    )


def logit_tokens(job: TrainingJob) -> Num:
    """Positions of one micro-batch that get logits, on one rank. [token]"""
    return job.step.batch_size * job.step.sequence_length / job.parallelism.cp


def loss_forward_rows(held: Sequence[RankTensor], job: TrainingJob, stage: Stage) -> tuple[MemoryRow, ...]:
    """What logits and loss take at the peak of their forward pass, on the stage that holds the head."""
    head = find_head(held, job) if stage.last else None
    if head is None:
        return ()
    path = find_loss_path(job.loss)
    tokens = logit_tokens(job)
    if path.linear_chunks:
        tokens = linear_chunk_tokens(tokens, head.vocabulary, head.hidden)
    logits = tokens * head.vocabulary / (job.parallelism.tp if path.vocabulary_parallel else 1)
    return (_row(LOGITS, logits * path.forward, path), *_gradients_made_early(head, job, path))


def loss_backward_rows(held: Sequence[RankTensor], job: TrainingJob, stage: Stage) -> tuple[MemoryRow, ...]:
    """What logits and loss take at the peak of their backward pass, up to the gradient of the head's matrix."""
    head = find_head(held, job) if stage.last else None
    if head is None:
        return ()
    path = find_loss_path(job.loss)
    tokens = logit_tokens(job)
    divided = job.parallelism.tp if path.vocabulary_parallel else 1
    logits = tokens * head.vocabulary / divided
    one_chunk = _one_chunk(tokens, job, path) * head.vocabulary / divided
    peak = logits * path.backward + one_chunk * path.chunk_gradient
    if not path.linear_chunks:
        # The gradient of the matrix is made in the dtype of the products while that of the logits is there.
        made = _gradient_bytes(head, job) if head.trained else 0
        hidden = tokens * head.hidden * _compute_bytes(job)
        if job.parallelism.sequence_parallel:
            hidden = 2 * hidden  # beside their gradient the hidden states themselves, gathered again
        peak = maximum(peak, logits * path.handed_on + made + hidden)
    return (_row(LOGITS, peak, path), *_gradients_made_early(head, job, path))


def loss_kept_bytes(held: Sequence[RankTensor], job: TrainingJob, stage: Stage) -> Num:
    """What the loss keeps from its forward to its backward pass, for each micro-batch that lies between. [B]"""
    head = find_head(held, job) if stage.last else None
    if head is None:
        return 0
    path = find_loss_path(job.loss)
    return logit_tokens(job) * head.vocabulary * path.kept / (job.parallelism.tp if path.vocabulary_parallel else 1)


def _one_chunk(tokens: Num, job: TrainingJob, path: LossPath) -> Num:
    if path.chunk_tokens:
        return minimum(tokens, path.chunk_tokens * job.step.batch_size)
    return chunk_tokens(tokens, path.chunk_count) if path.chunk_count else tokens


def _gradients_made_early(head: Head, job: TrainingJob, path: LossPath) -> tuple[MemoryRow, ...]:
    size: Num = 0
    if path.weight_gradient and head.trained:
        size = size + _gradient_bytes(head, job)
    if path.input_gradient:
        size = size + logit_tokens(job) * head.hidden * _compute_bytes(job)
    return (_row(GRADIENT, size, path),) if path.weight_gradient or path.input_gradient else ()


def _gradient_bytes(head: Head, job: TrainingJob) -> Num:
    """Gradient of the matrix in the dtype of the products, whole. [B]"""
    return packed_bytes(head.elements, 8 * _compute_bytes(job))


def _compute_bytes(job: TrainingJob) -> int:
    """Bytes of an element of the products: 16 bits but in plain fp32. [B]"""
    return 4 if job.precision.name == "fp32" else 2


def _row(name: str, size: Num, path: LossPath) -> MemoryRow:
    return MemoryRow(name=name, size_bytes=size, basis="modelled", source=path.source)
