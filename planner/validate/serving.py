"""Measured start-ups of inference engines: what a row states, and what follows from it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from planner.catalog.models import catalog_models
from planner.devices import Device, find_device
from planner.engines import NEWEST, Engine, find_engine
from planner.errors import PlannerError, UnknownNameError
from planner.models import Model, load_model
from planner.numeric import Num
from planner.parallelism import Parallelism
from planner.serving.engine_memory import StageServing, non_torch_row
from planner.serving.formats import PLAIN, configured_format, kv_format_of
from planner.serving.llama_cpp import LlamaOptions, serve_llama
from planner.serving.options import ServeOptions, changed
from planner.serving.peak import images_are_unbounded
from planner.serving.serve import Serving, serve_on
from planner.units import GIB
from planner.validate.reading import MALFORMED, Skipped
from planner.validate.result import Judged

QUANTITIES = (
    "weights_gib_per_gpu",
    "activation_peak_gib",
    "non_torch_gib",
    "kv_cache_gib_per_gpu",
    "kv_tokens",
    "cuda_graph_gib",
)

USUAL_SHARE = 0.985
"""Of the size that a card is sold with, read as GiB, CUDA shows so much where none corrects errors. [-]"""

MOST_RANKS = 1024
"""More in a row is a mistake."""

STAGE = r"\bPP(?: stage (\d+)|(\d+)_TP\d)"
"""How notes name a pipeline stage: ``PP stage 1``, ``PP1_TP3``."""

MOST_SHOWN = 80
"""Characters of a name that a reason repeats."""

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
"""Names of models, which are no paths; a row must not make the planner read other files."""

COPIES = re.compile(
    r"[-_.](fp8|nvfp4|mxfp4|awq|gptq|int[48]|w\d+a\d+|bnb|bf16|gguf|quantized|quantised|dynamic|static|block|4bit|8bit|"
    r"unsloth|instruct|chat|it|hf|base|\d{4})(?=[-_.]|$)",
    re.IGNORECASE,
)
"""Words that quantised or tuned copies add to the name of the model that they have the shape of."""

PLAIN_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def judge(row: Mapping[str, Any], models_dir: Path | None = None) -> list[Judged]:
    """Predictions for every quantity that a row measured, or why there are none.

    Parameters
    ----------
    row : mapping
        One start-up. What it measured predicts nothing: everything follows from model, device, flags and version.
    models_dir : Path, optional
        Folder of the configs that rows name.
    """
    measured = {name: row[name] for name in QUANTITIES if _is_number(row.get(name))}
    label = str(row.get("engine") or "unknown")
    try:
        engine = engine_of(row)
        label = engine.label
        if not measured:
            raise Skipped("nothing was measured")
        predicted = predict(row, engine, models_dir)
    except (Skipped, PlannerError) as reason:
        known = without_model(row)
        return [_judged(row, label, name, value, known.get(name, str(reason))) for name, value in _or_none(measured)]
    except MALFORMED as error:
        why = f"a field is not what it should be: {type(error).__name__}: {error}"
        return [_judged(row, label, name, value, why) for name, value in _or_none(measured)]
    found = []
    for name, value in measured.items():
        answer = predicted.get(name, f"{engine.kind} states no such figure")
        found.append(_judged(row, label, name, value, answer))
    return found


def _or_none(measured: Mapping[str, float]) -> list[tuple[str, float | None]]:
    return list(measured.items()) or [(QUANTITIES[0], None)]


def _judged(row: Mapping[str, Any], label: str, name: str, value: float | None, answer: Num | str) -> Judged:
    if not isinstance(answer, str) and not math.isfinite(answer):
        answer = "a number of the row is too large"
    return Judged(
        id=row["id"],
        recipe=label,
        quality=str(row.get("quality") or ""),
        quantity=name,
        measured=value,
        predicted=None if isinstance(answer, str) else float(answer),
        skipped=answer if isinstance(answer, str) else "",
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def predict(row: Mapping[str, Any], engine: Engine, models_dir: Path | None) -> dict[str, Num | str]:
    """Quantities of a row, or why one of them has no prediction.

    Raises
    ------
    Skipped
        The row does not say enough.
    PlannerError
        The planner does not know what it says.
    """
    model = model_of(row, models_dir)
    if row.get("quantization") == "nvfp4" and "vision_config" in model.raw and configured_format(model.raw) is None:
        raise Skipped("which layers are in nvfp4 is in the checkpoint's config, which the row does not name")
    if engine.kind == "llama.cpp":
        return predict_llama(row, model)
    memory, device = device_of(row)
    options, unknown_cache = options_of(row), ""
    try:
        kv_format_of(options.kv_cache_dtype, "bf16")
    except UnknownNameError as error:
        options, unknown_cache = changed(options, kv_cache_dtype="auto"), str(error)
    serving = serve_on(model, engine, memory or 0, options, device=device)
    stage = reported_stage(serving, row)
    tokens = serving.kv_tokens
    if engine.word("reported_tokens", "slots") == "concurrency" and serving.has_kinds:
        tokens = serving.concurrency * serving.limits.max_model_len
    found: dict[str, Num | str] = {
        "weights_gib_per_gpu": stage.weights_bytes / GIB,
        "activation_peak_gib": stage.peak_bytes / GIB,
        "non_torch_gib": stage.non_torch_bytes / GIB,
        "kv_cache_gib_per_gpu": (stage if names_stage(row) else serving.stages[0]).pool_bytes / GIB,
        "kv_tokens": tokens,
        "cuda_graph_gib": stage.graph_bytes / GIB,
    }
    reason = unsaid(row, model, engine)
    if memory is None:
        unknown = f"the memory of '{row.get('gpu')}' is not known"
        found |= dict.fromkeys(("kv_cache_gib_per_gpu", "kv_tokens"), unknown)
    if reason:
        found |= dict.fromkeys(("activation_peak_gib", "kv_cache_gib_per_gpu", "kv_tokens"), reason)
    if unknown_cache:
        found["kv_tokens"] = unknown_cache
    graphs = row.get("cuda_graph_gib")
    if _is_number(graphs) and graphs <= 0:
        found["cuda_graph_gib"] = "free memory grew while graphs were captured, so that the figure is no size"
    return found


def unsaid(row: Mapping[str, Any], model: Model, engine: Engine) -> str:
    """Why nothing that depends on flags and profile run is predicted; empty where it is."""
    version = engine.version or NEWEST
    if "not shown" in str(row.get("notes") or "") and row.get("max_num_seqs") is None:
        return "the row says that a flag was set and does not say to what"
    if "connector" in str(row.get("engine_version") or "").lower():
        return "a connector of caches holds buffers of its own, which nothing here predicts"
    if re.search(r"\bacross (two|three|four|\d+) nodes\b", str(row.get("notes") or "")):
        return "NCCL holds more between nodes, which nothing here predicts"
    if engine.kind == "vllm" and version < (0, 4):
        return "vllm before 0.4 counts in its profile run what the allocator reserved, which nothing here predicts"
    if engine.kind == "vllm" and version < (0, 8) and "vision_config" in model.raw:
        return "vllm V0 profiles a vision tower on as many images as it runs sequences, which nothing here predicts"
    if engine.kind == "vllm" and version >= (0, 8) and images_are_unbounded(model.raw):
        return (
            "vllm profiles the largest image that the model reads, whose size stands in preprocessor_config.json "
            "and not in the config"
        )
    if engine.kind == "sglang" and row.get("gpu_memory_utilization") is None:
        return "sglang's default of mem_fraction_static follows from the machine, and the row does not state it"
    return ""


def engine_of(row: Mapping[str, Any]) -> Engine:
    """Engine and version of a row; the version may stand behind the name, in whatever words."""
    name, _, behind = str(row.get("engine") or "").strip().partition(" ")
    version = row.get("engine_version") or behind or None
    return find_engine(name, None if version is None else str(version))


def model_of(row: Mapping[str, Any], models_dir: Path | None) -> Model:
    """Model of a row: the config that it names, or what the catalog knows by its name.

    Raises
    ------
    Skipped
        There is no config for it.
    """
    config, name = row.get("config"), row.get("model")
    own = _own_config(config, models_dir)
    if own is not None:
        return load_model(str(own), offline=True)
    stems = [config.removesuffix(".json").replace("--", "/", 1)] if isinstance(config, str) else []
    for spelling in (*stems, name):
        if isinstance(spelling, str) and HUB_NAME.fullmatch(spelling):
            try:
                return load_model(spelling, models_dir=models_dir, offline=True)
            except UnknownNameError:
                continue
    copied = next((spelling for spelling in (*stems, name) if isinstance(spelling, str)), "")
    origin = origin_of(copied)
    if origin is not None:
        return load_model(origin, models_dir=models_dir, offline=True)
    named = "none" if config is None else f"'{str(config)[:MOST_SHOWN]}'"
    raise Skipped(f"no config: the row names {named}, and the catalog does not know '{str(name)[:MOST_SHOWN]}'")


def _own_config(config: object, models_dir: Path | None) -> Path | None:
    """File of the folder that a row names; rows are untrusted, so it lies in no other folder."""
    if not isinstance(config, str) or models_dir is None or Path(config).name != config:
        return None
    try:
        return models_dir / config if (models_dir / config).is_file() else None
    except (OSError, ValueError):  # no name of a file
        return None


def origin_of(name: str) -> str | None:
    """Model of the catalog that a quantised or tuned copy has its shape from, by the name; None where none is known.

    Examples
    --------
    >>> origin_of("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"), origin_of("somebody/else-7B")
    ('meta-llama/Llama-3.3-70B-Instruct', None)
    """
    return _origins().get(_plain_name(name))


def _plain_name(name: str) -> str:
    plain = name.rpartition("/")[2]
    while (shorter := COPIES.sub("", plain)) != plain:
        plain = shorter
    return plain.lower().removeprefix("meta-")


@cache
def _origins() -> dict[str, str]:
    names = [(_plain_name(model.id), model.id) for model in catalog_models()]
    often = Counter(plain for plain, _ in names)
    return {plain: name for plain, name in names if often[plain] == 1}


def device_of(row: Mapping[str, Any]) -> tuple[float | None, Device | None]:
    """Memory that the row states, or that of the device by its name; and the device. None where not known. [B]"""
    name = str(row.get("gpu") or "")
    device = _known_device(name)
    total = row.get("gpu_total_gib")
    if _is_number(total):
        return float(total) * GIB, device
    if device is not None:
        return device.memory_bytes, device
    sold = re.search(r"(\d+) ?GB", name)
    return (None if sold is None else int(sold[1]) * GIB * USUAL_SHARE), None


def without_model(row: Mapping[str, Any]) -> dict[str, Num]:
    """What can be said where the model or its format is not known.

    Weights of a rank are an even share of the checkpoint, where the row states its size; what an engine holds outside
    of torch depends on engine, ranks and device alone.
    """
    try:
        known: dict[str, Num] = {}
        found = re.search(r"checkpoint ([\d.]+) GiB", str(row.get("quantization") or ""))
        tp, pp = degree(row, "tensor_parallel"), degree(row, "pipeline_parallel")
        if found is not None:
            known["weights_gib_per_gpu"] = float(found[1]) / (tp * pp)
        engine = engine_of(row)
        if "non_torch_tp1" in engine.facts:
            other = non_torch_row(engine, Parallelism(tp=tp, pp=pp), device_of(row)[1])
            known["non_torch_gib"] = other.size_bytes / GIB
    except (Skipped, PlannerError, *MALFORMED):
        return {}
    return known


def _known_device(name: str) -> Device | None:
    plain = re.sub(r"\(.*?\)|-class|\bHBM\d\w*", " ", name).replace("/", " ").strip()
    words = plain.split()
    # The whole name first, then without its last words: "A100 40GB SageMaker" is an A100 40GB.
    for end in range(len(words), 0, -1):
        try:
            return find_device(" ".join(words[:end]))
        except PlannerError:
            continue
    return None


def degree(row: Mapping[str, Any], name: str) -> int:
    """A degree of parallelism; 1 where the row states none.

    Raises
    ------
    Skipped
        It is no number of ranks.
    """
    value = row.get(name)
    if value is None:
        return 1
    if not _is_number(value) or value != int(value) or not 1 <= value <= MOST_RANKS:
        raise Skipped(f"{name} is {value!r}, which is no number of ranks")
    return int(value)


def options_of(row: Mapping[str, Any]) -> ServeOptions:
    """Flags of a row; those that it does not state are left to the engine."""
    stated: dict[str, Any] = {}
    for field, name in (
        ("max_model_len", "max_model_len"),
        ("max_num_seqs", "max_num_seqs"),
        ("max_num_batched_tokens", "max_num_batched_tokens"),
        ("block_size", "block_size"),
        ("gpu_memory_utilization", "gpu_memory_utilization"),
    ):
        value = row.get(field)
        if value is None:
            continue
        if not _is_number(value):
            raise Skipped(f"{field} is {str(value)[:MOST_SHOWN]!r}, expected a number")
        stated[name] = value
    quantization = row.get("quantization") or None
    dtype = str(row.get("weight_dtype") or "auto")
    if quantization is None and dtype != "auto" and dtype.lower() not in PLAIN:
        quantization, dtype = dtype, "auto"  # what is stored, and not what is computed in
    cache = str(row.get("kv_dtype") or "auto")
    return ServeOptions(
        tensor_parallel_size=degree(row, "tensor_parallel"),
        pipeline_parallel_size=degree(row, "pipeline_parallel"),
        data_parallel_size=degree(row, "data_parallel"),
        enable_expert_parallel=degree(row, "expert_parallel") > 1,
        dtype=PLAIN_DTYPES.get(dtype, "auto" if quantization else dtype),
        quantization=None if quantization is None else str(quantization),
        kv_cache_dtype=PLAIN_DTYPES.get(cache, cache),
        enforce_eager=bool(row.get("enforce_eager")),
        **stated,
    )


def names_stage(row: Mapping[str, Any]) -> bool:
    """Whether a row says which stage its figures are of; logs else print the pool of the first, and not its weights."""
    return re.search(rf"{STAGE}|reported rank", str(row.get("notes") or "")) is not None


def reported_stage(serving: Serving, row: Mapping[str, Any]) -> StageServing:
    """Stage that a row's figures are of: the one that it names, or one of the many that do not sample."""
    stages = serving.stages
    named = re.search(STAGE, str(row.get("notes") or ""))
    if named is not None and int(named[1] or named[2]) < len(stages):
        return stages[int(named[1] or named[2])]
    return stages[(len(stages) - 1) // 2]


def predict_llama(row: Mapping[str, Any], model: Model) -> dict[str, Num | str]:
    """Quantities of a start-up of llama.cpp, on its first device."""
    stated = str(row.get("quantization") or row.get("weight_dtype") or "")
    found = re.search(r"([\d.]+) ?BPW", str(row.get("weight_dtype") or ""))
    context = row.get("max_model_len")
    options = LlamaOptions(
        weights=None if found is not None else stated,
        bits_per_weight=float(found[1]) if found is not None else None,
        gpus=degree(row, "gpu_count" if row.get("pipeline_parallel") is None else "pipeline_parallel"),
        ctx_size=context if _is_number(context) else None,
        cache_type=str(row.get("kv_dtype") or "f16"),
    )
    first = serve_llama(model, options).devices[0]
    tokens = context if _is_number(context) else "the context is not stated"
    return {
        "weights_gib_per_gpu": first.weights_bytes / GIB,
        "activation_peak_gib": first.compute_bytes / GIB,
        "kv_cache_gib_per_gpu": first.cache_bytes / GIB,
        "kv_tokens": tokens,
    }
