"""The nodes of a model's tree, and the walk over it: data only, no formula.

A tree is named like the torch module that it describes: joining the names from the root to a leaf with dots gives the
path of a module (`Linear`, `Embedding`, `Norm`, ...) or of a bare tensor (`Parameter`). So every number can be
compared path by path with the real model.

Dimensions are `planner.numeric.Num`: a number, a column, or a symbol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from planner.numeric import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Which positions pass through a module, which is what its FLOPs depend on.

    Attributes
    ----------
    kind : str
        ``tokens``: the new tokens of the main sequence; ``source``: the tokens of an encoder-decoder's encoder;
        ``cross``: those same tokens where a decoder turns them into keys and values, once a prompt;
        ``logits``: the positions whose logits are asked for; ``sample``: a number fixed by the config, such as the
        patches of a picture that is the whole input, or 1 for a pooler; ``image``: the same for each of the images
        that come with a text; ``illustrated``: the new tokens of samples that come with images, and none without;
        ``distances``: relative positions of tokens to each other, twice as many as tokens, once for the whole batch;
        ``context``: the new tokens and those in the cache.
    per_sample : Num
        Positions a sample or image, for ``sample`` and ``image``.
    fixed : Num, optional
        Positions of ``source``, ``cross`` or ``distances`` where the config sets them and not the step.
    at_most : Num, optional
        Bound of ``distances``.
    """

    kind: Literal["tokens", "source", "cross", "logits", "sample", "image", "illustrated", "distances", "context"]
    per_sample: Num = 1
    fixed: Num | None = None
    at_most: Num | None = None


TOKENS = Stream(kind="tokens")
SOURCE = Stream(kind="source")
CROSS = Stream(kind="cross")
CONTEXT = Stream(kind="context")
LOGITS = Stream(kind="logits")
ONCE = Stream(kind="sample", per_sample=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Matrix product with a weight, and a bias if there is one.

    `transposed` says that the weight is stored as (in, out), as GPT-2's Conv1D does, and not as torch's (out, in);
    `yields_logits` that it is the output matrix over the vocabulary; `weight_name` and `bias_name` are its tensors'
    names in the module. `blocks` says that the weight is block-diagonal, an output seeing only its block of the input,
    and is stored as (blocks, out / blocks, in / blocks), its bias as (blocks, out / blocks). `weight_shape` is how
    any other weight is stored that is no matrix. A `weight_name` of None stands for a weight that is part of a
    `Parameter` beside it. `input_needs_grad` is as for a `Convolution`. `expands_cache` says that the class of
    transformers caches the input and not the output, as MLA's latents, and so multiplies the whole past
    again at every step; engines fold the product into its neighbours, so only `planner verify` asks.
    """

    in_features: Num
    out_features: Num
    bias: bool = False
    transposed: bool = False
    yields_logits: bool = False
    blocks: Num | None = None
    weight_shape: tuple[Num, ...] | None = None
    weight_name: str | None = "weight"
    bias_name: str = "bias"
    input_needs_grad: bool = True
    expands_cache: bool = False
    bucket: str | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Table that is looked up, never multiplied."""

    num_embeddings: Num
    embedding_dim: Num
    bucket: str | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """LayerNorm (gain and bias) or RMSNorm (gain only)."""

    dim: Num
    bias: bool = False
    bucket: str | None = "norms"
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """Bare tensor that no product uses: a class token, sinks, a bias of its own.

    Where `experts` is given, it is stacked for so many routed experts, of which a token visits `top_k`.
    """

    shape: tuple[Num, ...]
    experts: Num | None = None
    top_k: Num | None = None
    bucket: str | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """Convolution over patches, frames or a sequence; its stream counts output positions.

    `groups` says that an output channel sees only its share of the input channels, one in a depthwise convolution.
    `input_needs_grad` is False where it reads the sample itself, so that backward has one product and not two.
    `caches` says that it is causal over tokens, so that its last inputs stay for later ones: one fewer than the kernel
    spans, or, where the class of transformers keeps more of them, `kept_by_class`.
    """

    in_channels: Num
    out_channels: Num
    kernel_size: tuple[Num, ...]
    groups: Num = 1
    bias: bool = True
    input_needs_grad: bool = True
    caches: bool = False
    kept_by_class: Num | None = None
    bucket: str | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Routed experts as fused tensors, one slice an expert; each token visits `top_k` of `num_experts`.

    `transposed` says that a slice is stored as (in, out). A gated expert has its gate and up matrices side by side,
    or, where `flat` names gate, up and down, three tensors of shape (experts * inner, hidden) as in DBRX.
    `visits_all` says that the class of transformers multiplies every token with every expert, with zeros for those
    that it is not routed to; the model and its engines do not, so only `planner verify` asks.
    """

    num_experts: Num
    top_k: Num
    hidden_size: Num
    intermediate_size: Num
    gated: bool = True
    bias: bool = False
    transposed: bool = False
    flat: tuple[str, str, str] | None = None
    visits_all: bool = False
    bucket: str | None = "experts.routed"
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """What one key leaves in the cache of an attention.

    Attributes
    ----------
    heads : Num
        Rows: one for each key/value head, or one that all heads share. [-]
    key_width, value_width : Num
        Numbers of a row that are the key, and that are the value: 0 where the value is the key or is made of it.
        In a latent cache, the latent and the part of the key that is rotated. [-]
    kind : str
        ``heads``: keys and values as they are multiplied; ``latent``: what they are made of, for all heads at once;
        ``indexer``: keys of an indexer, which only chooses.
    """

    heads: Num
    key_width: Num
    value_width: Num
    kind: Literal["heads", "latent", "indexer"] = "heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Scores and weighted sum: the two products that have no weights.

    Attributes
    ----------
    num_heads : Num
        Query heads. [-]
    qk_head_dim, v_head_dim : Num
        Width of a head's queries and keys, and of its values; they differ in MLA. [-]
    causal : bool
        A query sees itself and what came before.
    caches : bool
        Where it is causal, keys and values stay for later tokens; an encoder with a causal mask keeps none, and
        neither does a layer that looks at those of another.
    window : Num or None
        Keys that a query sees at most, itself included; on each of its sides where `causal` is False. [token]
    chunked : bool
        The window does not slide: the sequence is cut into pieces of `window` tokens, and a query sees its own piece.
    keys : str
        ``self``: the query's own stream and its past; ``source``: the encoder's tokens; ``image``: what the images of
        its sample yielded, or its own image where it is part of one; ``pairs``: one vector of every image of the
        batch, for one query a sample; ``pooled``: one key for each whole `pool` tokens of the query's own stream and
        its past; ``distances``: relative positions, for scores that are added to those of another attention.
    key_stream : Stream, optional
        Positions that are the keys, where `keys` is ``distances``, ``image`` (those of one image), or ``source`` with a
        length that the config sets.
    pool : Num
        Tokens that are pooled into one key, where `keys` is ``pooled``. [token]
    selected : Num or None
        Keys that an indexer leaves to a query at most; the others are multiplied and masked. [-]
    num_kv_heads : Num or None
        Key/value heads, which queries share in equal numbers; None for as many as query heads. [-]
    cached : Cached or None
        What stays of a key, where that is not a key and a value of each of those heads.
    cached_by_class : Cached or None
        The same in the class of transformers, where that keeps something else; only `planner verify` asks.
    class_keeps_all : bool
        The class of transformers keeps what lies before a window, and masks it; only `planner verify` asks.
    waiting, carried : Num
        Where `keys` is ``pooled``: numbers that a token leaves until its pool is whole; and those of a token in the
        last whole pool that stay for the next, with as many weights in fp32 beside them. [-]
    """

    num_heads: Num
    qk_head_dim: Num
    v_head_dim: Num
    causal: bool
    caches: bool = True
    window: Num | None = None
    chunked: bool = False
    keys: Literal["self", "source", "image", "pairs", "pooled", "distances"] = "self"
    key_stream: Stream | None = None
    pool: Num = 1
    selected: Num | None = None
    num_kv_heads: Num | None = None
    cached: Cached | None = None
    cached_by_class: Cached | None = None
    class_keeps_all: bool = False
    waiting: Num = 0
    carried: Num = 0
    bucket: str | None = "attention"
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """Matrix product of two activations at every position: (rows, inner) times (inner, columns), without weights.

    `constant` says that one of the two follows from positions alone, so that backward has one product and not two.
    """

    rows: Num
    inner: Num
    columns: Num
    constant: bool = False
    bucket: str | None = None
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """Recurrence over a sequence: state-space layers, linear attention, gated recurrences.

    It has no weights, and its FLOPs are no matrix products: they are counted apart. Implementations that compute it in
    chunks do multiply matrices, more of them the larger the chunk; none of that is the model's.

    Attributes
    ----------
    state_elements : Num
        Numbers in the recurrent state of one sequence. [-]
    flops_per_element : Num
        FLOPs that one token costs for each of them: 9 for Mamba's selective scan. [FLOP]
    shifted_elements : Num
        Numbers of the last token that stay beside the state, in the type of the activations, as in RWKV. [-]
    """

    state_elements: Num
    flops_per_element: Num
    shifted_elements: Num = 0
    bucket: str | None = "ssm"
    stream: Stream | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tied:
    """Module that runs with another module's weight and so holds none of its own.

    Attributes
    ----------
    module : Linear, Embedding or Norm
        What is executed.
    to : str
        Path of the module whose weight it shares.
    """

    module: Linear | Embedding | Norm
    to: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """Named children; a bucket or stream given here holds for every node below that does not give its own.

    A child named ``""`` belongs to the module itself: the products that its own `forward` makes.

    Attributes
    ----------
    children : mapping of str to Node
        In the order in which torch registers them. A name may contain dots.
    bucket : str, optional
        Component in the breakdown.
    stream : Stream, optional
        Positions that pass through.
    tower : str
        Prefix of the buckets below, such as ``vision``.
    runs : Num
        How often a forward pass runs the module with the same weights, as in ALBERT. [-]
    backward : bool
        False where no gradient of the model's loss flows through, as in an indexer, whose output only chooses.
    style : Style, optional
        How its class computes what is below.
    """

    children: Mapping[str, Node] = field(default_factory=dict)
    bucket: str | None = None
    stream: Stream | None = None
    tower: str = ""
    runs: Num = 1
    backward: bool = True
    style: Style | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """The same block several times, each copy with weights of its own.

    Attributes
    ----------
    child : Node
        One copy.
    count : Num
        Copies. [-]
    indices : sequence of int, optional
        Positions of the copies in the module list; None where `count` is a column or a symbol.
    """

    child: Node
    count: Num
    indices: tuple[int, ...] | range | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Blocks of several kinds in one module list, such as a few dense layers before those with experts.

    As a child named ``""`` it holds several products that the `forward` of one module makes.
    """

    parts: tuple[Node, ...]


Leaf: TypeAlias = Linear | Embedding | Norm | Parameter | Convolution | Experts | Attention | Product | Scan
Node: TypeAlias = Leaf | Tied | Module | Repeat | Stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One leaf of a tree, with everything that its place says about it.

    Attributes
    ----------
    path : str
        Dotted path; ``*`` stands for the index of a repeated block.
    leaf : Leaf
        The node.
    tied_to : str or None
        Path of the weight that it shares; None where it holds its own.
    copies : Num
        How often it stands in the model. [-]
    runs : Num
        How often a forward pass runs each copy. [-]
    indices : tuple
        For each ``*`` of the path, the indices that it takes; None where the number is a column or a symbol.
    bucket : str
        Component in the breakdown.
    stream : Stream
        Positions that pass through.
    backward : bool
        Whether gradients of the model's loss flow through it.
    """

    path: str
    leaf: Leaf
    tied_to: str | None
    copies: Num
    runs: Num
    indices: tuple[tuple[int, ...] | range | None, ...]
    bucket: str
    stream: Stream
    backward: bool = True

    def real_paths(self) -> Iterator[str]:
        """Path of each copy in the torch model, such as ``model.layers.3.self_attn.q_proj``."""
        paths = [""]
        for part, indices in zip(self.path.split("*"), (*self.indices, None), strict=True):
            paths = [prefix + part for prefix in paths]
            if indices is not None:
                paths = [f"{prefix}{index}" for prefix in paths for index in indices]
        yield from paths


def walk(tree: Node) -> Iterator[Row]:
    """Leaves of a tree in torch's order, repeated blocks once.

    Examples
    --------
    >>> block = Module(children={"up": Linear(in_features=4, out_features=8)}, bucket="mlp")
    >>> [row.path for row in walk(Module(children={"layers": Repeat(child=block, count=2, indices=range(2))}))]
    ['layers.*.up']
    """
    yield from _walk(tree, Place())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands in a tree, and what it inherits from those above it; see `Module` and `Row`."""

    path: str = ""
    copies: Num = 1
    runs: Num = 1
    indices: tuple[tuple[int, ...] | range | None, ...] = ()
    bucket: str = "other.misc"
    stream: Stream = TOKENS
    tower: str = ""
    backward: bool = True
    style: Style | None = None

    def join(self, name: str) -> str:
        """Path of a child."""
        return f"{self.path}.{name}" if self.path and name else self.path or name

    def child(self, name: str) -> Place:
        """Place of a child."""
        return replace(self, path=self.join(name))

    def inside(self, module: Module) -> Place:
        """Place of what a module holds."""
        return replace(
            self,
            bucket=module.bucket or self.bucket,
            stream=module.stream or self.stream,
            tower=self.tower + module.tower,
            runs=self.runs * module.runs,
            backward=self.backward and module.backward,
            style=module.style or self.style,
        )

    def repeated(self, block: Repeat) -> Place:
        """Place of any copy of a block."""
        return replace(
            self,
            path=self.join("*"),
            copies=self.copies * block.count,
            indices=(*self.indices, block.indices),
        )

    def row(self, node: Leaf | Tied) -> Row:
        """A leaf with everything that this place says about it."""
        leaf, tied_to = (node.module, node.to) if isinstance(node, Tied) else (node, None)
        bucket = leaf.bucket or self.bucket
        return Row(
            path=self.path,
            leaf=leaf,
            tied_to=tied_to,
            copies=self.copies,
            runs=self.runs,
            indices=self.indices,
            bucket=f"{self.tower}.{bucket}" if self.tower else bucket,
            stream=leaf.stream or self.stream,
            backward=self.backward,
        )


def _walk(node: Node, place: Place) -> Iterator[Row]:
    if isinstance(node, Module):
        inside = place.inside(node)
        for name, child in node.children.items():
            yield from _walk(child, inside.child(name))
    elif isinstance(node, Stack):
        for part in node.parts:
            yield from _walk(part, place)
    elif isinstance(node, Repeat):
        yield from _walk(node.child, place.repeated(node))
    else:
        yield place.row(node)
