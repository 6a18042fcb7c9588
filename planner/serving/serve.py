"""The answer to one question of serving: what each device holds, what is left for the cache, whether it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from planner.cache import cache_groups
from planner.devices import Device
from planner.engines import Engine
from planner.errors import PlannerError
from planner.memory import MemoryRow
from planner.models import Model
from planner.nodes import Attention, Node, walk
from planner.numeric import Num, is_column, maximum, minimum
from planner.serving.engine_memory import Formats, StageServing, formats_of, least, stage_serving, stages_of
from planner.serving.options import UNSTATED_LENGTH, Limits, ServeOptions, limits_of
from planner.serving.rope import longest_request
from planner.sharding import counted_layers, main_stack

REFUSE_LONGER = ("vllm", "sglang")
"""Engines that do not start with a longer sequence than the config allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What an engine holds on each device, and what that leaves.

    Attributes
    ----------
    stages : tuple of StageServing
        Pipeline stages, each on its fullest rank.
    limits : Limits
        Options with the engine's defaults.
    formats : Formats
        Types of weights, activations and cache.
    engine : Engine
        Which.
    memory_bytes : Num
        Of one device, as the engine sees it. [B]
    kv_pool_bytes : Num
        Cache of the stage that has least room for tokens; negative where nothing is left. [B]
    kv_tokens : Num
        Token slots of the pool, which all stages can hold. [token]
    concurrency : Num
        Requests at full length. [-]
    longest : int or None
        Positions that the config allows, where the engine refuses more. [token]
    starts : bool or column of bool
        Whether one request at full length fits on every stage, and is no longer than the model allows.
    has_kinds : bool
        Whether layers keep different things, so that slots of the pool are not tokens of a request.
    """

    stages: tuple[StageServing, ...]
    limits: Limits
    formats: Formats
    engine: Engine
    memory_bytes: Num
    kv_pool_bytes: Num
    kv_tokens: Num
    concurrency: Num
    longest: int | None
    starts: Any
    has_kinds: bool

    @property
    def worst(self) -> StageServing:
        """Stage with the fewest tokens, for single numbers."""
        return min(self.stages, key=lambda stage: float(stage.concurrency))

    @property
    def rows(self) -> tuple[MemoryRow, ...]:
        """Parts of the worst stage."""
        return self.worst.rows

    @property
    def device_rows(self) -> tuple[MemoryRow, ...]:
        """The same as the driver sees it: no pool where nothing is left for one, and CUDA's context."""
        *parts, pool = self.rows
        context = MemoryRow(
            name="CUDA context",
            size_bytes=self.engine.size("context", 0),
            basis="assumed",
            source=self.engine.source("context"),
        )
        return (*parts, replace(pool, size_bytes=maximum(pool.size_bytes, 0)), context)

    @property
    def device_bytes(self) -> Num:
        """What the driver reports at the fullest stage: the budget, and CUDA's context and graphs outside of it. [B]

        Where nothing is left for a pool, what the rest would need.
        """
        fullest: Num = 0
        for stage in self.stages:
            used = stage.weights_bytes + stage.peak_bytes + stage.non_torch_bytes + maximum(stage.pool_bytes, 0)
            fullest = maximum(fullest, used + stage.graph_bytes + self.engine.size("context", 0))
        return fullest


def serve(
    model: Model,
    engine: Engine,
    memory: Device | Num,
    options: ServeOptions | None = None,
    *,
    tree: Node | None = None,
) -> Serving:
    """Memory of an engine that divides a model and gives the cache what is left.

    Parameters
    ----------
    model : Model
        What is served.
    engine : Engine
        vLLM, SGLang or TensorRT-LLM at some version.
    memory : Device or Num
        The device, or its memory as programs see it. [B]
    options : ServeOptions, optional
        Flags; numbers may be columns.
    tree : Node, optional
        The model's tree, where the caller has it at hand.

    Raises
    ------
    PlannerError
        A format is unknown, or the layout cannot exist.
    """
    device = memory if isinstance(memory, Device) else None
    memory_bytes: Num = memory.memory_bytes if isinstance(memory, Device) else memory
    return serve_on(model, engine, memory_bytes, options, device=device, tree=tree)


def serve_on(
    model: Model,
    engine: Engine,
    memory_bytes: Num,
    options: ServeOptions | None = None,
    *,
    device: Device | None = None,
    tree: Node | None = None,
) -> Serving:
    """The same for memory that was measured, on a device of a known kind; see `serve`."""
    chosen = options or ServeOptions()
    tree = model.tree if tree is None else tree
    check_layout(tree, chosen)
    formats = formats_of(model, chosen)
    own = longest_request(model.raw, model.name)
    limits = limits_of(chosen, engine, own, device)
    stored = chosen.stored if chosen.quantization is None else None
    stages = tuple(
        stage_serving(model, tree, engine, chosen, limits, formats, stage, memory_bytes, device, stored)
        for stage in stages_of(tree, chosen.pipeline_parallel_size)
    )
    tokens, concurrency = least(stages)
    pool = stages[0].pool_bytes
    for stage in stages[1:]:
        pool = minimum(pool, stage.pool_bytes)
    bound = own if engine.kind in REFUSE_LONGER else None
    starts = (concurrency >= 1) & divides_heads(tree, chosen.tensor_parallel_size)
    if bound is not None:
        starts = starts & (limits.max_model_len <= bound)
    return Serving(
        stages=stages,
        limits=limits,
        formats=formats,
        engine=engine,
        memory_bytes=memory_bytes,
        kv_pool_bytes=pool,
        kv_tokens=tokens,
        concurrency=concurrency,
        longest=bound,
        starts=starts,
        has_kinds=len(cache_groups(tree)) > 1,
    )


def longest(model: Model) -> int:
    """Tokens of a request that a model allows, as its config or the catalog states. [token]"""
    found = longest_request(model.raw, model.name)
    return UNSTATED_LENGTH if found is None else found


def check_layout(tree: Node, options: ServeOptions) -> None:
    """Refuse what engines refuse: query heads that the tensor-parallel ranks do not divide, stages without a layer.

    Raises
    ------
    PlannerError
        The head count is no multiple of `tensor_parallel_size`, of which the hint names some; or there are more
        pipeline stages than layers.
    """
    stages = options.pipeline_parallel_size
    if stages > 1:
        rows = list(walk(tree))
        layers = counted_layers(rows, main_stack(rows))
        if stages > layers:
            raise PlannerError(f"{layers} layers cannot be divided over {stages} stages", key="pipeline_parallel_size")
    tp = options.tensor_parallel_size
    divides, heads = divides_heads(tree, tp), query_heads(tree)
    if is_column(divides) or divides:
        return
    allowed = [str(ranks) for ranks in range(1, 33) if heads % ranks == 0]
    raise PlannerError(
        f"{heads} attention heads cannot be divided over {tp} ranks",
        key="tensor_parallel_size",
        hint=f"it can be {', '.join(allowed)}",
    )


def divides_heads(tree: Node, tp: Num) -> Any:
    """Whether tensor-parallel ranks divide the query heads; every element of a column for itself."""
    return query_heads(tree) % tp == 0


def query_heads(tree: Node) -> Num:
    """Query heads of the first layer that looks back; 0 where none does. [-]"""
    return next((row.leaf.num_heads for row in walk(tree) if isinstance(row.leaf, Attention) and row.leaf.causal), 0)
