"""What autograd keeps when the classes of transformers train: a fold over a model's tree.

The forward pass of the class is played on a tape, operator by operator, so that what is kept follows from the
operators' own rules. Byte for byte it is what `planner verify --memory` measures on the real class on a CPU. On CUDA
three things are assumed: masks of dropout have one byte an element, statistics of LayerNorms are fp32, and fused
attention keeps what the flash kernel keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from planner.activations.attend import bias_key
from planner.activations.block import block, rows_of
from planner.activations.context import AttentionKernel, Context, ExpertKernel, bare_norm, norm
from planner.activations.dense import activated, linear
from planner.activations.saved import SavedTensor
from planner.activations.tape import Arithmetic, Tape, Value
from planner.compute import attention_pairs, positions, sequence_positions
from planner.nodes import (
    Attention,
    Convolution,
    Embedding,
    Linear,
    Module,
    Node,
    Norm,
    Parameter,
    Place,
    Repeat,
    Row,
    Stack,
    Style,
)
from planner.numeric import Num, all_true, maximum, where
from planner.workload import Step

TrainingDtype = Literal["fp32", "bf16", "autocast"]


def huggingface_saved(
    tree: Node,
    step: Step,
    *,
    dtype: TrainingDtype = "bf16",
    attention: AttentionKernel = "sdpa",
    experts: ExpertKernel = "grouped_mm",
    device: Literal["cpu", "cuda"] = "cuda",
    hidden_dropout: float = 0.0,
    attention_dropout: float = 0.0,
    trains: Callable[[Row], bool] = lambda _: True,
    adapted: Callable[[Row], bool] = lambda _: False,
    input_needs_grad: bool = False,
    checkpointing: bool = False,
    make_tape: Callable[[Arithmetic], Tape] = Tape,
) -> tuple[SavedTensor, ...]:
    """Tensors that autograd keeps from the forward pass and the loss of one step.

    Parameters
    ----------
    tree : Node
        The model.
    step : Step
        Samples and tokens.
    dtype : str
        ``fp32`` or ``bf16`` weights throughout, or fp32 weights and products in bf16 by ``autocast``.
    attention : str
        ``eager``, ``sdpa`` or ``flash``.
    experts : str
        ``grouped_mm``, ``batched_mm`` or ``eager``.
    device : str
        ``cpu`` or ``cuda``.
    hidden_dropout, attention_dropout : float
        Probabilities while training; 0 leaves the operator out. [-]
    trains : callable
        Whether a row's weights get gradients.
    adapted : callable
        Whether an adapter that trains reads a row's input, which then is kept although the weight is frozen.
    input_needs_grad : bool
        The embedded tokens get a gradient even where no table trains, as `enable_input_require_grads` has it.
    checkpointing : bool
        Blocks keep their input only; what they keep while they are computed again is what they keep without it.
    make_tape : callable
        The tape that it is played on, such as one that notes more than what is kept.

    Returns
    -------
    tuple of SavedTensor
        Each in bytes of one copy.
    """
    arithmetic = Arithmetic(weights="bf16" if dtype == "bf16" else "fp32", autocast=dtype == "autocast", device=device)
    context = Context(
        tape=make_tape(arithmetic),
        step=step,
        attention=attention,
        experts=experts,
        hidden_dropout=hidden_dropout,
        attention_dropout=attention_dropout,
        trains=trains,
        adapted=adapted,
        input_needs_grad=input_needs_grad,
        checkpointing=checkpointing,
    )
    _Play(context, _style(tree)).run(tree, Place(), None)
    return context.tape.saved()


def _style(tree: Node) -> Style:
    return (tree.style if isinstance(tree, Module) else None) or Style()


class _Play:
    """Plays a model's modules in the order of their children."""

    def __init__(self, context: Context, style: Style) -> None:
        self._context, self._style = context, style
        self._tape = context.tape

    def run(self, node: Node, place: Place, value: Value | None) -> Value | None:
        """What a module makes of what came before it."""
        if isinstance(node, Module):
            return self._module(node, place, value)
        if isinstance(node, (Repeat, Stack)):
            assert value is not None  # noqa: S101 - blocks follow a table
            return self._blocks(node, place, value)
        return self._leaf(place.row(node), value)

    def _module(self, node: Module, place: Place, value: Value | None) -> Value | None:
        inside, context = place.inside(node), self._context
        if inside.stream.kind == "image" and all_true(context.step.images == 0):
            # A text without images does not run what reads them.
            return value
        children = list(_named(node, inside))
        is_trunk = any(isinstance(child, (Repeat, Stack)) for _, child, _ in children)
        if is_trunk:
            context.trunk = place
            children.sort(key=lambda named: _order(named[0], named[1]))
        encodes = inside.stream.kind == "source" and place.stream.kind != "source"
        repeats = inside.runs is not place.runs
        result = None if encodes else self._again(value, inside) if repeats else value
        for _, child, at in children:
            if isinstance(child, (Repeat, Stack)) and result is not None:
                result = self._tape.dropout(result, context.hidden_dropout)
            if not isinstance(child, (Parameter, Attention)):
                result = self.run(child, at, result)
        if repeats:
            result = self._again(result, place)
        if is_trunk and self._style.bare_norms and result is not None:
            result = bare_norm(context, result, result.elements // positions(inside.stream, context.step))
        if encodes:
            context.source = result
            return value
        return result

    def _again(self, value: Value | None, place: Place) -> Value | None:
        """The same at a place that stands more or less often in a forward pass."""
        if value is None:
            return None
        with self._tape.at(place):
            return self._tape.like(value)

    def _leaf(self, row: Row, value: Value | None) -> Value | None:
        leaf = row.leaf
        with self._tape.at(replace(self._tape.place, path=row.path)):
            if isinstance(leaf, Embedding):
                return self._looked_up(row, leaf, value)
            if isinstance(leaf, Convolution):
                return self._convolved(row, leaf, value)
            if value is None:
                return None
            if isinstance(leaf, Norm):
                return norm(self._context, row, value, self._style)
            if isinstance(leaf, Linear):
                result = linear(self._context, row, value, part="head")
                return self._loss(row, result) if leaf.yields_logits else self._between(row, result)
        return value

    def _convolved(self, row: Row, leaf: Convolution, value: Value | None) -> Value:
        """Patches or frames: what the sample itself is, the caller holds."""
        trains = self._context.trains(row)
        if trains and leaf.input_needs_grad and value is not None:
            self._tape.keep(value, "input")
        grad = trains or (value is not None and value.needs_grad) or self._context.input_needs_grad
        return self._tape.new(self._context.positions(row) * leaf.out_channels, self._context.dtype, needs_grad=grad)

    def _between(self, row: Row, value: Value) -> Value:
        """Heads have their activation after the dense layer that is not the last."""
        if row.path.endswith(("dense", "vocab_transform")):
            return activated(self._tape, value, self._style.activation)
        return value

    def _looked_up(self, row: Row, leaf: Embedding, value: Value | None) -> Value | None:
        context, tape = self._context, self._tape
        if row.bucket == "embeddings.token" and row.tied_to is None and value is None and _is_only_shared(row):
            return None
        trains = context.trains(row)
        elements = context.positions(row) * leaf.embedding_dim
        with tape.at(split="none", part="embedding"):
            if trains:
                self._keep_indices(row)
        needs_grad = trains or context.input_needs_grad
        found = tape.new(elements, context.dtype, needs_grad=needs_grad)
        # A table of tokens begins a sequence; what came before it, such as a tower's output, is written into it.
        begins = value is None or row.bucket.endswith("embeddings.token")
        return found if value is None or begins else tape.add(value, found)

    def _keep_indices(self, row: Row) -> None:
        """Tokens are the caller's; positions and kinds of tokens are made for the whole batch at once."""
        tape, context = self._tape, self._context
        per_sample = sequence_positions(row.stream, context.step)
        of_positions = row.bucket.endswith("position")
        if not row.bucket.endswith("token"):
            if of_positions and self._style.positions == "buffer":
                return
            each = self._style.positions == "batch"
            count = context.positions(row) if each else per_sample
            tape.keep(tape.new(count, "int64", needs_grad=False), "indices")
        elif context.source is not None and row.stream.kind == "tokens":
            # A decoder's tokens are the labels, shifted by one.
            tape.keep(tape.new(context.positions(row), "int64", needs_grad=False), "indices")

    def _loss(self, row: Row, logits: Value) -> Value:
        tape = self._tape
        with tape.at(replace(tape.place, path="loss"), part="head", split="tensor"):
            if self._style.logits_capped:
                logits = tape.by_result(tape.scaled(logits), "capped logits")
            upcast = self._style.loss == "float32" or tape.arithmetic.autocast
            logits = tape.cast(logits, "fp32") if upcast else logits
            log_softmax = tape.by_result(logits, "log-probabilities")
            if log_softmax.needs_grad:
                with tape.at(split="none"):
                    if self._style.loss == "float32":
                        tape.keep(tape.new(self._labels(row), "int64", needs_grad=False), "shifted labels")
                    tape.keep(tape.new(1, log_softmax.dtype, needs_grad=False), "weight of the labels")
        return logits

    def _labels(self, row: Row) -> Num:
        """Labels are padded by one and cut; cut from a single sample they are still in one piece, the cut one too."""
        samples, tokens = self._context.step.batch_size, sequence_positions(row.stream, self._context.step)
        return where(samples == 1, tokens + 1, samples * tokens)

    def _blocks(self, node: Repeat | Stack, place: Place, value: Value) -> Value:
        if isinstance(node, Stack):
            for part in node.parts:
                result = self.run(part, place, value)
                assert result is not None  # noqa: S101 - blocks yield what they get
                value = result
            return value
        if all_true(node.count == 0):
            return value
        if _is_group(node.child):
            result = self.run(node.child, place.repeated(node), value)
            assert result is not None  # noqa: S101 - blocks yield what they get
            return result
        if not value.needs_grad and not all_true(node.count == 1):
            # Nothing below trains: from the first block that does, gradients flow.
            first, rest = _split(node)
            return self._blocks(rest, place, self._blocks(first, place, value))
        context, tape, inside = self._context, self._tape, place.repeated(node)
        with tape.at(inside):
            entering = tape.new(_entering(context, node, inside, value), value.dtype, needs_grad=value.needs_grad)
            if context.checkpointing:
                tape.keep(entering, "input of the block")
                self._keep_arguments(node, place)
                context.tape = Tape(tape.arithmetic, place=inside)
            leaving = block(context, node.child, inside, entering, self._style)
            context.tape = tape
        with tape.at(place):
            # A block that a step does not run, such as one that looks at images, leaves what entered it.
            return tape.new(maximum(leaving.elements, value.elements), leaving.dtype, needs_grad=leaving.needs_grad)

    def _keep_arguments(self, node: Repeat, place: Place) -> None:
        """What a checkpointed block keeps beside its input, once for all blocks of a stack."""
        context, tape = self._context, self._tape
        if not self._style.blocks_take_masks:
            return
        inside = place.repeated(node)
        for row in rows_of(node.child, inside):
            if not isinstance(row.leaf, Attention):
                continue
            bias = context.shared.get(bias_key(context, row.leaf))
            if bias is not None:
                tape.keep(bias, "position bias")
            if row.leaf.keys == "source" and context.source is not None:
                tape.keep(context.source, "output of the encoder")
            if row.leaf.causal and context.attention == "eager":
                key = ("mask", context.trunk.path)
                if key not in context.shared:
                    pairs = attention_pairs(row.leaf, row.stream, context.step)
                    with tape.at(context.trunk, split="none"):
                        context.shared[key] = tape.new(pairs.executed, context.dtype, needs_grad=False)
                tape.keep(context.shared[key], "mask")


def _split(node: Repeat) -> tuple[Repeat, Repeat]:
    indices = (None, None) if node.indices is None else (node.indices[:1], node.indices[1:])
    return (
        Repeat(child=node.child, count=1, indices=indices[0]),
        Repeat(child=node.child, count=node.count - 1, indices=indices[1]),
    )


def _entering(context: Context, node: Repeat, place: Place, value: Value) -> Num:
    """Elements of what enters a block: tokens that stand for a class or an image may have joined those embedded."""
    for row in rows_of(node.child, place):
        if isinstance(row.leaf, Linear) and row.leaf.blocks is None and row.stream.kind not in ("cross", "distances"):
            return context.positions(row) * row.leaf.in_features
    return value.elements


def _is_group(node: Node) -> bool:
    """Whether a repeated module is nothing but blocks that are repeated themselves."""
    return isinstance(node, Module) and all(isinstance(child, (Repeat, Stack)) for child in node.children.values())


def _named(node: Module, inside: Place) -> Iterator[tuple[str, Node, Place]]:
    """Children of a module with their places; those that a bucket holds together stand in the module itself."""
    for name, child in node.children.items():
        if name == "" and isinstance(child, Module):
            yield from _named(child, inside.inside(child))
        else:
            yield name, child, inside.child(name)


def _order(name: str, child: Node) -> int:
    """Children of a stack in the order in which they run: tables, what follows them, blocks, last norms."""
    if isinstance(child, (Repeat, Stack)):
        return 4
    if isinstance(child, Norm) and not any(word in name for word in ("emb", "pre")):
        return 5
    if isinstance(child, Linear):
        return 1 if name.endswith("_in") else 6 if name.endswith("_out") else 3
    if isinstance(child, Embedding):
        return 0 if child.bucket is not None and child.bucket.endswith("token") else 2
    return 3


def _is_only_shared(row: Row) -> bool:
    """A table that stands beside the stacks that use it."""
    return row.path.rpartition(".")[2] == "shared"
