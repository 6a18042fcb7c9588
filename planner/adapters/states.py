"""Bytes at rest of a model that is fine-tuned: the base as stored, what is added, and what training keeps for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from planner.adapters.adapter import Adapter
from planner.adapters.added import AdapterCounts, AddedTensor
from planner.adapters.counts import adapter_parameters
from planner.counts import Tensor
from planner.formats import Rule, WeightFormat, plain_format
from planner.formulas.memory import packed_bytes
from planner.memory import GRADIENTS, OPTIMIZER, SCALES, WEIGHTS, MemoryRow, has_state, state_bytes
from planner.nodes import TOKENS, Linear, Node, Row
from planner.numeric import Num
from planner.optimizers import Optimizer
from planner.quantisation import stored_weights

Upcast: TypeAlias = Literal["none", "norms", "all"]
"""What is cast to fp32 before a model is fine-tuned."""

ADAPTER = "adapter weights"
BUFFERS = "adapter buffers"
PAGED = "optimizer state (paged)"

_NEAREST = Linear(in_features=1, out_features=1, bucket="mlp")


@dataclass(frozen=True, slots=True)
class Trained:
    """One tensor that has a gradient, with what it is stored in.

    Attributes
    ----------
    row : Row
        Row that it belongs to; for what modules share, a matrix of the layers stands in.
    tensor : Tensor
        Name and shape.
    copies : Num
        How often it stands in the model. [-]
    dtype : WeightFormat
        What it, its gradient and its states are kept in.
    """

    row: Row
    tensor: Tensor
    copies: Num
    dtype: WeightFormat


def finetune_states(
    tree: Node,
    adapter: Adapter,
    base: WeightFormat,
    optimizer: Optimizer,
    *,
    upcast: Upcast = "none",
    gradients: bool = True,
) -> tuple[MemoryRow, ...]:
    """What is resident of a model that is fine-tuned, activations aside, over all devices.

    Parameters
    ----------
    tree : Node
        The model.
    adapter : Adapter
        What is added and trained, its targets resolved.
    base : WeightFormat
        What the model is stored in; where it is quantised, tensors of the base that are trained are in what it leaves
        them in.
    optimizer : Optimizer
        Its states are kept for what is trained; those of an optimizer whose name begins with ``paged`` have a row of
        their own, since they may lie on the host.
    upcast : str
        What is cast to fp32 before training: ``none``; ``norms``, biases included; or ``all`` that is not quantised,
        tables and output head too, as peft's prepare_model_for_kbit_training does.
    gradients : bool
        False between steps, where gradients are freed.

    Returns
    -------
    tuple of MemoryRow
        Weights and scales of the base, what is added, gradients, optimizer state.

    Raises
    ------
    UnknownNameError
        A target is no module of the model.

    Examples
    --------
    >>> from planner.formats import find_format
    >>> from planner.nodes import Module
    >>> from planner.optimizers import find_optimizer
    >>> tree = Module(children={"q_proj": Linear(in_features=64, out_features=64, bucket="attention")})
    >>> lora = Adapter(method="lora", rank=4, target_modules=("q_proj",))
    >>> rows = finetune_states(tree, lora, find_format("bf16"), find_optimizer("adamw"))
    >>> [(row.name, row.size_bytes) for row in rows]  # 64 * 64 * 2; 4 * 128 * 4, and as much again and twice as much
    [('weights', 8192), ('adapter weights', 2048), ('gradients', 2048), ('optimizer state', 4096)]
    """
    stored = upcast_to_fp32(base, upcast)
    counts = adapter_parameters(tree, adapter)
    weights = stored_weights(tree, stored)
    origin = "; ".join(stored.sources)
    rows = [MemoryRow(name=WEIGHTS, size_bytes=weights.codes, basis="exact", source=f"{stored.name}: {origin}")]
    if stored.has_scales:
        rows.append(MemoryRow(name=SCALES, size_bytes=weights.scales, basis="exact", source=f"{stored.name}: {origin}"))
    rows += _added_rows(counts, adapter, rest_of(stored))
    trained = list(trained_tensors(counts, adapter, stored))
    if gradients:
        rows.append(
            MemoryRow(
                name=GRADIENTS,
                size_bytes=_sum(one.copies * _plain_bytes(one.tensor, one.dtype) for one in trained),
                basis="exact",
                source="torch: a gradient has the dtype of its parameter",
            )
        )
    states = _sum(
        one.copies * state_bytes(one.tensor, state, one.dtype)
        for one in trained
        for state in optimizer.states
        if has_state(one.row, one.tensor, state)
    )
    origins = "; ".join(dict.fromkeys(state.source for state in optimizer.states))
    name = PAGED if optimizer.name.startswith("paged") else OPTIMIZER
    rows.append(MemoryRow(name=name, size_bytes=states, basis="exact", source=f"{optimizer.name}: {origins}"))
    return tuple(rows)


def trained_tensors(counts: AdapterCounts, adapter: Adapter, base: WeightFormat) -> Iterator[Trained]:
    """Every tensor that has a gradient: those that are added, copies of modules, and those of the base."""
    own, rest = plain_format(adapter.dtype), rest_of(base)
    for one in counts.added:
        if one.trains:
            yield Trained(one.row or _stand_in(one), one.tensor, one.copies, rest if one.kind == "copy" else own)
    for kept in counts.trained:
        yield Trained(kept.row, kept.tensor, kept.copies, rest)


def rest_of(base: WeightFormat) -> WeightFormat:
    """Plain format of what a format does not quantise: that of its last rule, which is about all tensors."""
    return plain_format(base.rules[-1].dtype.name)


def upcast_to_fp32(base: WeightFormat, upcast: Upcast) -> WeightFormat:
    """A format with what it does not quantise in fp32, or norms and biases alone.

    Examples
    --------
    >>> from planner.formats import find_format
    >>> rules = upcast_to_fp32(find_format("nf4"), "norms").rules
    >>> [(rule.tensors, rule.dtype.name) for rule in rules]
    [('vector', 'fp32'), ('matrix', 'nf4'), ('tower matrix', 'nf4'), ('all', 'bf16')]
    """
    if upcast == "none":
        return base
    fp32 = plain_format("fp32").rules[-1].dtype
    source = "peft prepare_model_for_kbit_training: what is 16-bit becomes fp32"

    def cast(rule: Rule) -> Rule:
        return rule if rule.dtype.has_scales else replace(rule, dtype=fp32, source=source)

    if upcast == "norms":
        vectors = Rule(tensors="vector", when="", layers="", dtype=fp32, source=source)
        return replace(base, name=f"{base.name}, norms in fp32", rules=(vectors, *base.rules))
    return replace(base, name=f"{base.name}, the rest in fp32", rules=tuple(cast(rule) for rule in base.rules))


def _added_rows(counts: AdapterCounts, adapter: Adapter, rest: WeightFormat) -> list[MemoryRow]:
    own = plain_format(adapter.dtype)
    sizes: dict[Literal["parameters", "buffers"], Num] = {"parameters": 0, "buffers": 0}
    for one in counts.added:
        size = one.copies * _plain_bytes(one.tensor, rest if one.kind == "copy" else own)
        kind: Literal["parameters", "buffers"] = "buffers" if one.kind == "buffer" else "parameters"
        sizes[kind] = sizes[kind] + size
    rows = []
    if any(one.kind != "buffer" for one in counts.added):
        source = f"{adapter.method} in {own.name}, copies of modules in {rest.name}"
        rows.append(MemoryRow(name=ADAPTER, size_bytes=sizes["parameters"], basis="exact", source=source))
    if any(one.kind == "buffer" for one in counts.added):
        source = f"{adapter.method}: fixed matrices that all modules share, in {own.name}"
        rows.append(MemoryRow(name=BUFFERS, size_bytes=sizes["buffers"], basis="exact", source=source))
    return rows


def _stand_in(one: AddedTensor) -> Row:
    """Row for what belongs to no module: optimizers that treat hidden matrices apart see one."""
    return Row(
        path=one.path,
        leaf=_NEAREST,
        tied_to=None,
        copies=one.copies,
        runs=1,
        indices=(),
        bucket="mlp",
        stream=TOKENS,
    )


def _plain_bytes(tensor: Tensor, dtype: WeightFormat) -> Num:
    return packed_bytes(tensor.numel, dtype.element_bits)


def _sum(numbers: Iterator[Num]) -> Num:
    total: Num = 0
    for number in numbers:
        total = total + number
    return total
