"""Many scenarios at once: axes become columns, columns go through the stages of a plan, and rows come out."""

from planner.sweep.run import evaluate_axes, sweep
from planner.sweep.table import Report

__all__ = ["Report", "evaluate_axes", "sweep"]
