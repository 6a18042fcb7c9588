"""The answer to one scenario, and the stages that it takes: a sweep calls the same ones on columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

from planner.adapters import Adapter, resolved
from planner.adapters.adapter import ALL_LINEAR
from planner.compute import Compute, compute, step_warnings
from planner.counts import Counts, count
from planner.devices import Device, find_device
from planner.engines import Engine, find_engine
from planner.errors import PlannerError
from planner.formats import find_format
from planner.formulas.fit import fits, headroom_bytes, min_devices
from planner.memory import Memory, MemoryRow, inference_memory, training_memory
from planner.models import BUILDER, Model, load_model
from planner.nodes import Node
from planner.numeric import Num, all_true, maximum
from planner.optimizers import find_optimizer
from planner.parallelism import Parallelism, parse_split
from planner.precisions import find_precision
from planner.scenario import SERVING_ONLY, TRAINING, Mode, Scenario
from planner.serving.generate import GenerateOptions, generate_memory
from planner.serving.llama_cpp import LlamaOptions, LlamaServing, serve_llama
from planner.serving.options import ServeOptions
from planner.serving.serve import Serving, serve
from planner.serving.weights import StoredSizes
from planner.training import Recipe, TrainingJob, TrainingMemory, find_recipe, training_memory_of
from planner.training.counters import device_bytes
from planner.training.dropout import stated_dropout
from planner.training.setup import training_job
from planner.workload import Step

CONVENTION = "matmul"
"""Convention of every FLOPs figure of a plan and a sweep, see `planner.compute.CONVENTIONS`."""

TRACED_NOTE = (
    "FLOPs are traced on the real class: the conventions are matmul and 6N, and backward is taken as twice forward"
)
"""What a count by tracing does not know."""

NOT_INCLUDED = (
    "activations, the KV cache and the runtime's own memory are not included: that it fits means that the model's "
    "states fit; a training recipe or an engine includes them"
)
"""What a plan without a recipe or an engine leaves out."""


def states(tree: Node, mode: Mode, weights: str, precision: str, optimizer: str) -> Memory:
    """Memory of a model's states in one use; training does not read `weights`, inference not the other two.

    Parameters
    ----------
    tree : Node
        Its dimensions may be columns.
    mode : str
        ``inference`` or ``training``.
    weights, precision, optimizer : str
        Names of the catalog.

    Raises
    ------
    UnknownNameError
        A name that is used is unknown.
    """
    if mode == TRAINING:
        return training_memory(tree, find_precision(precision), find_optimizer(optimizer))
    return inference_memory(tree, find_format(weights))


def parallelism_of(fields: Mapping[str, Any], zero: int) -> Parallelism:
    """Degrees that the fields of a scenario state, each a number or a column."""
    return Parallelism(
        tp=fields["tp"],
        pp=fields["pp"],
        vp=fields["vp"],
        dp=fields["dp"],
        cp=fields["cp"],
        ep=fields["ep"],
        etp=fields["etp"],
        sequence_parallel=fields["sequence_parallel"],
        shard=fields["shard"],
        zero=zero,  # type: ignore[arg-type]  # a scenario's field is bounded
    )


def job_of(fields: Mapping[str, Any], step: Step, model: Model, tree: Node) -> TrainingJob:
    """Training job that the fields of a scenario describe; what they leave open is what the recipe does.

    Parameters
    ----------
    fields : mapping
        Fields of a scenario by name; degrees, `gradient_accumulation` and `rank` may be columns.
    step : Step
        One micro-batch, which may hold columns.
    model : Model
        What is trained.
    tree : Node
        Its tree, whose dimensions may be columns.

    Raises
    ------
    PlannerError
        A name is unknown, or the fields contradict each other.
    """
    recipe = find_recipe(fields["recipe"])
    zero = int(recipe.word("zero", "0")) if fields["zero"] is None else int(fields["zero"])
    return training_job(
        step,
        recipe.name,
        precision=fields["precision"],
        optimizer=fields["optimizer"],
        parallelism=parallelism_of(fields, zero),
        recompute=fields["recompute"],
        loss=fields["loss"],
        attention=fields["attention"],
        micro_batches=fields["gradient_accumulation"],
        adapter=_adapter(fields, recipe, model, tree),
        base=fields["base_weights"],
        device=fields["gpu"] or "",
        stage_split=None if fields["pipeline_split"] is None else parse_split(fields["pipeline_split"]),
        offload_activations=fields["offload_activations"],
        options=stated_dropout(model.raw, model.family.model_type) if recipe.word("dropout") == "config" else None,
    )


def serve_options(fields: Mapping[str, Any], stored: StoredSizes | None = None) -> ServeOptions:
    """Flags of an engine that the fields of a scenario state; numbers but `pp` may be columns."""
    names = {field.name for field in dataclass_fields(ServeOptions)}
    return ServeOptions(
        tensor_parallel_size=fields["tp"],
        pipeline_parallel_size=fields["pp"],
        **{name: fields[name] for name in SERVING_ONLY if name in names},
        stored=stored,
    )


OPTION_NAMES: Mapping[str, str] = {
    "tensor_parallel_size": "tp",
    "pipeline_parallel_size": "pp",
    "kv_dtype": "kv_cache_dtype",
}
"""Fields of a scenario by what engines and cache formats call them."""


READ_BY: Mapping[str, tuple[str, ...]] = {
    "llama.cpp": ("tp", "max_model_len", "kv_cache_dtype", "quantization", "n_gpu_layers"),
    "transformers": ("batch_size", "sequence_length", "max_new_tokens", "quantization"),
}
"""Fields that an engine reads, where those are not the flags of vLLM."""

OF_RUNS = ("tp", "pp", "batch_size", "sequence_length", *SERVING_ONLY)
"""Fields that some engine reads."""


def unread_by(engine: Engine, fields: Iterable[str]) -> list[str]:
    """Those of some fields that describe a run and that an engine does not read."""
    flags = [field.name for field in dataclass_fields(ServeOptions)]
    read = ("engine", *READ_BY.get(engine.kind, ("tp", "pp", *flags)))
    return [name for name in fields if name in OF_RUNS and name not in read]


def check_read(engine: Engine, stated: Iterable[str]) -> None:
    """Refuse fields that an engine does not read.

    Raises
    ------
    PlannerError
        One of them is stated; it is named.
    """
    for name in unread_by(engine, stated):
        raise PlannerError(f"has no meaning with {engine.kind}", key=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnswer:
    """What an engine holds on its fullest device, whichever engine it is.

    Attributes
    ----------
    engine : Engine
        Which, at which version.
    device_bytes : Num
        With the pool where the engine reserves one. [B]
    serving : Serving or None
        More of an engine that divides a model and gives the cache what is left: vLLM, SGLang, TensorRT-LLM.
    llama : LlamaServing or None
        More of llama.cpp.
    generating : Memory or None
        More of transformers.
    """

    engine: Engine
    device_bytes: Num
    serving: Serving | None = None
    llama: LlamaServing | None = None
    generating: Memory | None = None

    @property
    def rows(self) -> tuple[MemoryRow, ...]:
        """Parts on the fullest device, where sizes are plain numbers."""
        if self.serving is not None:
            return self.serving.device_rows
        if self.generating is not None:
            return self.generating.rows
        assert self.llama is not None  # noqa: S101 - one of the three answers
        devices = self.llama.devices or (self.llama.host,)
        return max(devices, key=lambda device: float(device.total_bytes)).rows


def engine_answer(
    fields: Mapping[str, Any], model: Model, tree: Node, device: Device, stored: StoredSizes | None = None
) -> EngineAnswer:
    """What an engine holds with the flags that the fields of a scenario state; the engine fills in the others.

    Parameters
    ----------
    fields : mapping
        Fields of a scenario by name; numbers but `pp` may be columns.
    model, tree : Model, Node
        What is served, and its tree, whose dimensions may be columns.
    device : Device
        Each of the accelerators.
    stored : mapping, optional
        Sizes in the checkpoint's files, which stand above the format.

    Raises
    ------
    PlannerError
        A name is unknown, or the layout cannot exist.
    """
    engine = find_engine(fields["engine"])
    if engine.kind == "llama.cpp":
        return _llama_answer(fields, model, tree, engine)
    if engine.kind == "transformers":
        options = GenerateOptions(
            batch_size=fields["batch_size"],
            prompt=fields["sequence_length"],
            new_tokens=fields["max_new_tokens"],
            quantization=fields["quantization"],
        )
        memory = generate_memory(model, options, engine=engine, tree=tree)
        return EngineAnswer(engine=engine, device_bytes=memory.total_bytes, generating=memory)
    if not all_true(fields["ep"] == 1):
        message = "has no meaning with an engine, which spreads experts over its other ranks"
        raise PlannerError(message, key="ep", hint="enable_expert_parallel does")
    try:
        serving = serve(model, engine, device, serve_options(fields, stored), tree=tree)
    except PlannerError as error:
        known_as = OPTION_NAMES.get(error.key or "", error.key)
        raise type(error)(error.message, file=error.file, line=error.line, key=known_as, hint=error.hint) from None
    return EngineAnswer(engine=engine, device_bytes=serving.device_bytes, serving=serving)


def _llama_answer(fields: Mapping[str, Any], model: Model, tree: Node, engine: Engine) -> EngineAnswer:
    options = LlamaOptions(
        weights=fields["quantization"],
        n_gpu_layers=fields["n_gpu_layers"],
        gpus=fields["tp"],
        ctx_size=fields["max_model_len"],
        flash_attn=engine.word("flash_attention") == "on",
        **({} if fields["kv_cache_dtype"] == "auto" else {"cache_type": fields["kv_cache_dtype"]}),
    )
    found = serve_llama(model, options, tree)
    needed: Num = 0
    for device in found.devices:
        needed = maximum(needed, device.total_bytes)
    return EngineAnswer(engine=engine, device_bytes=needed, llama=found)


def _adapter(fields: Mapping[str, Any], recipe: Recipe, model: Model, tree: Node) -> Adapter | None:
    method = fields["adapter"] or recipe.word("adapter")
    if not method:
        for name in ("rank", "target_modules", "base_weights"):
            if fields[name] is not None:
                raise PlannerError(f"has a meaning only with an adapter, and recipe '{recipe.name}' has none", key=name)
        return None
    if method == "full" and fields["base_weights"] is not None:
        raise PlannerError("is the format of frozen weights, and the method 'full' freezes none", key="base_weights")
    targets = fields["target_modules"]
    named = targets if targets is None or targets == ALL_LINEAR else tuple(targets.split(","))
    asked = Adapter(method=method, rank=fields["rank"], target_modules=named)
    return resolved(asked, tree, model.family.model_type)


def work(model: Model, tree: Node, step: Step) -> Compute:
    """FLOPs of a step: a fold over the tree, or a trace of the real class where no builder knows the products.

    Parameters
    ----------
    model : Model
        What is asked about.
    tree : Node
        Its tree, whose dimensions may be columns.
    step : Step
        May hold columns for a model with a builder.

    Raises
    ------
    UnsupportedError
        The model cannot do such a step, or cannot be traced.
    """
    if model.method == BUILDER:
        return compute(tree, step)
    from planner.verify.traced import traced_compute

    return traced_compute(model, step)


@dataclass(frozen=True, slots=True)
class FlopsPerToken:
    """FLOPs of a step by the convention ``matmul``, over the positions that it processes.

    Attributes
    ----------
    forward, training : Num
        One pass; and with backward, every parameter trained. [FLOP/token]
    """

    forward: Num
    training: Num


def flops_per_token(work: Compute) -> FlopsPerToken:
    """FLOPs of a step for each of its tokens."""
    flops = work.conventions[CONVENTION]
    return FlopsPerToken(forward=flops.forward / work.tokens, training=flops.training / work.tokens)


@dataclass(frozen=True, slots=True)
class Fit:
    """How something lies in the memory of a device.

    Attributes
    ----------
    headroom_bytes : Num
        Left on one device; negative where it does not fit. [B]
    fits : bool or column of bool
        Whether one device holds it.
    min_gpus : Num
        Devices of the kind whose memory together holds it. [device]
    """

    headroom_bytes: Num
    fits: Any
    min_gpus: Num


def fit(memory_bytes: Num, needed_bytes: Num) -> Fit:
    """How `needed_bytes` lie in devices of `memory_bytes`; both in bytes. [B]"""
    return Fit(
        headroom_bytes=headroom_bytes(memory_bytes, needed_bytes),
        fits=fits(memory_bytes, needed_bytes),
        min_gpus=min_devices(memory_bytes, needed_bytes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer to one scenario.

    Attributes
    ----------
    scenario : Scenario
        The question.
    model : Model
        What was counted.
    counts : Counts
        Its parameters.
    memory : Memory
        Its states.
    compute : Compute
        FLOPs of one step.
    device : Device or None
        The accelerator, where one is asked about.
    job : TrainingJob or None
        The training job, where a recipe is named.
    training : TrainingMemory or None
        Its memory, stage by stage.
    serving : EngineAnswer or None
        What the engine holds, where one is named.
    fit : Fit or None
        How the peak of the job, or the states where no job is asked about, lie in its memory.
    assumptions : tuple of str
        What was taken for granted, and what is left out.
    """

    scenario: Scenario
    model: Model
    counts: Counts
    memory: Memory
    compute: Compute
    device: Device | None
    job: TrainingJob | None
    training: TrainingMemory | None
    serving: EngineAnswer | None
    fit: Fit | None
    assumptions: tuple[str, ...]

    @property
    def flops_per_token(self) -> FlopsPerToken:
        """FLOPs for each token of the step."""
        return flops_per_token(self.compute)


def plan(scenario: Scenario, *, models_dir: Path | None = None, offline: bool = False) -> Plan:
    """Answer a scenario.

    Parameters
    ----------
    scenario : Scenario
        The question.
    models_dir : Path, optional
        Folder of configs that is searched first.
    offline : bool
        Do not ask the hub for a config.

    Raises
    ------
    PlannerError
        A name is unknown, the model's config is wrong, or the model cannot do what the scenario asks of it.

    Examples
    --------
    >>> answer = plan(Scenario(model="google-bert/bert-base-uncased", gpu="T4", sequence_length=512))
    >>> answer.memory.total_bytes, answer.fit.fits, answer.fit.min_gpus  # 109,514,298 parameters * 2 B
    (219028596, True, 1)
    """
    model = load_model(
        scenario.model,
        models_dir=models_dir,
        overrides=scenario.overrides,
        class_name=scenario.class_name,
        offline=offline,
    )
    tree = model.tree
    memory = states(tree, scenario.mode, scenario.weights, scenario.precision, scenario.optimizer)
    computed = work(model, tree, scenario.step)
    device = None if scenario.gpu is None else find_device(scenario.gpu)
    job = None if scenario.recipe is None else job_of(scenario.run, scenario.step, model, tree)
    training = None if job is None else training_memory_of(tree, job)
    serving = None if scenario.engine is None else _served(scenario, model, tree, device)
    needed = memory.total_bytes if job is None or training is None else device_bytes(training.peak_bytes, job)
    return Plan(
        scenario=scenario,
        model=model,
        counts=count(tree),
        memory=memory,
        compute=computed,
        device=device,
        job=job,
        training=training,
        serving=serving,
        fit=None if device is None else fit(device.memory_bytes, needed if serving is None else serving.device_bytes),
        assumptions=(
            *model.assumptions,
            *_ignored(scenario),
            *step_warnings(tree, scenario.step),
            *([] if model.method == BUILDER else [TRACED_NOTE]),
            *_upper_bound(device),
            *([NOT_INCLUDED] if job is None and serving is None else []),
        ),
    )


def _served(scenario: Scenario, model: Model, tree: Node, device: Device | None) -> EngineAnswer:
    if device is None:
        raise PlannerError("needs a gpu: what it reserves follows from its memory", key="engine")
    return engine_answer(scenario.run, model, tree, device)


def _ignored(scenario: Scenario) -> list[str]:
    """Fields that were stated and that this mode does not read."""
    unread = ("weights",) if scenario.mode == TRAINING else ("precision", "optimizer")
    found = [(name, f"in {scenario.mode}") for name in unread if name in scenario.model_fields_set]
    if scenario.engine is not None:
        engine = find_engine(scenario.engine)
        stated = sorted(scenario.model_fields_set - {"batch_size", "sequence_length"})  # FLOPs follow from these
        found += [(name, f"by {engine.kind}") for name in unread_by(engine, stated)]
    return [f"{name} = {getattr(scenario, name)}: not read {where}" for name, where in found]


def _upper_bound(device: Device | None) -> list[str]:
    if device is None or device.memory_basis != "nominal":
        return []
    return [f"memory of {device.name}: the size sold, which is an upper bound of what programs see"]
