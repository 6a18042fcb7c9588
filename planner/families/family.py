"""What a family is: a config, and for each class of transformers a builder from the config to a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.families.config import ModelConfig
from planner.nodes import Node

# Any: a builder takes the config type of its own family, and a registry holds builders of all of them
Builder = Callable[[Any], Node]

StoredBuilder = Callable[[Any, Mapping[str, Any]], Node]
"""Builder of what a checkpoint holds beside the class: it also reads keys of config.json that shape nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Multi-token prediction: modules that a family's checkpoints hold and its classes do not.

    Attributes
    ----------
    module : StoredBuilder
        Tree of one of them. Tables that are copies of the model's, and biases of its router, have the buckets
        `planner.families.beside.MTP_TABLES` and `planner.families.beside.ROUTER_BIASES`.
    count_keys : tuple of str
        Keys of config.json that say how many there are, of which the first that is stated holds.
    unless_stated : int
        How many there are where none is. [-]
    """

    module: StoredBuilder
    count_keys: tuple[str, ...] = ("num_nextn_predict_layers",)
    unless_stated: int = 0


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
    prediction : Prediction, optional
        Modules that its checkpoints hold to predict further tokens.
    beside : StoredBuilder, optional
        Tree of other tensors that its checkpoints may hold and its classes do not count; the bucket of each is one of
        the kinds of `planner.checkpoint`.
    note : str, optional
        What every count of it takes for granted.
    """

    model_type: str
    config: type[ModelConfig]
    classes: Mapping[str, Builder]
    default_class: str
    composed: str | None = None
    prediction: Prediction | None = None
    beside: StoredBuilder | None = None
    note: str | None = None
