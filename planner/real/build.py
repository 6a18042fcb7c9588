"""The real class of transformers, built from a config with random weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from planner.errors import UnsupportedError

SEED = 0
"""Weights and inputs are random, and the same every time."""

DTYPES = {"meta": torch.bfloat16, "cpu": torch.float32, "cuda": torch.bfloat16}
"""By device. The shape rule of grouped products knows bfloat16 only; a CPU is fast in float32 only."""

NOT_FOR_THE_CLASS = frozenset(
    {"architectures", "model_type", "quantization_config", "auto_map", "torch_dtype", "dtype"}
)
"""Keys of a config.json that choose a class, a format or code, and shape nothing; `dtype` is chosen here."""


def real_class(name: str) -> Any:
    """Class of transformers by its name.

    Raises
    ------
    UnsupportedError
        The installed transformers has no such class.
    """
    import transformers

    found = getattr(transformers, name, None)
    if found is None or getattr(found, "config_class", None) is None:
        raise UnsupportedError(f"transformers {transformers.__version__} has no class '{name}'")
    return found


def build(
    raw: Mapping[str, Any],
    class_name: str,
    origin: str,
    *,
    attention: str | None = None,
    experts: str | None = None,
    dtype: torch.dtype,
    device: str,
    fake: bool = False,
) -> nn.Module:
    """Real model in evaluation mode, with random weights.

    Parameters
    ----------
    raw : mapping
        Parsed config.json.
    class_name : str
        Class of transformers.
    origin : str
        Where the config was read, for errors.
    attention, experts : str, optional
        Implementations; the class's own choice where they are left out.
    dtype : torch.dtype
        Of the weights.
    device : str
        ``meta`` holds shapes only.
    fake : bool
        Tensors are fake ones, which initialization would ask for values.

    Raises
    ------
    UnsupportedError
        transformers refuses the config.
    """
    kind = real_class(class_name)
    with quiet():
        config = _config(kind, raw, origin)
    options: dict[str, Any] = {"dtype": dtype}
    if attention is not None:
        # A tower of sound attends within chunks, for which transformers has no kernel.
        hears = getattr(config, "audio_config", None) is not None
        options["attn_implementation"] = {"": attention, "audio_config": "eager"} if hears else attention
    if experts is not None:
        # A class made of models takes no such option where only its decoder has experts.
        chooses = kind._can_set_experts_implementation()  # noqa: SLF001 - how the class itself asks
        part = config if chooses else config.get_text_config()
        if chooses or part is not config:
            part._experts_implementation = experts  # noqa: SLF001
    with quiet(), torch.random.fork_rng(devices=[]), torch.device(device), _initialization(fake):
        torch.manual_seed(SEED)
        try:
            built: Any = kind._from_config(config, **options)  # noqa: SLF001 - AutoModel's own way to a class
        except (TypeError, ValueError, AttributeError, ImportError, RuntimeError, AssertionError) as error:
            raise UnsupportedError(f"transformers cannot build {class_name}: {error}", file=origin) from error
    if fake:
        # tied by the initialization that was left out
        built.tie_weights()
    if raw.get("tie_word_embeddings") is False:
        _untie(built)
    evaluated: nn.Module = built.eval()
    return evaluated


def _initialization(fake: bool) -> AbstractContextManager[None]:
    from transformers.initialization import no_init_weights

    left_out: AbstractContextManager[None] = no_init_weights()
    return left_out if fake else nullcontext()


def _config(kind: Any, raw: Mapping[str, Any], origin: str) -> Any:
    try:
        config = _config_class(kind, raw.get("model_type"))(**_shaping_keys(raw))
    except Exception as error:  # validation in transformers raises types of its own, which differ between releases
        raise UnsupportedError(f"transformers refuses the config: {error}", file=origin) from error
    if kind.__name__.endswith("EncoderModel"):
        # Most such classes set it themselves, but T5Gemma's refuses the config of its own encoder-decoder.
        config.is_encoder_decoder = False
    for part in _with_text_config(config):
        part.use_cache = False
        if getattr(part, "pad_token_id", None) is None:
            # Classifiers look for the last token that is no padding, and refuse a batch without the notion.
            part.pad_token_id = 0
    return config


def _config_class(kind: Any, model_type: Any) -> Any:
    """Config class of a model type that has none but a class of another, as Sarvam has; else that of the class itself.

    Kimi-K2 states a type that transformers does not know, and the class of DeepSeek-V3.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    base = getattr(transformers, str(MODEL_MAPPING_NAMES.get(model_type)), None)
    if base is not None and base.config_class is kind.config_class:
        return transformers.CONFIG_MAPPING[model_type]
    return kind.config_class


def _shaping_keys(raw: Mapping[str, Any]) -> dict[str, Any]:
    nested = ("text_config", "vision_config")
    return {
        key: _shaping_keys(value) | ({"model_type": value["model_type"]} if "model_type" in value else {})
        if key in nested and isinstance(value, Mapping)
        else value
        for key, value in raw.items()
        if key not in NOT_FOR_THE_CLASS
    }


def _with_text_config(config: Any) -> Iterator[Any]:
    yield config
    text = config.get_text_config(decoder=True)
    if text is not config:
        yield text


def _untie(model: Any) -> None:
    """Give the output matrix a weight of its own where the class ties it against the config.

    T5's config forces the tie, while loading a checkpoint that has both matrices, as Flan-T5's does, keeps both.
    """
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(torch.empty_like(head.weight).normal_(std=0.02))


CHECKS_VARIABLE = "TRANSFORMERS_DISABLE_TORCH_CHECK"
"""Environment variable of transformers that leaves out its checks of input shapes, which a trace cannot answer."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' advice about configs and kernels out of the report, and its checks of shapes out of the trace.

    Errors still come through: a shape that does not fit is refused by the product that it does not fit.
    """
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging
    verbosity, checks = logging.get_verbosity(), os.environ.get(CHECKS_VARIABLE)
    logging.set_verbosity_error()
    os.environ[CHECKS_VARIABLE] = "1"
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if checks is None:
            del os.environ[CHECKS_VARIABLE]
        else:
            os.environ[CHECKS_VARIABLE] = checks
