"""What a user tells an inference engine, under vLLM's own names; the engine fills in what is left open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from planner.devices import Device
from planner.engines import Engine
from planner.errors import PlannerError
from planner.numeric import Num, all_true, maximum, where
from planner.units import GIB

if TYPE_CHECKING:
    from planner.serving.weights import StoredSizes

LARGE_DEVICE_BYTES = 70 * GIB
"""vLLM, engine/arg_utils.py: defaults are larger on devices of at least this, A100s excepted."""


UNSTATED_LENGTH = 32768
"""Longest sequence where neither options nor config state one. [token]"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Flags of an engine. Numbers may be columns, except `pipeline_parallel_size`.

    Attributes
    ----------
    tensor_parallel_size, data_parallel_size : Num
        Ranks. [-]
    pipeline_parallel_size : int
        Stages. [-]
    enable_expert_parallel : bool
        Whole experts are spread over the tensor-parallel and data-parallel ranks, and not parts of each.
    max_model_len : Num, optional
        Longest sequence; what the config says where it is left out. [token]
    max_num_seqs, max_num_batched_tokens : Num, optional
        Sequences and new tokens of a step at most; the engine's default where left out. [-, token]
    gpu_memory_utilization : Num, optional
        Share of the device that the engine may use; SGLang's ``mem_fraction_static`` and TensorRT-LLM's
        ``free_gpu_memory_fraction`` as well. [-]
    kv_cache_dtype : str
        ``auto``, or a cache format of the catalog.
    dtype : str
        ``auto``: the type of the checkpoint, in 16 bits where that is fp32; or ``bfloat16``, ``float16``, ``float32``.
    quantization : str, optional
        How weights are stored; see `planner.serving.formats`. The config says it where this is left out.
    block_size : Num, optional
        Slots of a block of the cache. [token]
    enforce_eager : bool
        No CUDA graphs.
    cpu_offload_gb : Num
        Weights of each rank that stay on the host. [GiB]
    kv_cache_memory_bytes : Num, optional
        Size of the pool, instead of what is left. [B]
    images : Num
        Images of a request. [-]
    stored : mapping of str to StoredSize, optional
        Sizes in the checkpoint's files, `planner.headers.stored_bytes_by_tensor`: they stand above the format of the
        config, and not above one that `quantization` asks for.
    """

    tensor_parallel_size: Num = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: Num = 1
    enable_expert_parallel: bool = False
    max_model_len: Num | None = None
    max_num_seqs: Num | None = None
    max_num_batched_tokens: Num | None = None
    gpu_memory_utilization: Num | None = None
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    block_size: Num | None = None
    enforce_eager: bool = False
    cpu_offload_gb: Num = 0
    kv_cache_memory_bytes: Num | None = None
    images: Num = 0
    stored: StoredSizes | None = None

    def __post_init__(self) -> None:
        """Refuse what no engine takes."""
        for name in (
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "data_parallel_size",
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "block_size",
        ):
            value = getattr(self, name)
            if value is not None and not all_true(value >= 1):
                raise PlannerError("must be at least 1", key=name)
        share = self.gpu_memory_utilization
        if share is not None and not (all_true(share > 0) and all_true(share <= 1)):
            raise PlannerError("must be above 0 and at most 1", key="gpu_memory_utilization")
        if not all_true(self.cpu_offload_gb >= 0):
            raise PlannerError("must not be negative", key="cpu_offload_gb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Numbers that the options leave open, as the engine fills them in.

    Attributes
    ----------
    max_num_seqs, max_num_batched_tokens, max_model_len, block_size : Num
        As in `ServeOptions`.
    gpu_memory_utilization : Num
        As in `ServeOptions`.
    assumptions : tuple of str
        What was filled in, in words.
    """

    max_num_seqs: Num
    max_num_batched_tokens: Num
    max_model_len: Num
    block_size: Num
    gpu_memory_utilization: Num
    assumptions: tuple[str, ...]


def limits_of(options: ServeOptions, engine: Engine, longest: Num | None, device: Device | None = None) -> Limits:
    """Options with the engine's defaults.

    Parameters
    ----------
    options : ServeOptions
        What was said.
    engine : Engine
        Whose defaults.
    longest : Num or None
        Tokens of a request that the model's config allows, where it states them. [token]
    device : Device, optional
        Defaults of vLLM depend on its memory and its kind.
    """
    suffix = "_large" if is_large(device) else ""
    filled: list[str] = []

    def take(name: str, default: Any, origin: str = "the engine's default") -> Any:
        value = getattr(options, name)
        if value is not None:
            return value
        shown = f"{default:,}" if isinstance(default, int) else f"{default}"
        filled.append(f"{origin}: {name} {shown}")
        return default

    def fact(name: str) -> Any:
        large = f"{name}{suffix}"
        return engine.number(large if large in engine.facts else name)

    if longest is None:
        max_model_len = take("max_model_len", UNSTATED_LENGTH, "neither stated nor in the config, and so assumed")
    else:
        max_model_len = take("max_model_len", longest, "what the config allows")
    seqs = take("max_num_seqs", fact("max_num_seqs"))
    if options.max_num_batched_tokens is None:
        cut = take("max_num_batched_tokens", fact("max_num_batched_tokens"))
        tokens = where(max_model_len > engine.number("prompts_cut_above", 0), cut, maximum(max_model_len, cut))
    else:
        tokens = options.max_num_batched_tokens
    return Limits(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        max_model_len=max_model_len,
        block_size=take("block_size", engine.number("block_size", 1)),
        gpu_memory_utilization=take("gpu_memory_utilization", engine.number("gpu_memory_utilization")),
        assumptions=tuple(filled),
    )


def is_large(device: Device | None) -> bool:
    """Whether vLLM takes its larger defaults on a device."""
    if device is None:
        return True
    return device.memory_bytes >= LARGE_DEVICE_BYTES and "a100" not in device.name.lower()


def changed(options: ServeOptions, **changes: Any) -> ServeOptions:
    """Options with some of them changed, by name."""
    return replace(options, **changes)
