"""Proof on the real model: its tensors, and the matrix products that it executes, against the planner's tree.

Two witnesses count the products: fvcore, which reads a traced forward pass module by module, and torch's
FlopCounterMode, which sees kernels and backward as well. On ``meta`` nothing is allocated, so that a model of any
size is checked in seconds. This package is the only one that imports torch, fvcore and transformers.
"""

from planner.verify.compare import Difference
from planner.verify.result import Figure, Verification, Witness
from planner.verify.run import verify

__all__ = ["Difference", "Figure", "Verification", "Witness", "verify"]
