"""Options that describe a training job or an engine: one for each field of a scenario, checked as its value is.

They stand here, and not beside the scenario's fields, so that `--help` need not load what checks them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from planner.errors import PlannerError

if TYPE_CHECKING:
    from planner.scenario import Scenario

SPREAD: Mapping[str, tuple[type, str, str]] = {
    "tp": (int, "N", "Tensor-parallel ranks."),
    "pp": (int, "N", "Pipeline stages."),
    "ep": (int, "N", "Expert-parallel ranks."),
}
"""Options of jobs and engines: type, placeholder and help by field."""

STEP: Mapping[str, tuple[type, str, str]] = {
    "batch_size": (int, "N", "Samples of a micro-batch on one GPU; 1 if left out."),
    "sequence_length": (int, "N", "Tokens of a sample; 2048 if left out."),
    "source_length": (int, "N", "Tokens of an encoder-decoder's encoder."),
    "images": (int, "N", "Images of a sample, for models that read images beside text."),
}
"""What is computed at a time."""

TRAINING: Mapping[str, tuple[type, str, str]] = {
    "recipe": (str, "NAME", "Framework whose habits decide activations and peaks: huggingface, megatron, ..."),
    "gradient_accumulation": (int, "N", "Micro-batches of one optimizer step."),
    "vp": (int, "N", "Model chunks on each pipeline stage."),
    "dp": (int, "N", "Data-parallel ranks."),
    "cp": (int, "N", "Context-parallel ranks."),
    "etp": (int, "N", "Tensor-parallel ranks within an expert; as --tp if left out."),
    "sequence_parallel": (bool, "", "Divide by --tp what lies outside of the split matrices as well."),
    "zero": (int, "STAGE", "ZeRO stage 0 to 3; FSDP's full shard is 3."),
    "shard": (int, "N", "Ranks that share one sharded copy (HSDP)."),
    "pipeline_split": (str, "LAYERS", "Layers of each pipeline chunk, as 7,8,8,9."),
    "offload_activations": (bool, "", "What is kept of recomputed blocks lies in the host's memory."),
    "recompute": (str, "WHAT", "none, full, full:2, selective:core_attention,mlp, per_op."),
    "loss": (str, "PATH", "eager, fused, fused-linear, ..."),
    "attention": (str, "KIND", "eager, sdpa or flash."),
    "adapter": (str, "METHOD", "lora, dora, ia3, prefix, ...; all is trained without."),
    "rank": (int, "N", "Rank of the adapter."),
    "target_modules": (str, "NAMES", "Modules with an adapter: q_proj,v_proj or all-linear."),
    "base_weights": (str, "FORMAT", "Format of frozen weights: nf4 for QLoRA."),
}
"""Options of a training job."""

SERVING: Mapping[str, tuple[type, str, str]] = {
    "engine": (str, "NAME", "Serve with vllm, 'vllm 0.19', sglang, tensorrt-llm, llama.cpp or transformers."),
    "max_model_len": (int, "N", "Longest request; what the config allows if left out."),
    "max_num_seqs": (int, "N", "Requests of a step at most."),
    "max_num_batched_tokens": (int, "N", "New tokens of a step at most."),
    "gpu_memory_utilization": (float, "SHARE", "Share of each GPU that the engine may use."),
    "kv_cache_dtype": (str, "FORMAT", "auto, fp8, int8, ..."),
    "quantization": (str, "NAME", "How weights are stored; as the config says if left out."),
    "block_size": (int, "N", "Tokens of a block of the cache."),
    "cpu_offload_gb": (int, "GIB", "Weights of each GPU that stay on the host."),
    "n_gpu_layers": (int, "N", "llama.cpp: layers on GPUs; all if left out."),
    "max_new_tokens": (int, "N", "transformers: tokens that generate adds; 128 if left out."),
    "enforce_eager": (bool, "", "No CUDA graphs."),
    "enable_expert_parallel": (bool, "", "Whole experts are spread over the GPUs."),
}
"""Options of an engine, under vLLM's own names."""


def takes_fields(*groups: Mapping[str, tuple[type, str, str]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command that gives it the options of some groups, their values as the mapping `fields`.

    An error about a field names its option.

    Parameters
    ----------
    groups : mapping
        Of those above; a value is None where its option is not given.
    """
    options = {name: option for group in groups for name, option in group.items()}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "fields"
        ]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, *option))
            for name, option in options.items()
        ]

        @wraps(function)
        def command(**values: Any) -> None:
            fields = {name: values.pop(name) for name in options}
            try:
                function(**values, fields=fields)
            except PlannerError as error:
                if error.file is not None or error.key not in options:
                    raise
                raise PlannerError(error.message, key=flag_of(error.key), hint=error.hint) from None

        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *added)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _option(name: str, kind: type, metavar: str, text: str) -> Any:
    flag = flag_of(name)
    if kind is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=text)]
    return Annotated[kind | None, typer.Option(flag, metavar=metavar, help=text)]


def flag_of(name: str) -> str:
    """Option of a field.

    Examples
    --------
    >>> flag_of("max_model_len")
    '--max-model-len'
    """
    return f"--{name.replace('_', '-')}"


def scenario_of_options(model: str, values: Mapping[str, Any]) -> Scenario:
    """Scenario of the options that are given; the others are left to its defaults.

    Parameters
    ----------
    model : str
        Name of the model.
    values : mapping
        Values by field; None where an option is not given.

    Raises
    ------
    PlannerError
        A value is wrong; the option is named.
    """
    from planner.errors import ScenarioError
    from planner.located import Located, Place
    from planner.scenario import FIELDS, checked_value, scenario_from

    given = {}
    for name, value in values.items():
        if value is None:
            continue
        try:
            given[name] = checked_value(name, Located(value=value, place=Place(file="", line=0, key=name)))
        except ScenarioError as error:
            raise PlannerError(error.message, key=flag_of(name), hint=error.hint) from None
    try:
        return scenario_from({"model": model, **given})
    except ScenarioError as error:
        key = flag_of(error.key) if error.key is not None and error.key in FIELDS else None
        raise PlannerError(error.message, key=key, hint=error.hint) from None
