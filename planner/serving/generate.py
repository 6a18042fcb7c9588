"""Memory of transformers' generate: weights, a cache that grows or is as long as it will be, and a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from planner.cache import Requests, cache_bytes, cache_groups, group_bytes, storage
from planner.engines import Engine, find_engine
from planner.formats import WeightFormat, find_dtype, find_format
from planner.formulas.profile_run import layer_peak_bytes
from planner.formulas.serving import concatenated_bytes
from planner.memory import Memory, MemoryRow
from planner.models import Model
from planner.nodes import Node
from planner.numeric import Num, maximum
from planner.parallelism import ONE_DEVICE
from planner.quantisation import stored_weights
from planner.serving.formats import configured_format, element_dtype, format_of
from planner.serving.peak import shape_of

CacheKind: TypeAlias = Literal["dynamic", "static"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateOptions:
    """One call of `generate`.

    Attributes
    ----------
    batch_size, prompt, new_tokens : Num
        Sequences, and tokens of each. [-, token]
    cache : str, optional
        ``dynamic`` or ``static``.
    dtype : str
        Type of activations; ``auto`` is that of the config.
    quantization : str, optional
        Of the weights.
    images : Num
        Images of each sequence. [-]
    """

    batch_size: Num = 1
    prompt: Num = 1024
    new_tokens: Num = 128
    cache: CacheKind | None = None
    dtype: str = "auto"
    quantization: str | None = None
    images: Num = 0


def generate_memory(
    model: Model, options: GenerateOptions, *, engine: Engine | None = None, tree: Node | None = None
) -> Memory:
    """Peak of one call on one device, of its prefill or of its last step, whichever is larger.

    Parameters
    ----------
    model : Model
        What generates.
    options : GenerateOptions
        The call; numbers may be columns.
    engine : Engine, optional
        ``transformers`` where it is left out.
    tree : Node, optional
        The model's tree, where the caller has it at hand.
    """
    engine = engine or find_engine("transformers")
    tree = model.tree if tree is None else tree
    element = element_dtype(options.dtype, model.raw)
    element_bytes = find_dtype(element).code_bits // 8
    weights = _weights(model, options, element)
    stored = stored_weights(tree, weights)
    layout: CacheKind = options.cache or engine.word("cache")  # type: ignore[assignment]
    kept_in = storage(element, activations=element, state="fp32")
    total = options.prompt + options.new_tokens
    kept = cache_bytes(tree, _requests(options, total), kept_in, layout=layout)
    growing: Num = 0
    if layout == "dynamic":
        for group in cache_groups(tree, layout):
            half = group_bytes(group, _requests(options, total - 1), kept_in, layout=layout) / 2
            growing = maximum(growing, half)
    shape = shape_of(tree, ONE_DEVICE)
    prefill = layer_peak_bytes(options.batch_size * options.prompt, shape.up, shape.inner, shape.hidden, element_bytes)
    decode = layer_peak_bytes(options.batch_size, shape.up, shape.inner, shape.hidden, element_bytes)
    step = maximum(prefill, concatenated_bytes(decode, growing))
    logits = options.batch_size * shape.vocabulary * (element_bytes + engine.size("logits_copy"))
    rows = (
        MemoryRow(
            name="weights",
            size_bytes=stored.codes + stored.scales,
            basis="exact",
            source=f"parameters x {weights.name}: {'; '.join(weights.sources)}",
        ),
        *kept.rows,
        MemoryRow(
            name="step",
            size_bytes=step,
            basis="modelled",
            source="prompt through the widest MLP, or a layer's keys beside their longer copy: DynamicLayer.update",
        ),
        MemoryRow(name="logits", size_bytes=logits, basis="modelled", source=engine.source("logits_copy")),
        MemoryRow(
            name="CUDA context", size_bytes=engine.size("context"), basis="assumed", source=engine.source("context")
        ),
    )
    return Memory(rows=rows)


def _weights(model: Model, options: GenerateOptions, element: str) -> WeightFormat:
    if options.quantization is not None:
        return format_of(options.quantization, model.raw)
    return configured_format(model.raw) or find_format(element)


def _requests(options: GenerateOptions, tokens: Num) -> Requests:
    return Requests(sequences=options.batch_size, tokens=tokens, images=options.images)
