"""The kinds of nodes: data only, no formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from planner.nodes.style import Style
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
