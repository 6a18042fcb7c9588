"""Models of measured Megatron runs: GPT, BERT, T5 and hybrid stacks from the dimensions that a row states.

Megatron builds its own modules, so a model is what its arguments say, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from planner.catalog.models import catalog_models
from planner.errors import PlannerError
from planner.families.blocks import (
    attention,
    layer_norm,
    layer_stack,
    layers,
    linear,
    output_head,
    position_embedding,
    token_embedding,
)
from planner.nodes import SOURCE, Embedding, Module, Node, Repeat
from planner.validate.architecture import tree_of
from planner.validate.frameworks.megatron_blocks import (
    Dimensions,
    attention_of,
    block_of,
    dimensions,
    expert_layers,
    experts_of,
    mamba_of,
    mlp_of,
    whole,
)
from planner.validate.reading import Skipped


def tree_of_row(row: Mapping[str, Any]) -> Node:
    """Tree of a measured row's model.

    Raises
    ------
    Skipped
        Dimensions are missing, or the kind of model is not known.
    """
    model = row.get("model") or {}
    if model.get("hidden") is None:
        return tree_of({**model, **_known_name(str(model.get("name") or ""))})
    family = str(model.get("family") or "gpt")
    if family in ("mimo", "multimodal-llava"):
        raise Skipped("a model of text and images, whose vision tower the row does not describe")
    found = dimensions(row)
    pattern = hybrid_pattern(model)
    if pattern is not None:
        return hybrid_tree(found, pattern)
    if family == "bert":
        return bert_tree(found, _layers(model))
    if family == "t5":
        return t5_tree(found, whole(model, "encoder-num-layers", 12), whole(model, "decoder-num-layers", 12))
    return decoder_tree(found, _layers(model))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9.]+", text.lower()))


def _known_name(name: str) -> dict[str, str]:
    """Name under which the catalog knows a model, where one entry alone has all words of a name."""
    words = _words(name.split("(")[0])
    found = [known for known in (entry.id for entry in catalog_models()) if words and words <= _words(known)]
    return {"name": found[0]} if len(found) == 1 else {}


def hybrid_pattern(model: Mapping[str, Any]) -> str | None:
    """Kinds of layers, one letter each, pipeline stages and prediction layers set off by marks; None for one kind."""
    found = model.get("hybrid-layer-pattern") or model.get("hybrid-override-pattern")
    return str(found) if found else None


def _layers(model: Mapping[str, Any]) -> int:
    return whole(model, "layers")


def decoder_tree(found: Dimensions, count: int) -> Node:
    """GPT: dense blocks, or blocks with experts among them."""
    routed = expert_layers(found.moe, count)
    blocks = layer_stack(routed, lambda has_experts: block_of(found, routed=has_experts))
    return _language_model(found, blocks)


def _language_model(found: Dimensions, blocks: Node) -> Node:
    inside: dict[str, Node] = {"embed_tokens": token_embedding(found.vocab, found.hidden)}
    if found.positions:
        inside["embed_positions"] = position_embedding(found.positions, found.hidden)
    inside |= {"layers": blocks, "norm": found.norm()}
    if found.prediction_layers:
        inside["mtp"] = layers(_prediction(found), found.prediction_layers)
    tied = "model.embed_tokens" if found.tied else None
    return Module(children={"model": Module(children=inside), "lm_head": output_head(found.hidden, found.vocab, tied)})


def _prediction(found: Dimensions) -> Module:
    """A layer that predicts one token further: two norms, a matrix that joins what they yield, a block, a norm."""
    block = block_of(found, routed=bool(found.moe))
    return Module(
        children={
            "enorm": found.norm(),
            "hnorm": found.norm(),
            "eh_proj": linear(2 * found.hidden, found.hidden),
            **block.children,
            "final_layernorm": found.norm(),
        }
    )


def hybrid_tree(found: Dimensions, pattern: str) -> Node:
    """Layers of one norm and one mixer each."""
    main, *predictions = pattern.replace("|", "").split("/")
    blocks = layer_stack(list(main), lambda letter: _hybrid_layer(found, letter))
    tree = _language_model(found, blocks)
    if not predictions:
        return tree
    assert isinstance(tree, Module)  # noqa: S101 - made above
    model = tree.children["model"]
    assert isinstance(model, Module)  # noqa: S101 - made above
    joint = Module(
        children={
            "enorm": found.norm(),
            "hnorm": found.norm(),
            "eh_proj": linear(2 * found.hidden, found.hidden),
            **{f"layers_{at}": _hybrid_layer(found, letter) for at, letter in enumerate(predictions[0])},
            "final_layernorm": found.norm(),
        }
    )
    made = {**model.children, "mtp": Repeat(child=joint, count=len(predictions), indices=range(len(predictions)))}
    return Module(children={**tree.children, "model": Module(children=made)})


def _hybrid_layer(found: Dimensions, letter: str) -> Module:
    makers = {
        "M": lambda: mamba_of(found),
        "*": lambda: attention_of(found),
        "-": lambda: mlp_of(found),
        "E": lambda: experts_of(found),
    }
    if letter not in makers:
        raise Skipped(f"'{letter}' of the pattern of layers stands for no kind that is known")
    try:
        return Module(children={"norm": found.norm(), "mixer": makers[letter]()})
    except PlannerError as error:
        raise Skipped(str(error)) from None


def bert_tree(found: Dimensions, count: int) -> Node:
    """BERT: blocks with norms before their sublayers, a transform before the head, and a head for pairs of texts."""
    hidden = found.hidden
    block = Module(
        children={
            "self_attn": attention_of(found, causal=False),
            "mlp": mlp_of(found),
            "input_layernorm": found.norm(),
            "post_attention_layernorm": found.norm(),
        }
    )
    return Module(
        children={
            "embed_tokens": token_embedding(found.vocab, hidden),
            "embed_positions": position_embedding(found.positions, hidden),
            "embed_kinds": Embedding(num_embeddings=2, embedding_dim=hidden, bucket="embeddings.token_type"),
            "layers": layers(block, count),
            "norm": found.norm(),
            "transform": Module(children={"dense": linear(hidden, hidden, True)}, bucket="other.lm_head"),
            "transform_norm": layer_norm(hidden),
            "lm_head": output_head(hidden, found.vocab, "embed_tokens", True),
            "pooler": linear(hidden, hidden, True),
            "pair_head": linear(hidden, 2, True),
        }
    )


def t5_tree(found: Dimensions, encoder: int, decoder: int) -> Node:
    """T5 as Megatron builds it: learned positions, biases, LayerNorms."""
    hidden = found.hidden

    def self_attention(*, causal: bool) -> Module:
        return attention_of(found, causal=causal)

    cross = attention(
        hidden_size=hidden,
        num_heads=found.heads,
        num_kv_heads=found.kv_heads,
        head_dim=found.head_dim,
        causal=False,
        qkv_bias=found.bias,
        out_bias=found.bias,
        source_size=hidden,
    )
    norms: Sequence[str] = ("input_layernorm", "post_attention_layernorm")
    reader = Module(
        children={
            "self_attn": self_attention(causal=False),
            "mlp": mlp_of(found),
            **{at: found.norm() for at in norms},
        },
        stream=SOURCE,
    )
    writer = Module(
        children={
            "self_attn": self_attention(causal=True),
            "cross_attn": cross,
            "mlp": mlp_of(found),
            **{at: found.norm() for at in (*norms, "pre_cross_layernorm")},
        }
    )
    return Module(
        children={
            "embed_tokens": token_embedding(found.vocab, hidden),
            "embed_positions": position_embedding(found.positions or 512, hidden),
            "encoder": Module(children={"layers": layers(reader, encoder), "norm": found.norm()}, stream=SOURCE),
            "decoder": Module(children={"layers": layers(writer, decoder), "norm": found.norm()}),
            "lm_head": output_head(hidden, found.vocab, "embed_tokens", True),
        }
    )
