"""Blocks that families share. They state modules and shapes, never a total."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from planner.nodes import (
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
    Tied,
)
from planner.numeric import Num

Kind = TypeVar("Kind")


def layers(child: Node, count: Num, start: int = 0) -> Repeat:
    """`count` copies of a block, the first at position `start` of the module list."""
    return Repeat(child=child, count=count, indices=range(start, start + count) if isinstance(count, int) else None)


def layer_stack(kinds: Sequence[Kind], block: Callable[[Kind], Node]) -> Stack | Repeat:
    """One block a layer, where layers differ by kind: equal layers are stated once.

    Parameters
    ----------
    kinds : sequence
        What the layer at each position is.
    block : callable
        Block of a kind.
    """
    positions: dict[Kind, list[int]] = {}
    for position, kind in enumerate(kinds):
        positions.setdefault(kind, []).append(position)
    parts = [Repeat(child=block(kind), count=len(at), indices=tuple(at)) for kind, at in positions.items()]
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
) -> Module:
    """Self-attention with separate projections and grouped key/value heads (MHA, GQA and MQA alike).

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
    """
    children: dict[str, Node] = {
        "q_proj": linear(hidden_size, num_heads * head_dim, qkv_bias),
        "k_proj": linear(hidden_size, num_kv_heads * head_dim, qkv_bias),
        "v_proj": linear(hidden_size, num_kv_heads * head_dim, qkv_bias),
        out_name: linear(num_heads * head_dim, hidden_size, out_bias),
    }
    if qk_norm:
        children |= {"q_norm": rms_norm(head_dim), "k_norm": rms_norm(head_dim)}
    if sinks:
        children["sinks"] = Parameter(shape=(num_heads,))
    children[""] = Attention(
        num_heads=num_heads, qk_head_dim=head_dim, v_head_dim=head_dim, causal=causal, window=window
    )
    return Module(children=children, bucket="attention")
