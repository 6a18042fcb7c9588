"""A tree from a torch module: what is counted where no builder knows the architecture, or a user brings a module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from planner.counts import held_tensors
from planner.nodes import (
    LOGITS,
    Convolution,
    Embedding,
    Experts,
    Leaf,
    Linear,
    Module,
    Node,
    Norm,
    Parameter,
    Repeat,
    Stack,
    Tied,
    walk,
)

EXPERT_KEYS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
    "moe_num_routed_experts",
    "num_local_routed_experts",
    "ffn_config.moe_num_experts",
)
"""What configs call the number of routed experts."""

TOP_K_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "num_selected_experts",
    "num_experts_per_topk",
    "moe_num_experts_per_tok",
    "num_activated_experts",
    "moe_k",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
    "top_k",
    "ffn_config.moe_top_k",
)
"""What configs call the number of experts that a token visits."""

BUCKETS: tuple[tuple[str, str], ...] = (
    (r"shared_expert", "experts.shared"),
    (r"(^|[._])(router|gate)$", "router"),
    (r"experts", "experts.routed"),
    (r"(crossattention|cross_attn|encoder_attn|encdecattention)", "attention.cross"),
    (r"(attn|attention)", "attention"),
    (r"(mamba|mixer|ssm|recurrent|linear_attn|time_mix|conv1d|conv_1d)", "ssm"),
    (r"(mlp|ffn|feed_forward|feedforward|fc\d|intermediate|\bwi|\bwo|w[123]\b|output\.dense)", "mlp"),
    (r"pooler", "other.pooler"),
    (r"(classifier|score|qa_outputs|lm_head|predictions|head)", "other.lm_head"),
)
"""Component by the first pattern that a module's path fits, in lower case."""

TOWERS = ((r"(^|\.)(vision|visual|image)[_a-z]*\.", "vision."), (r"(^|\.)(audio|speech)[_a-z]*\.", "audio."))
PROJECTOR = r"(projector|connector|merger|aligner|multi_modal|mm_)"


def module_tree(model: nn.Module, config: Mapping[str, Any] | None = None) -> Node:
    """Tree of a torch module, leaf by leaf; equal layers of a module list stand once.

    Parameters
    ----------
    model : nn.Module
        On any device; ``meta`` will do.
    config : mapping, optional
        Keys of its config, which say how many experts a token visits.

    Returns
    -------
    Node
        Its parameters are the module's, path by path, each shared one once. Products that have no weights, such as
        attention's, are not in it.
    """
    placed = list(_leaves(model, _Hints(model, config or {})))
    return Module(children=_folded(placed))


class _Hints:
    """What the module and its config say beyond shapes."""

    def __init__(self, model: nn.Module, config: Mapping[str, Any]) -> None:
        self.experts, self.top_k = routing(config)
        self.input_table = _accessor(model, "get_input_embeddings")
        self.output_head = _accessor(model, "get_output_embeddings")


def routing(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Routed experts of a layer, and how many of them a token visits; None where no key says so."""
    return _first(config, EXPERT_KEYS), _first(config, TOP_K_KEYS)


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for part in (config, config.get("text_config") or {}):
        for key in keys:
            value: Any = part
            for name in key.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def _accessor(model: nn.Module, name: str) -> nn.Module | None:
    try:
        found = getattr(model, name)()
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return found if isinstance(found, nn.Module) else None


EXPERT = re.compile(r"^(.*\bexperts)\.(?:expert_)?\d+\.(.*)$")
"""Path of a module of one expert among others in a list."""


def _leaves(model: nn.Module, hints: _Hints) -> Iterator[tuple[str, Node]]:
    """Path and node of everything that holds parameters, in torch's order; experts of a list at the end, stacked."""
    owners: dict[nn.Parameter, str] = {}
    listed: dict[tuple[str, tuple[int, ...]], int] = {}
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        if not own:
            continue
        expert = EXPERT.match(path) if hints.experts and hints.top_k else None
        if expert is not None:
            for name, parameter in own.items():
                key = (_join(_join(expert[1], expert[2]), name), tuple(parameter.shape))
                listed[key] = listed.get(key, 0) + 1
            continue
        shared = {name: owners[parameter] for name, parameter in own.items() if parameter in owners}
        bucket = _bucket(path, module, hints)
        leaf = _typed(module, own, bucket, hints)
        if leaf is not None and not shared:
            yield path, leaf
        elif isinstance(leaf, (Linear, Embedding)) and "weight" in shared:
            # A bias that is not shared is held beside the shared weight.
            runs = replace(leaf, bias="bias" in own and "bias" not in shared) if isinstance(leaf, Linear) else leaf
            yield path, Tied(module=runs, to=shared["weight"].rpartition(".")[0])
        else:
            for name, parameter in own.items():
                if name not in shared:
                    yield _join(path, name), _bare(tuple(parameter.shape), bucket, hints)
        for name, parameter in own.items():
            owners.setdefault(parameter, _join(path, name))
    for (path, shape), count in listed.items():
        complete = count == hints.experts
        yield (
            path,
            Parameter(
                shape=(count, *shape),
                bucket="experts.routed",
                experts=count if complete else None,
                top_k=hints.top_k if complete else None,
            ),
        )


def _typed(module: Any, own: Mapping[str, nn.Parameter], bucket: str, hints: _Hints) -> Leaf | None:
    """Leaf of a module of a known kind whose tensors are exactly the leaf's; None for all others."""
    shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
    leaf = _guess(module, shapes, bucket, hints)
    if leaf is None:
        return None
    (row,) = walk(leaf)
    stated = {tensor.name: tensor.shape for tensor in held_tensors(row)}
    return leaf if stated == shapes else None


def _guess(module: Any, shapes: Mapping[str, tuple[int, ...]], bucket: str, hints: _Hints) -> Leaf | None:
    bias = "bias" in shapes
    weight = shapes.get("weight", ())
    if isinstance(module, nn.Embedding):
        return Embedding(num_embeddings=weight[0], embedding_dim=weight[1], bucket=bucket)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return Convolution(
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            kernel_size=tuple(module.kernel_size),
            groups=module.groups,
            bias=bias,
            bucket=bucket,
        )
    if hints.top_k and shapes.keys() >= {"down_proj"} and len(shapes["down_proj"]) == 3:
        return _experts(shapes, hints.top_k)
    if len(weight) == 2:
        transposed = type(module).__name__ == "Conv1D"
        out_features, in_features = weight[::-1] if transposed else weight
        is_head = module is hints.output_head
        return Linear(
            in_features=in_features,
            out_features=out_features,
            bias=bias,
            transposed=transposed,
            yields_logits=is_head,
            bucket=bucket,
            stream=LOGITS if is_head else None,
        )
    if len(weight) == 1 and "norm" in type(module).__name__.lower():
        return Norm(dim=weight[0], bias=bias, bucket=bucket)
    return None


def _experts(shapes: Mapping[str, tuple[int, ...]], top_k: int) -> Experts | None:
    gated = "gate_up_proj" in shapes
    first = shapes.get("gate_up_proj" if gated else "up_proj")
    if first is None:
        return None
    count, rows, columns = shapes["down_proj"]
    inner = first[1] if first[2] == rows else first[2]
    # down is (hidden, intermediate), or the other way round where weights are stored as (in, out)
    transposed = first[1] != inner
    hidden, intermediate = (columns, rows) if transposed else (rows, columns)
    return Experts(
        num_experts=count,
        top_k=top_k,
        hidden_size=hidden,
        intermediate_size=intermediate,
        gated=gated,
        bias=f"{'gate_up_proj' if gated else 'up_proj'}_bias" in shapes,
        transposed=transposed,
    )


def _bare(shape: tuple[int, ...], bucket: str, hints: _Hints) -> Parameter:
    stacked = len(shape) == 3 or bucket == "experts.routed"
    if hints.top_k is None or hints.experts is None or not stacked or shape[0] != hints.experts:
        return Parameter(shape=shape, bucket=bucket)
    return Parameter(shape=shape, bucket="experts.routed", experts=hints.experts, top_k=hints.top_k)


def _bucket(path: str, module: nn.Module, hints: _Hints) -> str:
    lower = path.lower()
    if re.search(PROJECTOR, lower):
        return "projector"
    tower = next((name for pattern, name in TOWERS if re.search(pattern, f"{lower}.")), "")
    return tower + _component(lower, module, hints)


def _component(path: str, module: nn.Module, hints: _Hints) -> str:
    if module is hints.input_table:
        return "embeddings.token"
    if module is hints.output_head:
        return "other.lm_head"
    if isinstance(module, nn.Embedding) or "embeddings" in path.split(".")[-2:]:
        kinds = (("position", "embeddings.position"), ("type", "embeddings.type"))
        found = next((bucket for word, bucket in kinds if word in path), None)
        if found:
            return found
        if isinstance(module, nn.Embedding) and not re.search(r"(attn|attention)", path):
            return "embeddings.other"
    if "norm" in type(module).__name__.lower():
        return "norms"
    return next((bucket for pattern, bucket in BUCKETS if re.search(pattern, path)), "other.misc")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _folded(placed: list[tuple[str, Node]]) -> dict[str, Node]:
    """Children by path; the same leaf at the same place of several layers becomes one repeated block."""
    layers: dict[tuple[str, str], dict[Node, list[int]]] = {}
    alone: dict[str, Node] = {}
    for path, node in placed:
        numbers = [part for part in path.split(".") if part.isdigit()]
        if len(numbers) == 1:
            before, _, after = f".{path}.".partition(f".{numbers[0]}.")
            layers.setdefault((before.strip("."), after.strip(".")), {}).setdefault(node, []).append(int(numbers[0]))
        else:
            alone[path] = node
    stacks: dict[str, list[Repeat]] = {}
    for (before, after), nodes in layers.items():
        for node, at in nodes.items():
            block = Module(children={after: node})
            stacks.setdefault(before, []).append(Repeat(child=block, count=len(at), indices=tuple(at)))
    return {**alone, **{before: Stack(parts=tuple(parts)) for before, parts in stacks.items()}}
