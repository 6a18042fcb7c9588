"""Memory of one device of an engine that gives the cache what is left: vLLM, SGLang, TensorRT-LLM."""

from __future__ import annotations

from dataclasses import dataclass

from planner.devices import Device
from planner.engines import Engine
from planner.formats import WeightFormat, find_dtype, find_format
from planner.formulas.profile_run import captured_sizes, graph_bytes
from planner.formulas.serving import pool_budget_bytes, whole_blocks
from planner.memory import MemoryRow
from planner.models import Model
from planner.nodes import Experts, Node, walk
from planner.numeric import Num, all_true, minimum, where
from planner.parallelism import WHOLE, Parallelism, Stage, pipeline_stages
from planner.serving.formats import configured_format, element_dtype, format_of, kv_format_of
from planner.serving.options import Limits, ServeOptions
from planner.serving.peak import is_old, peak_rows, shape_of
from planner.serving.pool import Pool, pool_of, storage_of
from planner.serving.rope import rope_table_bytes
from planner.serving.weights import Padding, StoredSizes, rank_weights, without_offloaded
from planner.sharding import counted_layers, main_stack, stack_length
from planner.units import GIB

SHARE_OF_DEVICE, STATIC_SHARE, SHARE_OF_REST = "share of device", "static share", "share of rest"
"""What `gpu_memory_utilization` is a share of: the device, for everything; what is free before the weights, for weights
and pool; or what is left behind weights and profile run, for the pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """In what types a model is served.

    Attributes
    ----------
    weights : WeightFormat
        As stored.
    element : str
        Activations, and weights that are not quantised.
    cache : str
        Cache format.
    """

    weights: WeightFormat
    element: str
    cache: str

    @property
    def element_bytes(self) -> int:
        """Of an activation. [B]"""
        return find_dtype(self.element).code_bits // 8


def formats_of(model: Model, options: ServeOptions) -> Formats:
    """Formats that the options and the config of a model state.

    Raises
    ------
    UnknownNameError
        One of them is unknown.
    """
    element = element_dtype(options.dtype, model.raw)
    if options.quantization not in (None, "none"):
        weights = format_of(str(options.quantization), model.raw)
    else:
        stated = None if options.quantization == "none" else configured_format(model.raw)
        weights = find_format(element) if stated is None else stated
    return Formats(weights=weights, element=element, cache=kv_format_of(options.kv_cache_dtype, element))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageServing:
    """One pipeline stage, on its fullest rank.

    Attributes
    ----------
    stage : Stage
        Which.
    rows : tuple of MemoryRow
        Weights, peak of the profile run, what is not torch's, CUDA graphs and pool; each row's name starts with its
        part.
    weights_bytes, peak_bytes, non_torch_bytes, graph_bytes : Num
        Sums of the parts. [B]
    pool_bytes : Num
        What is left for the cache; negative where nothing is. [B]
    pool : Pool
        Sizes of its parts.
    """

    stage: Stage
    rows: tuple[MemoryRow, ...]
    weights_bytes: Num
    peak_bytes: Num
    non_torch_bytes: Num
    graph_bytes: Num
    pool_bytes: Num
    pool: Pool

    @property
    def tokens(self) -> Num:
        """Token slots of the pool. [token]"""
        return whole_blocks(self.pool_bytes, self.pool.block_bytes) * self.pool.block_size

    @property
    def concurrency(self) -> Num:
        """Requests at full length that the pool holds; not a whole number. [-]"""
        usable = whole_blocks(self.pool_bytes, self.pool.block_bytes) * self.pool.block_bytes
        return usable / self.pool.request_bytes


def parallelism_of(options: ServeOptions) -> Parallelism:
    """Degrees of the options; experts are whole where they are spread."""
    tp = options.tensor_parallel_size
    if options.enable_expert_parallel:
        return Parallelism(tp=tp, pp=options.pipeline_parallel_size, ep=tp * options.data_parallel_size, etp=1)
    return Parallelism(tp=tp, pp=options.pipeline_parallel_size)


def stages_of(tree: Node, pp: int) -> tuple[Stage, ...]:
    """Stages as vLLM cuts them: where layers do not divide, those before the last but one take one more each."""
    if pp == 1:
        return (WHOLE,)
    rows = list(walk(tree))
    layers = counted_layers(rows, main_stack(rows))
    whole, rest = divmod(layers, pp)
    # vllm, distributed/utils.py: get_pp_indices: partitions[-i] += 1 for i in range(2, remaining + 2)
    split = tuple(whole + (1 if 2 <= pp - part <= rest + 1 else 0) for part in range(pp))
    return pipeline_stages(layers, pp, split=split)


def padding_of(weights: WeightFormat, engine: Engine, device: Device | None) -> Padding | None:
    """Padding of experts by the kernel that their format runs with on a device."""
    if weights.name != "mxfp4" or "mxfp4_marlin_inner" not in engine.facts:
        return None
    if is_old(device) or engine.word("mxfp4_kernel") == "marlin":
        return Padding(inner=int(engine.number("mxfp4_marlin_inner")), hidden=int(engine.number("mxfp4_marlin_hidden")))
    return Padding(inner=int(engine.number("mxfp4_grouped_inner")), inputs=int(engine.number("mxfp4_grouped_inputs")))


def stage_serving(
    model: Model,
    tree: Node,
    engine: Engine,
    options: ServeOptions,
    limits: Limits,
    formats: Formats,
    stage: Stage,
    memory_bytes: Num,
    device: Device | None,
    stored: StoredSizes | None = None,
) -> StageServing:
    """Memory of the fullest rank of a stage."""
    parallelism = parallelism_of(options)
    rope = rope_table_bytes(tree, model.raw, limits.max_model_len, formats.element_bytes, model.name)
    held = rank_weights(
        tree,
        formats.weights,
        formats.element,
        engine,
        parallelism,
        stage,
        rope_bytes=rope,
        padding=padding_of(formats.weights, engine, device),
        stored=stored,
    )
    held = without_offloaded(held, options.cpu_offload_gb * GIB)
    budget = engine.word("budget", SHARE_OF_DEVICE)
    peak: tuple[MemoryRow, ...] = ()
    if "sampler_bytes" in engine.facts:
        shape = shape_of(tree, parallelism)
        peak = peak_rows(shape, formats.weights, formats.element_bytes, engine, limits, stage, device)
    other = non_torch_row(engine, parallelism, device)
    graphs = graph_row(engine, options, limits, tree, stage)
    weights_bytes, peak_bytes = held.total_bytes, _sum(peak)
    inside = graphs.size_bytes if engine.word("graphs_in_budget", "no") == "yes" else 0
    share, outside = limits.gpu_memory_utilization, other.size_bytes + inside
    left: Num
    if options.kv_cache_memory_bytes is not None:
        left = options.kv_cache_memory_bytes
    elif budget == STATIC_SHARE:
        left = pool_budget_bytes(memory_bytes - outside, share, weights_bytes, 0, 0)
    elif budget == SHARE_OF_REST:
        left = share * pool_budget_bytes(memory_bytes, 1, weights_bytes, peak_bytes, outside)
    else:
        left = pool_budget_bytes(memory_bytes, share, weights_bytes, peak_bytes, outside)
    pool = pool_of(
        tree,
        storage_of(formats.cache, formats.element, engine),
        engine,
        tp=options.tensor_parallel_size,
        layers=stage.layers,
        block_size=limits.block_size,
        stated_block=options.block_size is not None,
        max_model_len=limits.max_model_len,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        images=options.images,
    )
    pool_row = MemoryRow(
        name="pool: keys, values and states",
        size_bytes=left,
        basis="modelled",
        source="gpu_memory_utilization x memory, less the rows above"
        if options.kv_cache_memory_bytes is None
        else "kv_cache_memory_bytes",
    )
    return StageServing(
        stage=stage,
        rows=(*_named("weights", held.rows), *_named("peak", peak), other, graphs, pool_row),
        weights_bytes=weights_bytes,
        peak_bytes=peak_bytes,
        non_torch_bytes=other.size_bytes,
        graph_bytes=graphs.size_bytes,
        pool_bytes=left,
        pool=pool,
    )


def _named(part: str, rows: tuple[MemoryRow, ...]) -> tuple[MemoryRow, ...]:
    return tuple(
        MemoryRow(name=f"{part}: {row.name}", size_bytes=row.size_bytes, basis=row.basis, source=row.source)
        for row in rows
    )


def _sum(rows: tuple[MemoryRow, ...]) -> Num:
    total: Num = 0
    for row in rows:
        total = total + row.size_bytes
    return total


def non_torch_row(engine: Engine, parallelism: Parallelism, device: Device | None) -> MemoryRow:
    """What the device holds that torch does not: NCCL, buffers of all-reduce, kernels that were loaded."""
    tp = parallelism.tp
    names = tuple(_by_age(engine, f"non_torch_tp{ranks}", device) for ranks in (1, 2, 4))
    one, two, four = (engine.size(name, 0) for name in names)
    alone = one if parallelism.pp == 1 else engine.size("non_torch_pp", int(one))
    size = where(tp >= 4, four, where(tp >= 2, two, alone))
    used = names[0] if all_true(tp == 1) else names[1] if all_true(tp < 4) else names[2]
    if used == names[0] and parallelism.pp > 1 and "non_torch_pp" in engine.facts:
        used = "non_torch_pp"
    return MemoryRow(name="non-torch", size_bytes=size, basis="assumed", source=engine.source(used) or "none known")


def _by_age(engine: Engine, parameter: str, device: Device | None) -> str:
    """Name of a fact, for older devices where the engine states one of their own."""
    older = f"{parameter}_old"
    return older if is_old(device) and older in engine.facts else parameter


def graph_row(engine: Engine, options: ServeOptions, limits: Limits, tree: Node, stage: Stage) -> MemoryRow:
    """CUDA graphs of one rank, which lie outside of the budget."""
    name, source = "CUDA graphs", engine.source("graph_layer")
    if options.enforce_eager or not source:
        return MemoryRow(name=name, size_bytes=0, basis="exact", source=source and "enforce_eager: none are captured")
    rows = list(walk(tree))
    stack = main_stack(rows)
    layers: Num = len(stage.layers) if stage.layers is not None else stack_length(rows, stack) if stack else 0
    tp = options.tensor_parallel_size
    largest, fine = engine.number("graph_largest"), engine.number("graph_fine_until")
    sizes = captured_sizes(minimum(limits.max_num_seqs * engine.number("graph_per_sequence"), largest), fine)
    chosen = next((row.leaf.top_k for row in rows if isinstance(row.leaf, Experts)), 0)
    one, many = (
        graph_bytes(
            engine.size(f"graph_fixed_{ranks}") + engine.size("graph_choice") * chosen,
            engine.size("graph_layer"),
            layers,
            sizes,
            captured_sizes(largest, fine),
        )
        for ranks in ("tp1", "tp2")
    )
    return MemoryRow(name=name, size_bytes=where(tp >= 2, many, one), basis="modelled", source=source)


def least(stages: tuple[StageServing, ...]) -> tuple[Num, Num]:
    """Tokens and concurrency that all stages can hold: the pool is as long as that of the fullest one."""
    tokens, concurrency = stages[0].tokens, stages[0].concurrency
    for stage in stages[1:]:
        tokens, concurrency = minimum(tokens, stage.tokens), minimum(concurrency, stage.concurrency)
    return tokens, concurrency
