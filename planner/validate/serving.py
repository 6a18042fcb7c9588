"""Measured start-ups of inference engines: what a row states, and what follows from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from planner.devices import Device, find_device
from planner.engines import NEWEST, Engine, find_engine
from planner.errors import PlannerError, UnknownNameError
from planner.models import Model, load_model
from planner.numeric import Num
from planner.serving.engine_memory import StageServing
from planner.serving.formats import configured_format
from planner.serving.llama_cpp import LlamaOptions, serve_llama
from planner.serving.options import ServeOptions
from planner.serving.serve import Serving, serve_on
from planner.units import GIB
from planner.validate.reading import Skipped
from planner.validate.result import Judged

QUANTITIES = (
    "weights_gib_per_gpu",
    "activation_peak_gib",
    "non_torch_gib",
    "kv_cache_gib_per_gpu",
    "kv_tokens",
    "cuda_graph_gib",
)

MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError)
"""What reading a field of the wrong kind raises: rows are untrusted, and one of them must not stop the others."""

USUAL_SHARE = 0.985
"""Of the size that a card is sold with, read as GiB, CUDA shows so much where none corrects errors. [-]"""

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
        known = from_checkpoint(row)
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
    serving = serve_on(model, engine, memory or 0, options_of(row), device=device)
    stage = reported_stage(serving, row)
    tokens = serving.kv_tokens
    if engine.word("reported_tokens", "slots") == "concurrency" and serving.has_kinds:
        tokens = serving.concurrency * serving.limits.max_model_len
    found: dict[str, Num | str] = {
        "weights_gib_per_gpu": stage.weights_bytes / GIB,
        "activation_peak_gib": stage.peak_bytes / GIB,
        "non_torch_gib": stage.non_torch_bytes / GIB,
        "kv_cache_gib_per_gpu": serving.stages[0].pool_bytes / GIB,
        "kv_tokens": tokens,
        "cuda_graph_gib": stage.graph_bytes / GIB,
    }
    reason = unsaid(row, model, engine)
    if memory is None:
        unknown = f"the memory of '{row.get('gpu')}' is not known"
        found |= dict.fromkeys(("kv_cache_gib_per_gpu", "kv_tokens"), unknown)
    if reason:
        found |= dict.fromkeys(("activation_peak_gib", "kv_cache_gib_per_gpu", "kv_tokens"), reason)
    graphs = row.get("cuda_graph_gib")
    if _is_number(graphs) and graphs <= 0:
        found["cuda_graph_gib"] = "free memory grew while graphs were captured, so that the figure is no size"
    return found


def unsaid(row: Mapping[str, Any], model: Model, engine: Engine) -> str:
    """Why nothing that depends on flags and profile run is predicted; empty where it is."""
    version = engine.version or NEWEST
    if "not shown" in str(row.get("notes") or "") and row.get("max_num_seqs") is None:
        return "the row says that a flag was set and does not say to what"
    if engine.kind == "vllm" and version < (0, 4):
        return "vllm before 0.4 counts in its profile run what the allocator reserved, which nothing here predicts"
    if engine.kind == "vllm" and version < (0, 8) and "vision_config" in model.raw:
        return "vllm V0 profiles a vision tower on as many images as it runs sequences, which nothing here predicts"
    if engine.kind == "sglang" and row.get("gpu_memory_utilization") is None:
        return "sglang's default of mem_fraction_static follows from the machine, and the row does not state it"
    return ""


def engine_of(row: Mapping[str, Any]) -> Engine:
    """Engine and version of a row."""
    version = row.get("engine_version")
    return find_engine(str(row.get("engine")), None if version is None else str(version))


def model_of(row: Mapping[str, Any], models_dir: Path | None) -> Model:
    """Model of a row: the config that it names, or what the catalog knows by its name.

    Raises
    ------
    Skipped
        There is no config for it.
    """
    config, name = row.get("config"), row.get("model")
    if isinstance(config, str) and models_dir is not None and (models_dir / config).is_file():
        return load_model(str(models_dir / config), offline=True)
    stems = [config.removesuffix(".json").replace("--", "/", 1)] if isinstance(config, str) else []
    for spelling in (*stems, name):
        if isinstance(spelling, str):
            try:
                return load_model(spelling, models_dir=models_dir, offline=True)
            except UnknownNameError:
                continue
    raise Skipped(f"no config: the row names {config or 'none'}, and the catalog does not know '{name}'")


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


def from_checkpoint(row: Mapping[str, Any]) -> dict[str, Num]:
    """Weights of a rank where the row states the size of the checkpoint: an even share of it."""
    found = re.search(r"checkpoint ([\d.]+) GiB", str(row.get("quantization") or ""))
    ranks = (row.get("tensor_parallel") or 1) * (row.get("pipeline_parallel") or 1)
    if found is None or not isinstance(ranks, int) or ranks < 1:
        return {}
    return {"weights_gib_per_gpu": float(found[1]) / ranks}


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
        if _is_number(row.get(field)):
            stated[name] = row[field]
    pp = row.get("pipeline_parallel") or 1
    if not isinstance(pp, int) or not 1 <= pp <= 64:
        raise Skipped(f"pipeline_parallel is {pp!r}")
    quantization = row.get("quantization")
    dtype = str(row.get("weight_dtype") or "auto")
    cache = str(row.get("kv_dtype") or "auto")
    return ServeOptions(
        tensor_parallel_size=row.get("tensor_parallel") or 1,
        pipeline_parallel_size=pp,
        data_parallel_size=row.get("data_parallel") or 1,
        enable_expert_parallel=(row.get("expert_parallel") or 1) > 1,
        dtype=PLAIN_DTYPES.get(dtype, "auto" if quantization else dtype),
        quantization="none" if quantization is None else str(quantization),
        kv_cache_dtype=PLAIN_DTYPES.get(cache, cache),
        enforce_eager=bool(row.get("enforce_eager")),
        **stated,
    )


def reported_stage(serving: Serving, row: Mapping[str, Any]) -> StageServing:
    """Stage that a row's figures are of: the one that it names, or one of the many that do not sample."""
    stages = serving.stages
    named = re.search(r"\bPP(?: stage |_?)(\d+)(?!\d)", str(row.get("notes") or ""))
    if named is not None and int(named[1]) < len(stages):
        return stages[int(named[1])]
    return stages[(len(stages) - 1) // 2]


def predict_llama(row: Mapping[str, Any], model: Model) -> dict[str, Num | str]:
    """Quantities of a start-up of llama.cpp, on its first device."""
    stated = str(row.get("quantization") or row.get("weight_dtype") or "")
    found = re.search(r"([\d.]+) ?BPW", str(row.get("weight_dtype") or ""))
    context = row.get("max_model_len")
    options = LlamaOptions(
        weights=None if found is not None else stated,
        bits_per_weight=float(found[1]) if found is not None else None,
        gpus=row.get("pipeline_parallel") or row.get("gpu_count") or 1,
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
