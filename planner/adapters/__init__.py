"""Adapters and frozen parts: what they add and train, what they keep for backward, and what all of it takes."""

from planner.adapters.adapter import METHODS, Adapter
from planner.adapters.added import AdapterCounts, AddedTensor, TrainedTensor
from planner.adapters.counts import adapter_parameters, trains
from planner.adapters.places import adapted
from planner.adapters.saved import adapter_saved, keeps_own_input
from planner.adapters.states import finetune_states
from planner.adapters.targets import resolved

__all__ = [
    "METHODS",
    "Adapter",
    "AdapterCounts",
    "AddedTensor",
    "TrainedTensor",
    "adapted",
    "adapter_parameters",
    "adapter_saved",
    "finetune_states",
    "keeps_own_input",
    "resolved",
    "trains",
]
