"""Sizes transformer models before anyone rents a GPU.

Importing this package loads neither torch nor pandas.
"""

from planner._version import __version__
from planner.compute import Compute, compute
from planner.counts import Counts, count
from planner.errors import PlannerError
from planner.models import Model, load_model
from planner.workload import Step

__all__ = ["Compute", "Counts", "Model", "PlannerError", "Step", "__version__", "compute", "count", "load_model"]
