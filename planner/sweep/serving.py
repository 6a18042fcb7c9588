"""Start-ups of inference engines as runs of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from planner.devices import find_device
from planner.engines import find_engine
from planner.errors import PlannerError
from planner.models import Model
from planner.nodes import Node
from planner.numeric import Num, is_column, maximum
from planner.plan import engine_answer, unread_by
from planner.serving.serve import divides_heads
from planner.sweep.runs import Kind


def _answer(model: Model, tree: Node, fields: Mapping[str, Any]) -> dict[str, Any]:
    if fields["gpu"] is None:
        raise PlannerError("needs a gpu, and the scenario names none", key="engine")
    read = [name for name in ("tp", "pp") if name not in unread_by(find_engine(fields["engine"]), ("tp", "pp"))]
    divides = divides_heads(tree, fields["tp"])
    if read == ["tp", "pp"] and is_column(divides) and not divides.all():
        # Runs are then asked apart, and those that cannot exist are refused as they are alone.
        raise PlannerError("some numbers of ranks do not divide the attention heads", key="tp")
    found = engine_answer(fields, model, tree, find_device(fields["gpu"]))
    gpus: Num = 1
    for name in read:
        gpus = gpus * fields[name]
    sizes = {"gpus": gpus, "device_bytes": found.device_bytes // 1}
    if found.serving is None:
        return sizes
    serving = found.serving
    return {
        **sizes,
        "kv_pool_bytes": maximum(serving.kv_pool_bytes, 0) // 1,
        "kv_tokens": maximum(serving.kv_tokens, 0) // 1,
        "max_concurrency": maximum(serving.concurrency, 0),
        "starts": np.asarray(serving.starts, dtype=np.float64),
    }


SERVING_RUN = Kind(
    words=(
        "engine",
        "gpu",
        "kv_cache_dtype",
        "quantization",
        "enforce_eager",
        "enable_expert_parallel",
        "n_gpu_layers",
        "pp",
    ),
    numbers=(
        "tp",
        "ep",
        "batch_size",
        "sequence_length",
        "max_new_tokens",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "gpu_memory_utilization",
        "block_size",
        "cpu_offload_gb",
    ),
    results=("gpus", "kv_pool_bytes", "kv_tokens", "max_concurrency", "starts", "device_bytes"),
    answer=_answer,
)
"""What an engine holds at start-up, and what that leaves for the cache."""
