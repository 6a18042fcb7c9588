"""States of one rank: weights, gradients, master weights and optimizer state, divided as ZeRO and FSDP divide them.

Where an adapter trains, the base is frozen: it keeps its weights, in a format of its own, and nothing else. A recipe or
the options of a job say of adapters:

``adapters_sharded``
    ``no`` where every rank holds them whole, because sharded data parallelism leaves them out.

And of the host: ``offload_optimizer`` and ``offload_parameters`` name where masters and states, or the divided weights,
lie instead (``cpu``, ``nvme``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from planner.adapters import Adapter, adapter_parameters
from planner.adapters.added import Indices
from planner.counts import Tensor, count
from planner.formats import WeightFormat, plain_format
from planner.formulas.memory import packed_bytes
from planner.memory import has_state, state_bytes
from planner.nodes import Node, Row, walk
from planner.numeric import Num, ceil_div
from planner.parallelism import WHOLE, Parallelism, Stage
from planner.quantisation import stored_weights
from planner.sharding import RankTensor, copies_on_stage
from planner.training.job import TrainingJob


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Bytes that one rank holds for the parameters of its stage. [B]

    Attributes
    ----------
    weights, gradients, masters, optimizer : Num
        As divided over data-parallel ranks.
    scales : Num
        Scales and zero points of a quantised base, which no rank divides.
    whole_weights, whole_gradients : Num
        Weights without scales, and gradients, of a rank without such division.
    base_codes : Num
        Frozen weights without their scales, of a rank without such division; 0 where all of them train.
    stepped : Num
        What the optimizer updates, as divided: the masters, or the trained weights where there are none.
    trained_elements : Num
        Parameters that are trained, of a rank without such division. [-]
    """

    weights: Num
    gradients: Num
    masters: Num
    optimizer: Num
    scales: Num = 0
    whole_weights: Num
    whole_gradients: Num
    base_codes: Num = 0
    stepped: Num = 0
    trained_elements: Num


def shares(parallelism: Parallelism, *, expert: bool) -> tuple[Num, Num, Num]:
    """Ranks that divide optimizer state, gradients and weights. [-]"""
    ranks = parallelism.expert_shard_ranks if expert else parallelism.shard_ranks
    return (
        ranks if parallelism.zero >= 1 else 1,
        ranks if parallelism.zero >= 2 else 1,
        ranks if parallelism.zero >= 3 else 1,
    )


def states(tensors: Iterable[RankTensor], job: TrainingJob, tree: Node | None = None, stage: Stage = WHOLE) -> States:
    """States of the tensors of one rank.

    Parameters
    ----------
    tensors : iterable of RankTensor
        What the rank holds before data parallelism divides it.
    job : TrainingJob
        Dtypes, optimizer and degrees.
    tree : Node, optional
        The model, where the job has an adapter or a base in a format of its own.
    stage : Stage
        Pipeline stage, which holds the adapters of its layers.
    """
    held = tuple(tensors)
    if job.adapter is not None and job.adapter.method != "full" and tree is not None:
        return _on_device(_adapted(held, job, job.adapter, tree, stage), job)
    return _on_device(_trained(held, job), job)


def _on_device(found: States, job: TrainingJob) -> States:
    """What is left on the device where a recipe keeps states on the host, or on a disk behind it."""
    if job.recipe.word("offload_optimizer"):
        found = replace(found, masters=0, optimizer=0, stepped=0)
    return replace(found, weights=0) if job.recipe.word("offload_parameters") else found


def _trained(held: Sequence[RankTensor], job: TrainingJob) -> States:
    """States of a rank that trains everything."""
    precision = job.precision
    groups: dict[bool, tuple[Num, Num]] = {}
    for item in held:
        elements, state_sum = groups.get(item.is_expert, (0, 0))
        kept = _optimizer_bytes(item.row, item.tensor, job, precision.optimised)
        groups[item.is_expert] = (elements + item.elements, state_sum + item.copies * kept)
    weights: Num = 0
    gradients: Num = 0
    masters: Num = 0
    optimizer: Num = 0
    whole: Num = 0
    for expert, (elements, state_sum) in groups.items():
        by_state, by_gradient, by_weight = shares(job.parallelism, expert=expert)
        weights = weights + packed_bytes(ceil_div(elements, by_weight), precision.parameters.element_bits)
        gradients = gradients + packed_bytes(ceil_div(elements, by_gradient), precision.gradients.element_bits)
        if precision.masters is not None:
            masters = masters + packed_bytes(ceil_div(elements, by_state), precision.masters.element_bits)
        optimizer = optimizer + ceil_div(state_sum, by_state)
        whole = whole + elements
    return States(
        weights=weights,
        gradients=gradients,
        masters=masters,
        optimizer=optimizer,
        whole_weights=packed_bytes(whole, precision.parameters.element_bits),
        whole_gradients=packed_bytes(whole, precision.gradients.element_bits),
        stepped=weights if precision.masters is None else masters,
        trained_elements=whole,
    )


def _optimizer_bytes(row: Row | None, tensor: Tensor, job: TrainingJob, optimised: WeightFormat) -> Num:
    kept: Num = 0
    for state in job.optimizer.states:
        if row is None or has_state(row, tensor, state):
            kept = kept + state_bytes(tensor, state, optimised)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Tensors of one dtype that are added to a model, or trained of it."""

    row: Row | None
    tensor: Tensor
    copies: Num
    dtype: WeightFormat
    is_added: bool
    trains: bool


def _parts(tree: Node, adapter: Adapter, job: TrainingJob, stage: Stage) -> Iterator[_Part]:
    counts = adapter_parameters(tree, adapter)
    own = plain_format(adapter.dtype)
    rows = list(walk(tree))

    def here(row: Row | None, copies: Num, indices: Indices) -> Num:
        if stage.layers is None or (row is None and stage.first):
            return copies
        return 0 if row is None else copies_on_stage(replace(row, copies=copies, indices=indices), rows, stage)

    for one in counts.added:
        copies = here(one.row, one.copies, one.indices)
        yield _Part(row=one.row, tensor=one.tensor, copies=copies, dtype=own, is_added=True, trains=one.trains)
    for base in counts.trained:
        yield _Part(
            row=base.row,
            tensor=base.tensor,
            copies=here(base.row, base.copies, base.row.indices),
            dtype=job.precision.parameters,
            is_added=False,
            trains=True,
        )


def _adapted(held: Sequence[RankTensor], job: TrainingJob, adapter: Adapter, tree: Node, stage: Stage) -> States:
    """States of a rank that trains an adapter, or a part of the model, and freezes the rest."""
    codes, scales = _frozen_bytes(held, job, tree)
    by_state, by_gradient, by_weight = shares(job.parallelism, expert=False)
    base_weight = by_weight
    if str(job.option("adapters_sharded", job.recipe.word("adapters_sharded", "yes"))) == "no":
        by_state = by_gradient = by_weight = 1
    added: Num = 0
    gradients: Num = 0
    optimizer: Num = 0
    stepped: Num = 0
    trained: Num = 0
    for part in _parts(tree, adapter, job, stage):
        elements = part.copies * part.tensor.numel
        size = packed_bytes(elements, part.dtype.element_bits)
        added = added + (size if part.is_added else 0)
        if part.trains:
            trained = trained + elements
            gradients = gradients + size
            stepped = stepped + size
            optimizer = optimizer + part.copies * _optimizer_bytes(part.row, part.tensor, job, part.dtype)
    return States(
        weights=ceil_div(codes, base_weight) + ceil_div(added, by_weight),
        gradients=ceil_div(gradients, by_gradient),
        masters=0,
        optimizer=ceil_div(optimizer, by_state),
        scales=scales,
        whole_weights=codes + added,
        whole_gradients=gradients,
        base_codes=codes,
        stepped=ceil_div(stepped, by_weight),
        trained_elements=trained,
    )


def _frozen_bytes(held: Sequence[RankTensor], job: TrainingJob, tree: Node) -> tuple[Num, Num]:
    """The base of one rank, and its scales: a quantised one is divided as its elements are. [B]"""
    elements: Num = 0
    for item in held:
        elements = elements + item.elements
    chosen = job.base or job.precision.parameters
    if chosen.is_plain:
        return packed_bytes(elements, chosen.element_bits), 0
    stored = stored_weights(tree, chosen)
    scales = stored_weights(tree, _without_zero_points(chosen)).scales
    share = elements / count(tree).total
    return (stored.codes + stored.scales - scales) * share, scales * share


def _without_zero_points(chosen: WeightFormat) -> WeightFormat:
    """Zero points are packed as codes are, and so divided as they are."""
    rules = tuple(replace(rule, dtype=replace(rule.dtype, zero_bits=0)) for rule in chosen.rules)
    return replace(chosen, rules=rules)
