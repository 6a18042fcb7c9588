"""What a family is: a config, and for each class of transformers a builder from the config to a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.families.config import ModelConfig
from planner.nodes import Node

# Any: a builder takes the config type of its own family, and a registry holds builders of all of them
Builder = Callable[[Any], Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`.

    Attributes
    ----------
    model_type : str
        As config.json states it.
    config : type of ModelConfig
        Keys that it reads.
    classes : mapping of str to Builder
        Tree by transformers class.
    default_class : str
        Counted where the config names no class.
    composed : str, optional
        Model type of the whole where a config with parts states this part's type for all of it.
    """

    model_type: str
    config: type[ModelConfig]
    classes: Mapping[str, Builder]
    default_class: str
    composed: str | None = None
