"""Models without a builder: counted on the real class of transformers, built on ``meta`` without memory."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from planner.errors import ConfigError, UnsupportedError, near_miss
from planner.families.config import NOT_READ
from planner.families.inert import is_inert
from planner.nodes import Node
from planner.real.build import build, quiet, real_class
from planner.real.module_tree import module_tree, routing


@dataclass(frozen=True, slots=True, kw_only=True)
class RealTree:
    """What a real class says about itself.

    Attributes
    ----------
    class_name : str
        Class of transformers.
    tree : Node
        Its modules.
    assumptions : tuple of str
        Defaults of its config that stand in for keys, and keys that it does not know.
    """

    class_name: str
    tree: Node
    assumptions: tuple[str, ...]


def real_tree(raw: Mapping[str, Any], class_name: str | None, origin: str, overrides: Iterable[str] = ()) -> RealTree:
    """Tree of the class of transformers that a config names.

    Parameters
    ----------
    raw : mapping
        Parsed config.json.
    class_name : str, optional
        Class in place of the one that the config names, or of the model type's usual one.
    origin : str
        Where the config was read, for errors.
    overrides : iterable of str
        Keys of it that were changed, which the class must know.

    Raises
    ------
    UnsupportedError
        transformers does not know the architecture either, or refuses the config.
    ConfigError
        A changed key is read by nobody.
    """
    chosen = class_name or _named_class(raw, origin)
    _check_overrides(overrides, real_class(chosen).config_class, origin)
    try:
        model: Any = build(raw, chosen, origin, dtype=torch.bfloat16, device="meta")
    except UnsupportedError as error:
        raise UnsupportedError(error.message, file=origin, hint=error.hint or WAY_OUT) from error
    keys = model.config.to_dict()
    return RealTree(
        class_name=chosen,
        tree=module_tree(model, keys),
        assumptions=(*_assumptions(raw, real_class(chosen).config_class), *_unknown_routing(keys)),
    )


WAY_OUT = "a newer transformers may have it, and `--module package.module:factory` counts any torch module"
"""What helps where nobody knows an architecture."""

USUAL_TASKS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
    "MODEL_MAPPING_NAMES",
)
"""Tables of transformers in which the usual class of a model type is looked for, in this order."""


def _named_class(raw: Mapping[str, Any], origin: str) -> str:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    named = raw.get("architectures")
    if named:
        if not isinstance(named, list) or not isinstance(named[0], str):
            raise ConfigError("expected a list with the name of a class", file=origin, key="architectures")
        return named[0]
    model_type = raw["model_type"]
    for task in USUAL_TASKS:
        found = getattr(modeling_auto, task, {}).get(model_type)
        if found is not None:
            return str(found[0] if isinstance(found, (list, tuple)) else found)
    if model_type in CONFIG_MAPPING:
        raise UnsupportedError(
            f"transformers has no usual class for model_type '{model_type}'", file=origin, hint="name one with --class"
        )
    raise UnsupportedError(
        f"neither a builder nor transformers knows model_type '{model_type}'",
        file=origin,
        hint=near_miss(model_type, list(CONFIG_MAPPING.keys())) or WAY_OUT,
    )


def _unknown_routing(keys: Mapping[str, Any]) -> Iterator[str]:
    experts, visited = routing(keys)
    if experts is not None and experts > 1 and visited is None:
        yield f"{experts} experts, and no key says how many of them a token visits: all are counted as active"


def _known_keys(kind: Any) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Keys of a config class with its defaults, and the other names of some of them."""
    with quiet():
        try:
            defaults: dict[str, Any] = kind().to_dict()
        except Exception:
            defaults = dict.fromkeys(inspect.signature(kind).parameters)
    return defaults, getattr(kind, "attribute_map", {})


def _check_overrides(overrides: Iterable[str], kind: Any, origin: str) -> None:
    defaults, aliases = _known_keys(kind)
    known = {*defaults, *aliases}
    for key in overrides:
        if key.partition(".")[0] not in known:
            raise ConfigError("is read by no class", file=origin, key=key, hint=near_miss(key, known))


def _assumptions(raw: Mapping[str, Any], kind: Any) -> Iterator[str]:
    defaults, aliases = _known_keys(kind)
    stated = {aliases.get(key, key) for key in raw}
    for key, value in defaults.items():
        if isinstance(value, (int, list)) and key not in stated and not is_inert(key):
            yield f"{key} = {value}: not in the config, default of the {kind.__name__} class"
    known = defaults.keys() | aliases.keys()
    for key, value in raw.items():
        if key not in known and not is_inert(key) and value is not None:
            yield f"{key} = {value}: {NOT_READ}; the class may ignore it"
