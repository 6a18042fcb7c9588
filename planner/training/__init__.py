"""Memory of a training step on one rank: states, activations, loss, transients, and the phase in which they peak."""

from planner.training.job import Recompute, TrainingJob
from planner.training.phases import StageMemory, TrainingMemory, training_memory_of
from planner.training.recipe import Recipe, find_recipe, load_recipes

__all__ = [
    "Recipe",
    "Recompute",
    "StageMemory",
    "TrainingJob",
    "TrainingMemory",
    "find_recipe",
    "load_recipes",
    "training_memory_of",
]
