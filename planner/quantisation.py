"""Which dtype a format gives to each tensor of a model: the fold that joins trees with the rules of `planner.formats`.

A tensor has labels, by its place in the tree and the name of its module; the first rule of the format that is about
one of them, whose condition holds, decides, for all layers or for those that the rule names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, assert_never

from planner.counts import Matrices, Tensor, held_tensors, tensors
from planner.formats import Dtype, Label, LayerRule, Rule, WeightFormat, find_dtype
from planner.formulas.memory import (
    grouped_blocks,
    layers_between_below,
    layers_with_more_bits_below,
    nested_scale_bytes,
    packed_bytes,
)
from planner.nodes import Attention, Convolution, Embedding, Experts, Linear, Module, Node, Repeat, Row, Stack, walk
from planner.numeric import Num, all_true, ceil_div, exact_quotient, where


@dataclass(frozen=True, slots=True)
class Stored:
    """Size of something as stored.

    Attributes
    ----------
    codes, scales : Num
        Its elements, and what stands beside them: scales, zero points, code books. [B]
    """

    codes: Num
    scales: Num

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.codes + other.codes, self.scales + other.scales)

    def times(self, count: Num) -> Stored:
        """Size of `count` of them."""
        return Stored(count * self.codes, count * self.scales)


NOTHING = Stored(0, 0)


def stored_weights(tree: Node, weights: WeightFormat) -> Stored:
    """Size of all weights of a tree in a format."""
    outline = outline_of(tree)
    total = NOTHING
    for row, span in zip(walk(tree), spans(tree), strict=True):
        for tensor in held_tensors(row):
            held = labels(row, tensor, outline)
            rules = [rule for rule in weights.rules if rule.tensors in held]
            total = total + _Placing(tensor, row, span, outline).stored(rules, row.copies)
    return total


def chosen_dtypes(
    row: Row,
    tensor: Tensor,
    span: Span | None,
    outline: Outline,
    weights: WeightFormat,
    layers: Collection[int] | None = None,
) -> Iterator[tuple[Dtype, Num]]:
    """Dtypes of the copies of one tensor, and how many copies have each; what no rule is about is not yielded.

    Parameters
    ----------
    row, tensor : Row, Tensor
        Place and undivided shape.
    span, outline : Span or None, Outline
        Of the row, see `spans`, and of the tree.
    weights : WeightFormat
        The format.
    layers : collection of int, optional
        Layers that a pipeline stage holds; all where it is left out.
    """
    held = labels(row, tensor, outline)
    here = span if span is None or layers is None else span.within(layers)
    copies = row.copies if here is None or span is None else here.count * exact_quotient(row.copies, span.count)
    placing = _Placing(tensor, row, here, outline)
    for rule in weights.rules:
        if rule.tensors not in held or (rule.when and not all_true(placing.holds(rule))):
            continue
        if not rule.layers:
            yield rule.dtype, copies
            return
        if here is not None and span is not None:
            chosen = here.chosen(rule.layers) * exact_quotient(row.copies, span.count)
            yield rule.dtype, chosen
            copies = copies - chosen


def is_exact(tree: Node, weights: WeightFormat) -> bool:
    """Whether the format's rules are known to hold for the tree.

    llama.cpp counts layers by the tensors that it meets. Where some layers have no attention, where there is more than
    one list of layers, or where a layer has shared experts beside routed ones, its count need not be ours. It also
    has exceptions for Falcon, which the catalog leaves out.
    """
    outline = outline_of(tree)
    if outline.like_falcon and any(rule.tensors == "head" for rule in weights.rules):
        return False
    if outline.shared_experts and "first 8th met" in weights.layer_rules:
        return False
    return not weights.layer_rules or (outline.lists == 1 and all_true(outline.attention_layers == outline.layers))


@dataclass(frozen=True, slots=True)
class Span:
    """Layers that a row stands for.

    Attributes
    ----------
    runs : tuple of (Num, Num)
        First layer of each run of layers, and the one after its last. [-]
    layers : Num
        Layers of the whole module list. [-]
    """

    runs: tuple[tuple[Num, Num], ...]
    layers: Num

    @property
    def count(self) -> Num:
        """Layers that the row stands for. [-]"""
        total: Num = 0
        for first, after in self.runs:
            total = total + (after - first)
        return total

    def within(self, layers: Collection[int]) -> Span:
        """Those of the layers that are among some others, as on a pipeline stage."""
        runs = [
            (index, index + 1)
            for first, after in self.runs
            for index in range(int(first), int(after))
            if index in layers
        ]
        return Span(tuple(runs), self.layers)

    def chosen(self, rule: LayerRule) -> Num:
        """Those of them that a rule is about. [-]"""
        total: Num = 0
        for first, after in self.runs:
            total = total + layers_chosen_below(rule, after, self.layers)
            total = total - layers_chosen_below(rule, first, self.layers)
        return total


def layers_chosen_below(rule: LayerRule, layer: Num, layers: Num) -> Num:
    """Layers that a rule is about, among the first `layer` of a model with `layers`. [-]

    Examples
    --------
    >>> [layers_chosen_below(rule, 32, 32) for rule in ("first 8th", "first 2", "inner", "middle", "more bits")]
    [4, 2, 30, 24, 16]
    """
    match rule:
        case "":
            return layer
        case "first 2":
            return layers_between_below(layer, 0, 2)
        case "first 4":
            return layers_between_below(layer, 0, 4)
        case "first 8th" | "first 8th met":
            return layers_between_below(layer, 0, layers // 8)
        case "first 16th":
            return layers_between_below(layer, 0, layers // 16)
        case "middle":
            return layers_between_below(layer, layers // 8, 7 * layers // 8)
        case "inner":
            return layers_between_below(layer, 1, layers - 1)
        case "more bits":
            return layers_with_more_bits_below(layer, layers)
        case _:
            assert_never(rule)


def spans(node: Node, inside: Span | None = None) -> Iterator[Span | None]:
    """Layers of every row of a tree, in the order of `walk`; None outside of a list of layers."""
    if isinstance(node, Module):
        for child in node.children.values():
            yield from spans(child, inside)
    elif isinstance(node, Stack):
        layers: Num = 0
        for part in node.parts:
            layers = layers + (part.count if isinstance(part, Repeat) else 0)
        start: Num = 0
        for part in node.parts:
            if isinstance(part, Repeat):
                yield from spans(part.child, inside or Span(_runs(part, start), layers))
                start = start + part.count
            else:
                yield from spans(part, inside)
    elif isinstance(node, Repeat):
        yield from spans(node.child, inside or Span(_runs(node, 0), node.count))
    else:
        yield inside


def _runs(part: Repeat, start: Num) -> tuple[tuple[Num, Num], ...]:
    """Runs of neighbouring layers; where the number is a column, the parts of a list follow one another."""
    if part.indices is None:
        return ((start, start + part.count),)
    if isinstance(part.indices, range):
        return ((part.indices.start, part.indices.stop),)
    runs: list[tuple[int, int]] = []
    for index in part.indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return tuple(runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What rules ask about a model.

    Attributes
    ----------
    layers, attention_layers : Num
        Layers of its list, and those that have attention. [-]
    lists : int
        Lists of layers, towers not counted. [-]
    experts : Num
        Routed experts of a layer; 0 where there are none. [-]
    shared_experts : bool
        Whether some see every token beside them.
    query_groups : Num
        Query heads for each key/value head; 1 where it has no attention. [-]
    heads, value_width : Num
        Query heads, and the width of a head's values. [-]
    tied : frozenset of str
        Paths of tables that are the output head as well.
    like_falcon : bool
        Whether its modules have Falcon's names, which BLOOM shares.
    """

    layers: Num
    attention_layers: Num
    lists: int
    experts: Num
    shared_experts: bool
    query_groups: Num
    heads: Num
    value_width: Num
    tied: frozenset[str]
    like_falcon: bool


def outline_of(tree: Node) -> Outline:
    """Outline of a tree; heads are those of the first attention, as in llama.cpp."""
    experts: Num = 0
    attention_layers: Num = 0
    layers: dict[str, Num] = {}
    first: Attention | None = None
    values: Linear | None = None
    shared = like_falcon = False
    tied = set()
    for row, span in zip(walk(tree), spans(tree), strict=True):
        if isinstance(row.leaf, Linear) and row.leaf.yields_logits and row.tied_to is not None:
            tied.add(row.tied_to)
        if _is_tower(row):
            continue
        if span is not None:
            layers[row.path.partition("*")[0]] = span.layers
        shared = shared or row.bucket == "experts.shared"
        like_falcon = like_falcon or row.path.endswith(".self_attention.query_key_value")
        if isinstance(row.leaf, Experts) and isinstance(experts, int) and experts == 0:
            experts = row.leaf.num_experts
        if isinstance(row.leaf, Linear) and row.bucket.startswith("attention"):
            name = _name(row)
            if name in VALUES or name in FUSED or name in LATENT:
                attention_layers = attention_layers + row.copies
                values = values or row.leaf
        if isinstance(row.leaf, Attention) and row.leaf.keys == "self":
            first = first or row.leaf
    heads, width, groups = _heads(first, values)
    return Outline(
        layers=next(iter(layers.values()), 0),
        attention_layers=attention_layers,
        lists=len(layers),
        experts=experts,
        shared_experts=shared,
        query_groups=groups,
        heads=heads,
        value_width=width,
        tied=frozenset(tied),
        like_falcon=like_falcon,
    )


def _heads(attention: Attention | None, values: Linear | None) -> tuple[Num, Num, Num]:
    """Query heads, width of a value, and query heads for each key/value head."""
    if attention is None or values is None:
        return 1, 1, 1
    heads, width = attention.num_heads, attention.v_head_dim
    queries = heads * attention.qk_head_dim
    # A matrix of values is as wide as the key/value heads; one for all three has the queries, then keys and values.
    separate = values.out_features
    fused = (values.out_features - queries) // 2
    key_heads = where(values.out_features > queries, fused, separate) // width
    return heads, width, heads // where(key_heads > 0, key_heads, 1)


def labels(row: Row, tensor: Tensor, outline: Outline) -> frozenset[Label]:
    """What rules may call a tensor."""
    matrix = tensor.matrices is not None
    if _is_tower(row):
        return frozenset(("all", "tower", "tower matrix") if matrix else ("all", "tower"))
    leaf = row.leaf
    if isinstance(leaf, Embedding):
        if not row.bucket.endswith("embeddings.token"):
            return frozenset(("all", "table"))
        return frozenset(("all", "embedding", "tied") if row.path in outline.tied else ("all", "embedding"))
    if isinstance(leaf, Convolution):
        return frozenset(("all", "convolution"))
    if not matrix:
        return frozenset(("all", "vector"))
    if isinstance(leaf, Linear) and leaf.yields_logits:
        return frozenset(("all", "head"))
    if row.bucket == "router" or _name(row) == "shared_expert_gate":
        return frozenset(("all", "router"))
    if row.bucket.startswith("other."):
        return frozenset(("all",))
    return frozenset(("all", "matrix", *_kind(row), *_function(row, tensor)))


def _is_tower(row: Row) -> bool:
    return row.bucket.startswith(("vision.", "audio.", "projector"))


def _name(row: Row) -> str:
    return row.path.rpartition(".")[2]


QUERIES = frozenset({"q", "q_lin", "q_proj", "query", "wq"})
KEYS = frozenset({"k", "k_lin", "k_proj", "key", "wk"})
VALUES = frozenset({"v", "v_lin", "v_proj", "value", "wv"})
FUSED = frozenset({"W_pack", "Wqkv", "c_attn", "qkv", "qkv_proj", "query_key_value", "wqkv"})
LATENT = frozenset({"kv_b_proj"})
OUTPUTS = frozenset({"Wo", "attn_out", "c_proj", "dense", "o", "o_proj", "out_lin", "out_proj", "wo"})
DOWNS = frozenset(
    {"Wo", "c_proj", "dense_4h_to_h", "down_proj", "fc2", "fc_out", "ffn_output", "ff_out", "lin2", "w2", "wo"}
)
"""Names that classes give to their projections, by what llama.cpp calls them (gguf-py/gguf/tensor_mapping.py)."""


def _kind(row: Row) -> tuple[Label, ...]:
    if isinstance(row.leaf, Experts):
        return "mlp", "experts"
    if row.bucket == "experts.shared":
        return "mlp", "shared"
    if row.bucket == "mlp":
        return ("mlp",)
    return ("attention",) if row.bucket.startswith("attention") else ()


def _function(row: Row, tensor: Tensor) -> tuple[Label, ...]:
    name = _name(row)
    if isinstance(row.leaf, Experts):
        return ("down",) if tensor.name == _last_matrix(row) else ("up",)
    if row.bucket.startswith("attention"):
        for names, label in _ATTENTION:
            if name in names:
                return (label,)
        return ()
    if row.bucket in ("mlp", "experts.shared"):
        # BERT calls both of its matrices dense, the second one inside a module called output.
        return ("down",) if name in DOWNS or row.path.endswith("output.dense") else ("up",)
    return ()


_ATTENTION: tuple[tuple[frozenset[str], Label], ...] = (
    (QUERIES, "query"),
    (KEYS, "key"),
    (VALUES | FUSED, "value"),
    (LATENT, "latent"),
    (OUTPUTS, "output"),
)


def _last_matrix(row: Row) -> str:
    return [tensor.name for tensor in tensors(row.leaf) if tensor.matrices is not None][-1]


@dataclass(frozen=True, slots=True)
class _Placing:
    """A tensor in its place, which is what the conditions of rules ask about."""

    tensor: Tensor
    row: Row
    span: Span | None
    outline: Outline

    def stored(self, rules: list[Rule], copies: Num) -> Stored:
        """Size of `copies` of the tensor; rules about some layers name none that an earlier one named."""
        rule, *others = rules
        each = self.as_dtype(rule.dtype)
        if not rule.layers:
            here = each.times(copies)
        elif self.span is None:
            return self.stored(others, copies)
        else:
            # A layer may hold several copies, as where its experts are modules of their own.
            chosen = self.span.chosen(rule.layers) * (self.row.copies // self.span.count)
            here = each.times(chosen) + self.stored(others, copies - chosen)
        if not rule.when:
            return here
        return _either(self.holds(rule), here, self.stored(others, copies))

    def as_dtype(self, dtype: Dtype) -> Stored:
        """Size of one copy in a dtype."""
        total = NOTHING
        for part in self._parts(dtype):
            total = total + stored_matrices(part, dtype)
        return total

    def _parts(self, dtype: Dtype) -> tuple[Matrices, ...]:
        """The tensor as matrices; GGUF holds what a latent turns into keys and into values apart, keys transposed."""
        matrices = self.tensor.matrices
        if matrices is None:
            width = self.tensor.shape[-1] if self.tensor.shape else 1
            return (Matrices(1, self.tensor.numel // width, width),)
        if dtype.fallback is None or _name(self.row) not in LATENT:
            return (matrices,)
        heads, values = self.outline.heads, self.outline.value_width
        keys = matrices.out_features // heads - values
        return Matrices(heads, matrices.in_features, keys), Matrices(heads, values, matrices.in_features)

    def holds(self, rule: Rule) -> Any:
        """Whether the condition of a rule is met."""
        outline = self.outline
        match rule.when:
            case "":
                return True
            case "70b":
                # The two families with 80 layers and shared key/value heads: Llama 2 to 3 and Qwen2.
                return (outline.layers == 80) & (outline.query_groups > 1)
            case "gqa>=4":
                return outline.query_groups >= 4
            case "experts=8":
                return outline.experts == 8
            case "experts!=8":
                return outline.experts != 8
            case "experts>=4":
                return outline.experts >= 4
            case "ragged":
                return self.tensor.shape[-1] % 256 != 0
            case _:
                assert_never(rule.when)


def stored_matrices(matrices: Matrices, dtype: Dtype) -> Stored:
    """Size of a tensor in a dtype, or in the one that it falls back to where its rows do not fill blocks."""
    elements = matrices.count * matrices.out_features * matrices.in_features
    own = Stored(packed_bytes(elements, dtype.code_bits, dtype.code_elements), _scale_bytes(matrices, elements, dtype))
    if dtype.fallback is None:
        return own
    return _either(
        matrices.in_features % dtype.block_elements == 0, own, stored_matrices(matrices, find_dtype(dtype.fallback))
    )


def _scale_bytes(matrices: Matrices, elements: Num, dtype: Dtype) -> Num:
    blocks = _blocks(matrices, elements, dtype)
    each = packed_bytes(matrices.count * dtype.matrix_bits, 1)
    order = packed_bytes(matrices.count * matrices.in_features, dtype.input_bits)
    zeros = packed_bytes(blocks, dtype.zero_bits)
    if dtype.nested_block:
        return (
            nested_scale_bytes(blocks, dtype.scale_bits, dtype.nested_block, dtype.nested_scale_bits)
            + zeros
            + each
            + order
        )
    return packed_bytes(blocks, dtype.scale_bits) + zeros + each + order


def _blocks(matrices: Matrices, elements: Num, dtype: Dtype) -> Num:
    match dtype.blocks:
        case "none":
            return 0
        case "tensor":
            return matrices.count
        case "channel":
            return matrices.count * matrices.out_features
        case "group":
            return grouped_blocks(
                matrices.count,
                matrices.out_features,
                matrices.in_features,
                dtype.block_elements,
                dtype.block_rows,
            )
        case "flat":
            return ceil_div(elements, dtype.block_elements)
        case _:
            assert_never(dtype.blocks)


def _either(condition: Any, first: Stored, second: Stored) -> Stored:
    return Stored(where(condition, first.codes, second.codes), where(condition, first.scales, second.scales))
