"""Blocks that families share. They state modules and shapes, never a total."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from planner.nodes import (
    CROSS,
    LOGITS,
    Attention,
    Embedding,
    Linear,
    Module,
    Node,
    Norm,
    Parameter,
    Repeat,
    Stack,
    Stream,
    Tied,
)
from planner.numeric import Num, is_column

Kind = TypeVar("Kind")


def layers(child: Node, count: Num, start: int = 0) -> Repeat:
    """`count` copies of a block, the first at position `start` of the module list."""
    return Repeat(child=child, count=count, indices=range(start, start + count) if isinstance(count, int) else None)


def stack(*parts: Repeat) -> Stack:
    """Blocks one kind after another; a kind that is known to have no copy is left out."""
    return Stack(parts=tuple(part for part in parts if not (isinstance(part.count, int) and part.count == 0)))


def _key(kind: object) -> Hashable:
    """Equal for equal kinds; a column, such as a window that is swept, is equal to itself only."""
    if isinstance(kind, tuple):
        return tuple(_key(part) for part in kind)
    return id(kind) if is_column(kind) else kind


def layer_stack(kinds: Sequence[Kind], block: Callable[[Kind], Node]) -> Stack | Repeat:
    """One block a layer, where layers differ by kind: equal layers are stated once.

    Parameters
    ----------
    kinds : sequence
        What the layer at each position is.
    block : callable
        Block of a kind.
    """
    positions: dict[Hashable, list[int]] = {}
    for position, kind in enumerate(kinds):
        positions.setdefault(_key(kind), []).append(position)
    parts = [Repeat(child=block(kinds[at[0]]), count=len(at), indices=tuple(at)) for at in positions.values()]
    return parts[0] if len(parts) == 1 else Stack(parts=tuple(parts))


def layer_norm(dim: Num) -> Norm:
    """Gain and bias."""
    return Norm(dim=dim, bias=True)


def rms_norm(dim: Num) -> Norm:
    """Gain only."""
    return Norm(dim=dim)


def linear(in_features: Num, out_features: Num, bias: bool = False) -> Linear:
    """Product with a weight of shape (out, in)."""
    return Linear(in_features=in_features, out_features=out_features, bias=bias)


def token_embedding(vocab_size: Num, hidden_size: Num) -> Embedding:
    """Input table, one row a token."""
    return Embedding(num_embeddings=vocab_size, embedding_dim=hidden_size, bucket="embeddings.token")


def position_embedding(positions: Num, hidden_size: Num) -> Embedding:
    """Learned absolute positions."""
    return Embedding(num_embeddings=positions, embedding_dim=hidden_size, bucket="embeddings.position")


def output_head(hidden_size: Num, vocab_size: Num, tied_to: str | None, bias: bool = False) -> Linear | Tied:
    """Product that yields the logits; where `tied_to` is a path, with that module's weight."""
    head = Linear(
        in_features=hidden_size,
        out_features=vocab_size,
        bias=bias,
        yields_logits=True,
        bucket="other.lm_head",
        stream=LOGITS,
    )
    return head if tied_to is None else Tied(module=head, to=tied_to)


def gated_mlp(hidden_size: Num, intermediate_size: Num, bias: bool = False, bucket: str = "mlp") -> Module:
    """SwiGLU or GeGLU: three matrices."""
    return Module(
        children={
            "gate_proj": linear(hidden_size, intermediate_size, bias),
            "up_proj": linear(hidden_size, intermediate_size, bias),
            "down_proj": linear(intermediate_size, hidden_size, bias),
        },
        bucket=bucket,
    )


def fused_gated_mlp(hidden_size: Num, intermediate_size: Num) -> Module:
    """Gated MLP whose gate and up matrices are one."""
    return Module(
        children={
            "gate_up_proj": linear(hidden_size, 2 * intermediate_size),
            "down_proj": linear(intermediate_size, hidden_size),
        },
        bucket="mlp",
    )


def plain_mlp(
    hidden_size: Num,
    intermediate_size: Num,
    up: str = "fc1",
    down: str = "fc2",
    *,
    bias: bool = True,
    bucket: str = "mlp",
) -> Module:
    """Two matrices with an activation between them, named as the class names them."""
    return Module(
        children={up: linear(hidden_size, intermediate_size, bias), down: linear(intermediate_size, hidden_size, bias)},
        bucket=bucket,
    )


def fused_attention(
    *,
    hidden_size: Num,
    num_heads: Num,
    num_kv_heads: Num,
    head_dim: Num,
    qkv_name: str,
    out_name: str,
    bias: bool = False,
    out_bias: bool | None = None,
    window: Num | None = None,
    causal: bool = True,
) -> Module:
    """Self-attention whose query, key and value matrices are one.

    Parameters
    ----------
    hidden_size, num_heads, num_kv_heads, head_dim : Num
        As for `attention`.
    qkv_name, out_name : str
        What the class calls its two projections.
    bias : bool
        Whether they have one.
    out_bias : bool, optional
        Whether the second has one, where that differs.
    window : Num, optional
        Keys that a query sees at most. [token]
    causal : bool
        Decoder attention.
    """
    return Module(
        children={
            qkv_name: linear(hidden_size, (num_heads + 2 * num_kv_heads) * head_dim, bias),
            out_name: linear(num_heads * head_dim, hidden_size, bias if out_bias is None else out_bias),
            "": Attention(
                num_heads=num_heads,
                num_kv_heads=num_kv_heads,
                qk_head_dim=head_dim,
                v_head_dim=head_dim,
                causal=causal,
                window=window,
            ),
        },
        bucket="attention",
    )


def with_children(module: Module, children: Mapping[str, Node]) -> Module:
    """Same module with more in it."""
    return replace(module, children={**module.children, **children})


def attention(
    *,
    hidden_size: Num,
    num_heads: Num,
    num_kv_heads: Num,
    head_dim: Num,
    causal: bool,
    qkv_bias: bool = False,
    out_bias: bool = False,
    window: Num | None = None,
    qk_norm: bool = False,
    sinks: bool = False,
    out_name: str = "o_proj",
    k_bias: bool | None = None,
    source_size: Num | None = None,
    source: Stream = CROSS,
) -> Module:
    """Attention with separate projections and grouped key/value heads (MHA, GQA and MQA alike).

    Parameters
    ----------
    hidden_size, num_heads, num_kv_heads, head_dim : Num
        `num_heads * head_dim` need not equal `hidden_size`.
    causal : bool
        Decoder attention.
    qkv_bias, out_bias : bool
        Which projections have a bias.
    window : Num, optional
        Keys that a query sees at most. [token]
    qk_norm : bool
        RMSNorm over each head's queries and keys.
    sinks : bool
        One learned logit a head.
    out_name : str
        What the class calls its output projection.
    k_bias : bool, optional
        Whether the key projection has a bias, where that differs from the other two.
    source_size : Num, optional
        Width of the encoder's tokens, where they yield keys and values; a query then sees all of them.
    source : Stream
        Those tokens.
    """
    cross = source_size is not None
    bucket = "attention.cross" if cross else "attention"

    def to_keys(bias: bool) -> Linear:
        return Linear(
            in_features=hidden_size if source_size is None else source_size,
            out_features=num_kv_heads * head_dim,
            bias=bias,
            stream=source if cross else None,
        )

    children: dict[str, Node] = {
        "q_proj": linear(hidden_size, num_heads * head_dim, qkv_bias),
        "k_proj": to_keys(qkv_bias if k_bias is None else k_bias),
        "v_proj": to_keys(qkv_bias),
        out_name: linear(num_heads * head_dim, hidden_size, out_bias),
    }
    if qk_norm:
        children |= {"q_norm": rms_norm(head_dim), "k_norm": rms_norm(head_dim)}
    if sinks:
        children["sinks"] = Parameter(shape=(num_heads,))
    children[""] = Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        qk_head_dim=head_dim,
        v_head_dim=head_dim,
        causal=causal,
        window=window,
        keys="source" if cross else "self",
        key_stream=source if cross and source.fixed is not None else None,
        bucket=bucket,
    )
    return Module(children=children, bucket=bucket)
