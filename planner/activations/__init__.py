"""What autograd keeps between forward and backward, as folds over the tree: one file an execution profile."""

from planner.activations.saved import SavedTensor, Split

__all__ = ["SavedTensor", "Split"]
