"""FLOPs as a fold over a model's tree: how many positions meet a leaf, and which formula serves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

from planner.counts import count
from planner.errors import UnsupportedError
from planner.formulas.flops import (
    attention_flops,
    fused_attention_backward_flops,
    halved_attention_flops,
    linear_flops,
    recurrence_flops,
)
from planner.formulas.pairs import (
    banded_pairs,
    chunked_pairs,
    masked_pairs,
    pooled_pairs,
)
from planner.formulas.parameters import numel
from planner.formulas.rules import (
    FORWARD_FLOPS_PER_PARAMETER,
    TRAINING_FLOPS_PER_PARAMETER,
    palm_attention_flops,
    parameter_flops,
)
from planner.nodes import (
    SOURCE,
    TOKENS,
    Attention,
    Convolution,
    Embedding,
    Experts,
    Leaf,
    Linear,
    Node,
    Norm,
    Parameter,
    Product,
    Row,
    Scan,
    Stream,
    walk,
)
from planner.numeric import Num, all_true, exact_quotient, maximum, minimum, where
from planner.workload import Step

POSITION_EMBEDDING = "embeddings.position"

SCORES = "scores"
"""Suffix of the component that holds the attention products, which have no weights."""


def sequences(stream: Stream, step: Step) -> Num:
    """Independent sequences of a stream. [-]"""
    if stream.kind == "distances":
        return 1
    return step.batch_size * step.images if stream.kind == "image" else step.batch_size


def sequence_positions(stream: Stream, step: Step) -> Num:
    """Positions of one sequence of a stream. [token]"""
    match stream.kind:
        case "tokens":
            return step.sequence_length
        case "context":
            return step.past + step.sequence_length
        case "source" | "cross":
            # While decoding, the encoder's output and the keys and values made of it are at hand.
            return where(step.past > 0, 0, source_positions(stream, step))
        case "logits":
            return step.sequence_length if step.logits == "all" else 1
        case "sample":
            return stream.per_sample
        case "image":
            # As for an encoder: while decoding, what the images yielded is at hand.
            return where(step.past > 0, 0, stream.per_sample)
        case "illustrated":
            return where(step.images > 0, step.sequence_length, 0)
        case "distances":
            if stream.fixed is not None:
                return stream.fixed
            told_apart = 2 * step.sequence_length
            return told_apart if stream.at_most is None else minimum(told_apart, stream.at_most)
        case _:
            assert_never(stream.kind)


def source_positions(stream: Stream, step: Step) -> Num:
    """Positions of an encoder's sequence, also while decoding. [token]"""
    return step.source if stream.fixed is None else stream.fixed


def positions(stream: Stream, step: Step) -> Num:
    """Positions that pass through a module, over the whole batch. [token]"""
    return sequences(stream, step) * sequence_positions(stream, step)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Queries and keys of one attention in one step.

    Attributes
    ----------
    sequences : Num
        Batch. [-]
    queries, past, keys : Num
        Of one sequence: new tokens, cached tokens that they can see, and all keys that are multiplied. [token]
    """

    sequences: Num
    queries: Num
    past: Num
    keys: Num

    @property
    def executed(self) -> Num:
        """Pairs that are multiplied, masked or not. [-]"""
        return self.sequences * self.queries * self.keys


def attention_pairs(leaf: Attention, stream: Stream, step: Step) -> Pairs:
    """What an attention multiplies in a step.

    A prefill multiplies every query with every key and masks afterwards, windows included; a cache with a window
    has dropped what no query can see.
    """
    queries = sequence_positions(stream, step)
    if leaf.keys == "source":
        return Pairs(sequences(stream, step), queries, 0, source_positions(leaf.key_stream or SOURCE, step))
    if leaf.keys == "image" and leaf.key_stream is not None:
        # At hand while decoding, as those of an encoder.
        images = 1 if stream.kind in ("sample", "image") else step.images
        return Pairs(sequences(stream, step), queries, 0, images * leaf.key_stream.per_sample)
    if leaf.key_stream is not None:
        return Pairs(sequences(stream, step), queries, 0, sequence_positions(leaf.key_stream, step))
    if leaf.keys == "pairs":
        return Pairs(1, step.batch_size, 0, step.batch_size * step.images)
    past: Num = step.past if stream.kind == "tokens" else 0
    if leaf.keys == "pooled":
        return Pairs(sequences(stream, step), queries, past // leaf.pool, (past + queries) // leaf.pool)
    if leaf.window is not None:
        past = minimum(past, leaf.window - 1)
    return Pairs(sequences(stream, step), queries, past, past + queries)


def forward_flops(row: Row, step: Step) -> Num:
    """FLOPs of every matrix product that one copy of a row executes (convention ``matmul``). [FLOP]"""
    return row.runs * _flops_of_a_run(row, step)


def _flops_of_a_run(row: Row, step: Step) -> Num:
    leaf, at = row.leaf, positions(row.stream, step)
    match leaf:
        case Linear():
            inputs = leaf.in_features if leaf.blocks is None else exact_quotient(leaf.in_features, leaf.blocks)
            return linear_flops(at, inputs, leaf.out_features)
        case Convolution():
            inputs = exact_quotient(leaf.in_channels, leaf.groups) * numel(leaf.kernel_size)
            return linear_flops(at, inputs, leaf.out_channels)
        case Experts():
            inner = 2 * leaf.intermediate_size if leaf.gated else leaf.intermediate_size
            visits = at * leaf.top_k
            up = linear_flops(visits, leaf.hidden_size, inner)
            return up + linear_flops(visits, leaf.intermediate_size, leaf.hidden_size)
        case Attention():
            pairs = attention_pairs(leaf, row.stream, step)
            return attention_flops(pairs.executed, leaf.num_heads, leaf.qk_head_dim, leaf.v_head_dim)
        case Product():
            return linear_flops(at * leaf.rows, leaf.inner, leaf.columns)
        case Embedding() | Norm() | Parameter() | Scan():
            return 0
        case _:
            assert_never(leaf)


def causal_flops(row: Row, step: Step) -> Num:
    """FLOPs of one copy of a row under the convention ``causal``: half the scores of causal attention. [FLOP]"""
    leaf = row.leaf
    if not (isinstance(leaf, Attention) and leaf.causal):
        return forward_flops(row, step)
    pairs = attention_pairs(leaf, row.stream, step)
    return row.runs * halved_attention_flops(
        pairs.sequences,
        pairs.queries,
        pairs.past,
        leaf.num_heads,
        leaf.qk_head_dim,
        leaf.v_head_dim,
        pairs.keys - pairs.past,
    )


def masked_flops(row: Row, step: Step) -> Num:
    """FLOPs of one copy of a row that a causal mask keeps, windows included (convention ``masked``). [FLOP]"""
    leaf = row.leaf
    if not (isinstance(leaf, Attention) and (leaf.causal or leaf.window is not None)):
        return forward_flops(row, step)
    pairs = attention_pairs(leaf, row.stream, step)
    if leaf.window is not None and not leaf.causal:
        in_sequence = banded_pairs(pairs.queries, leaf.window)
    elif leaf.keys == "pooled":
        in_sequence = pooled_pairs(pairs.queries, step.past, leaf.pool, leaf.selected)
    elif leaf.chunked and leaf.window is not None:
        in_sequence = chunked_pairs(pairs.queries, step.past, leaf.window)
    else:
        kept_keys = leaf.window if leaf.selected is None else leaf.selected
        in_sequence = masked_pairs(pairs.queries, step.past, kept_keys)
    kept = pairs.sequences * in_sequence
    return row.runs * attention_flops(kept, leaf.num_heads, leaf.qk_head_dim, leaf.v_head_dim)


EXECUTED_CONVENTIONS: dict[str, Callable[[Row, Step], Num]] = {
    "matmul": forward_flops,
    "causal": causal_flops,
    "masked": masked_flops,
}
"""Conventions that count products one by one, by name."""

CONVENTIONS = {
    "matmul": "every matrix product that is executed, masked or not",
    "causal": "as matmul, but half of the score products among new tokens of causal attention",
    "masked": "as matmul, but only the score products that the causal mask and the windows keep",
    "6N": "2 forward and 6 in training per active parameter and token; no attention products",
    "palm": "as 6N, and 12 L H Q T in training for the attention products",
}
"""What each named convention counts; one multiply-add is 2 FLOPs in all of them."""


def products_in_backward(row: Row) -> int:
    """Matrix products in backward for one in forward, every parameter trained: the input's gradient and the weight's.

    What reads the sample itself needs no gradient of its input, and what only chooses has none at all.
    """
    if not row.backward:
        return 0
    if isinstance(row.leaf, (Convolution, Linear)):
        return 2 if row.leaf.input_needs_grad else 1
    return 1 if isinstance(row.leaf, Product) and row.leaf.constant else 2


def fused_backward_flops(row: Row, step: Step) -> Num:
    """Backward of one copy of a row where a fused attention kernel computes the scores again. [FLOP]"""
    leaf = row.leaf
    if not (isinstance(leaf, Attention) and row.backward and leaf.keys not in ("distances", "pairs")):
        return products_in_backward(row) * forward_flops(row, step)
    pairs = attention_pairs(leaf, row.stream, step)
    fused = fused_attention_backward_flops(pairs.executed, leaf.num_heads, leaf.qk_head_dim, leaf.v_head_dim)
    return row.runs * fused


def scan_flops(row: Row, step: Step) -> Num:
    """FLOPs of the recurrence of one copy of a row, which are no matrix products. [FLOP]"""
    leaf = row.leaf
    if not isinstance(leaf, Scan):
        return 0
    return row.runs * recurrence_flops(positions(row.stream, step), leaf.state_elements, leaf.flops_per_element)


def component(row: Row) -> str:
    """Component of a row in a FLOPs breakdown: its bucket, the attention products apart."""
    return f"{row.bucket}.{SCORES}" if isinstance(row.leaf, Attention) else row.bucket


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one step under one convention. [FLOP]

    Attributes
    ----------
    forward, backward : Num
        With every parameter trained, backward is about twice forward.
    """

    forward: Num
    backward: Num

    @property
    def training(self) -> Num:
        """Forward and backward. [FLOP]"""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        """Both together."""
        return Flops(self.forward + other.forward, self.backward + other.backward)


NOTHING = Flops(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """FLOPs of one step over the whole batch; one multiply-add is 2. [FLOP]

    Attributes
    ----------
    tokens : Num
        Positions that the step processes, over which figures per token are taken: new tokens, those of an encoder
        included, or the patches and class token of an image model. [token]
    conventions : dict of str to Flops
        By the names of `CONVENTIONS`.
    fused_backward : Num
        Backward under ``matmul``, with the scores that a fused attention kernel computes again.
    scans : Num
        Forward FLOPs of recurrences, which no convention counts as matrix products.
    components : dict of str to Flops
        ``matmul`` by component.
    """

    tokens: Num
    conventions: dict[str, Flops]
    fused_backward: Num
    scans: Num
    components: dict[str, Flops]


def compute(tree: Node, step: Step) -> Compute:
    """FLOPs of one step.

    Raises
    ------
    UnsupportedError
        A past is given to a model without causal attention, which keeps none.
    """
    rows = list(walk(tree))
    if not _is_generative(rows) and not all_true(step.past == 0):
        raise UnsupportedError("this model has no causal attention and so no past", key="past", hint="leave it at 0")
    executed = dict.fromkeys(EXECUTED_CONVENTIONS, NOTHING)
    components: dict[str, Flops] = {}
    fused_backward: Num = 0
    scans: Num = 0
    for row in rows:
        backward_products = products_in_backward(row)
        for name, flops_of in EXECUTED_CONVENTIONS.items():
            forward = row.copies * flops_of(row, step)
            flops = Flops(forward, backward_products * forward)
            executed[name] += flops
            if name == "matmul" and _multiplies(row.leaf):
                components[component(row)] = components.get(component(row), NOTHING) + flops
        fused_backward = fused_backward + row.copies * fused_backward_flops(row, step)
        scans = scans + row.copies * scan_flops(row, step)
    tokens = _tokens(rows, step)
    return Compute(
        tokens=tokens,
        conventions={**executed, **_rules_of_thumb(tree, rows, tokens, step)},
        fused_backward=fused_backward,
        scans=scans,
        components=components,
    )


def step_warnings(tree: Node, step: Step) -> list[str]:
    """What a single step asks of a model that the model cannot do, one line each."""
    lines = []
    for row in walk(tree):
        leaf = row.leaf
        if isinstance(leaf, Embedding) and row.bucket == POSITION_EMBEDDING and row.stream.kind == "tokens":
            length = step.past + step.sequence_length
            if not all_true(length <= leaf.num_embeddings):
                lines.append(
                    f"{length:,} tokens do not fit the table of {leaf.num_embeddings:,} positions ({row.path}): "
                    "the real model cannot run this step"
                )
    return lines


def _multiplies(leaf: Leaf) -> bool:
    return not isinstance(leaf, (Embedding, Norm, Parameter, Scan))


def _is_generative(rows: list[Row]) -> bool:
    return any(
        isinstance(row.leaf, Scan) or (isinstance(row.leaf, Attention) and row.leaf.causal and row.leaf.caches)
        for row in rows
    )


def _tokens(rows: list[Row], step: Step) -> Num:
    # Of layers and not of convolutions, which may see more positions than they hand on.
    of_layers = [row.stream for row in rows if isinstance(row.leaf, Attention)]
    if all(row.stream.kind != "tokens" for row in rows):
        longest: Num = 0
        for stream in of_layers:
            if stream.kind == "sample":
                longest = maximum(longest, stream.per_sample)
        return step.batch_size * longest
    encoders = [stream for stream in of_layers if stream.kind == "source"]
    return positions(TOKENS, step) + (positions(encoders[0], step) if encoders else 0)


def _rules_of_thumb(tree: Node, rows: list[Row], tokens: Num, step: Step) -> dict[str, Flops]:
    active = count(tree).active
    # In an encoder-decoder a token meets one half of the model, and the rule counts half of the parameters for it.
    halves = 2 if any(row.stream.kind == "source" for row in rows) else 1

    def by_parameters(flops_per_parameter: int) -> Num:
        return parameter_flops(active, tokens, flops_per_parameter) // halves

    def with_attention(flops_per_parameter: int) -> Num:
        flops = by_parameters(flops_per_parameter)
        for row in rows:
            if isinstance(row.leaf, Attention) and row.leaf.keys != "distances":
                # PaLM's context T knows no windows.
                pairs = attention_pairs(replace(row.leaf, window=None), row.stream, step)
                width = row.copies * row.runs * row.leaf.num_heads * row.leaf.qk_head_dim
                queries = pairs.sequences * pairs.queries
                flops = flops + palm_attention_flops(width, pairs.keys, queries, flops_per_parameter)
        return flops

    forward, training = FORWARD_FLOPS_PER_PARAMETER, TRAINING_FLOPS_PER_PARAMETER
    return {
        "6N": Flops(by_parameters(forward), by_parameters(training) - by_parameters(forward)),
        "palm": Flops(with_attention(forward), with_attention(training) - with_attention(forward)),
    }


def longest_sequence(tree: Node) -> Num:
    """Longest sequence that the table of positions holds; infinite where there is none. [token]"""
    longest: Num = float("inf")
    for row in walk(tree):
        if isinstance(row.leaf, Embedding) and row.bucket == POSITION_EMBEDDING and row.stream.kind == "tokens":
            longest = row.leaf.num_embeddings
    return longest
