"""What an engine's profile run finds to be the peak beside its weights: layers, workspaces, images, and the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.counts import tensors
from planner.devices import Device
from planner.engines import Engine
from planner.formats import WeightFormat
from planner.formulas.profile_run import (
    expanded_latent_bytes,
    expert_workspace_bytes,
    image_profile_bytes,
    layer_peak_bytes,
    sampled_hidden_bytes,
    sampler_bytes,
)
from planner.memory import MemoryRow
from planner.nodes import Attention, Convolution, Experts, Linear, Node, Row, walk
from planner.numeric import Num, all_true, ceil_div, maximum, where
from planner.parallelism import Parallelism, Stage
from planner.quantisation import labels, outline_of
from planner.serving.options import Limits
from planner.serving.weights import VOCABULARY_MULTIPLE

PASSED_ON = 2
"""Hidden states and residual, which a pipeline stage hands to the next: vllm, make_empty_intermediate_tensors. [-]"""

OLD_ARCHITECTURES = ("pascal", "volta", "turing", "ampere", "ada")
"""Before Hopper cuBLAS takes a smaller workspace, and FP4 kernels of Triton do not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The few numbers of a model that a profile run depends on, on one rank.

    Attributes
    ----------
    hidden, vocabulary : Num
        Width, and logits of the padded head. [-]
    up, inner : Num
        Widest MLP that every token passes: outputs of its first matrix, and inputs of its last. [-]
    first_width, expert_inner, top_k : Num
        Outputs of an expert's first matrix, its width, and experts that a token visits; 0 where there are none. [-]
    image_tokens, image_pixels : Num
        Tokens that an image becomes, and its values; 0 where there are none. [-]
    heads, nope, value, latent, rope : Num
        Of latent attention: query heads of the rank, and widths; 0 where there is none. [-]
    """

    hidden: Num
    vocabulary: Num
    up: Num
    inner: Num
    first_width: Num = 0
    expert_inner: Num = 0
    top_k: Num = 0
    image_tokens: Num = 0
    image_pixels: Num = 0
    heads: Num = 0
    nope: Num = 0
    value: Num = 0
    latent: Num = 0
    rope: Num = 0


def is_old(device: Device | None) -> bool:
    """Whether a device is of an architecture before Hopper; none that is known counts as new."""
    return device is not None and device.architecture.lower().split()[0] in OLD_ARCHITECTURES


def has_large_workspace(device: Device | None) -> bool:
    """Whether cuBLAS takes its larger workspace: on data centre cards from Hopper on."""
    return not is_old(device) and not (device is not None and "RTX" in device.name)


def shape_of(tree: Node, parallelism: Parallelism) -> Shape:
    """Shape of a model as one rank computes it."""
    rows = list(walk(tree))
    text = [row for row in rows if not _is_tower(row)]
    heads = [row.leaf for row in text if isinstance(row.leaf, Linear) and row.leaf.yields_logits]
    hidden: Num = heads[0].in_features if heads else _width(text)
    vocabulary: Num = ceil_div(heads[0].out_features, VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE if heads else 0
    up, inner = _widest_mlp(tree, text, parallelism.tp)
    experts = [row.leaf for row in text if isinstance(row.leaf, Experts)]
    first: Num = 0
    expert_inner: Num = 0
    top_k: Num = 0
    if experts:
        expert = experts[0]
        expert_inner = ceil_div(expert.intermediate_size, parallelism.expert_tp)
        first = 2 * expert_inner if expert.gated else expert_inner
        top_k = expert.top_k
    tokens, pixels = _image(rows)
    latent = next((row.leaf for row in text if isinstance(row.leaf, Attention) and _is_latent(row.leaf)), None)
    widths: dict[str, Num] = {}
    if latent is not None and latent.cached is not None:
        widths = {
            "heads": ceil_div(latent.num_heads, parallelism.tp),
            "nope": latent.qk_head_dim - latent.cached.value_width,
            "value": latent.v_head_dim,
            "latent": latent.cached.key_width,
            "rope": latent.cached.value_width,
        }
    return Shape(
        hidden=hidden,
        vocabulary=vocabulary,
        up=up,
        inner=inner,
        first_width=first,
        expert_inner=expert_inner,
        top_k=top_k,
        image_tokens=tokens,
        image_pixels=pixels,
        **widths,
    )


def _is_latent(leaf: Attention) -> bool:
    return leaf.cached is not None and leaf.cached.kind == "latent"


def _is_tower(row: Row) -> bool:
    return row.bucket.startswith(("vision.", "audio.", "projector"))


def _width(rows: list[Row]) -> Num:
    return next((row.leaf.in_features for row in rows if isinstance(row.leaf, Linear)), 0)


def _widest_mlp(tree: Node, rows: list[Row], tp: Num) -> tuple[Num, Num]:
    """Outputs of the first matrices of the widest MLP that every token passes, and inputs of its last, on one rank."""
    outline = outline_of(tree)
    firsts: dict[str, Num] = {}
    lasts: dict[str, Num] = {}
    for row in rows:
        if not isinstance(row.leaf, Linear) or row.bucket not in ("mlp", "experts.shared"):
            continue
        parent = f"{row.path.rpartition('.')[0]} {row.indices}"
        named = labels(row, tensors(row.leaf)[0], outline)
        if "down" in named:
            lasts[parent] = ceil_div(row.leaf.in_features, tp)
        elif "up" in named:
            firsts[parent] = firsts.get(parent, 0) + ceil_div(row.leaf.out_features, tp)
    up: Num = 0
    inner: Num = 0
    for parent, width in lasts.items():
        up, inner = maximum(up, firsts.get(parent, 0)), maximum(inner, width)
    return up, inner


def _image(rows: list[Row]) -> tuple[Num, Num]:
    """Tokens that an image becomes for the text, and values that it has."""
    patches = next(
        (row for row in rows if row.bucket.startswith("vision.") and isinstance(row.leaf, (Convolution, Linear))), None
    )
    projected = [row for row in rows if row.bucket == "projector" and row.stream.kind == "image"]
    inside = projected or [row for row in rows if row.bucket.startswith("vision.") and row.stream.kind == "image"]
    if patches is None or not inside or patches.stream.kind != "image":
        return 0, 0
    leaf = patches.leaf
    values: Num = 1
    if isinstance(leaf, Convolution):
        values = leaf.in_channels
        for size in leaf.kernel_size:
            values = values * size
    elif isinstance(leaf, Linear):
        values = leaf.in_features
    return inside[-1].stream.per_sample, patches.stream.per_sample * values


def images_are_unbounded(raw: Mapping[str, Any]) -> bool:
    """Whether a model reads images of any size, so that its config does not say how large the largest is."""
    tower = raw.get("vision_config")
    return isinstance(tower, Mapping) and not any(key in tower for key in ("image_size", "default_output_length"))


def peak_rows(
    shape: Shape,
    weights: WeightFormat,
    element_bytes: int,
    engine: Engine,
    limits: Limits,
    stage: Stage,
    device: Device | None,
) -> tuple[MemoryRow, ...]:
    """Parts of the peak, which add up: what computes most, and what stays beside it.

    Parameters
    ----------
    shape : Shape
        Of the model on a rank.
    weights : WeightFormat
        Kernels of experts depend on it.
    element_bytes : int
        Of an activation. [B]
    engine : Engine
        What its sampler and kernels hold.
    limits : Limits
        Sequences and tokens of a step.
    stage : Stage
        Only the last one samples; the others pass hidden states on, which stay where they arrive.
    device : Device, optional
        cuBLAS takes more on newer ones.
    """
    tokens, seqs = limits.max_num_batched_tokens, limits.max_num_seqs
    layers = layer_peak_bytes(tokens, shape.up, shape.inner, shape.hidden, element_bytes)
    handed = PASSED_ON * tokens * shape.hidden * element_bytes
    passing: Num = 0
    if not (stage.first and stage.last):
        passing = passing + handed  # to the next stage, or by the one before, in buffers that stay
        if stage.first:
            passing = passing + tokens * shape.hidden * element_bytes  # what it embedded
    experts: Num = 0
    has_experts = not all_true(shape.top_k == 0)
    if has_experts:
        experts = _expert_workspace(shape, weights, tokens, element_bytes)
    kept = engine.word("expert_workspace") == "kept"
    suffix = "_hopper" if has_large_workspace(device) else ""
    computed = layers + passing + engine.size(f"matmul_workspace{suffix}")
    computed = maximum(computed, 2 * tokens * shape.hidden * element_bytes + _expanded(shape, engine, element_bytes))
    if not kept:
        computed = maximum(computed, experts + 2 * tokens * shape.hidden * element_bytes)
    sampled: Num = 0
    sampler = "sampler_bytes_old" if is_old(device) and "sampler_bytes_old" in engine.facts else "sampler_bytes"
    if stage.last:
        sampled = sampler_bytes(
            seqs,
            shape.vocabulary,
            engine.size(sampler) + element_bytes,
            engine.number("sampler_kernel_rows"),
            4,
        )
        sampled = sampled + sampled_hidden_bytes(tokens, seqs, shape.hidden, element_bytes) + passing
        if engine.word("sampler_profiled") == "whole prompts":
            sampled = where(tokens >= limits.max_model_len, sampled, 0)
    arm = maximum(sampled, computed)
    rows = [
        MemoryRow(name="sampler or layers", size_bytes=arm, basis="modelled", source=engine.source(sampler)),
    ]
    if kept and has_experts:
        source = engine.source("expert_workspace")
        rows.append(MemoryRow(name="expert workspace", size_bytes=experts, basis="modelled", source=source))
    if stage.first and not all_true(shape.image_tokens == 0):
        images = image_profile_bytes(
            tokens, shape.hidden, shape.image_pixels / shape.image_tokens, element_bytes, element_bytes
        )
        source = "images that fill a step: vllm, profile_run"
        rows.append(MemoryRow(name="images of the profile run", size_bytes=images, basis="modelled", source=source))
    name = f"workspace{suffix}"
    rows.append(
        MemoryRow(name="cuBLAS workspace", size_bytes=engine.size(name), basis="modelled", source=engine.source(name))
    )
    return tuple(rows)


def _expert_workspace(shape: Shape, weights: WeightFormat, tokens: Num, element_bytes: int) -> Num:
    """Buffers of the kernel that a format uses: Triton's for 16 bits, CUTLASS's for FP8, none for MXFP4."""
    if weights.name in ("mxfp4", "nvfp4"):
        return 0
    inner_floor: Num = 0 if weights.name.startswith("fp8") else shape.hidden
    return expert_workspace_bytes(
        tokens, shape.top_k, shape.first_width, shape.expert_inner, shape.hidden, inner_floor, element_bytes
    )


def _expanded(shape: Shape, engine: Engine, element_bytes: int) -> Num:
    """Latents of a piece of the past, expanded; and what an older engine holds beside them."""
    piece = engine.number("latent_context_tokens", 0)
    made = expanded_latent_bytes(piece, shape.heads, shape.nope + shape.value, element_bytes)
    if engine.word("latent_context_kept", "no") == "no":
        return made
    joined = expanded_latent_bytes(piece, shape.heads, shape.nope + shape.rope, element_bytes)
    copied = expanded_latent_bytes(piece, 1, shape.latent + shape.rope, element_bytes)
    return made + joined + copied
