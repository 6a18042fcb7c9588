"""What libraries keep for their own use inside the allocator: workspaces of matrix products, and gradients for show.

A recipe says how many handles of cuBLAS it opens, and how large the workspace of one is on an architecture:

``cublas_handles``
    Handles with a workspace of their own: one for each thread that multiplies, forward and backward. [-]
``cublas_workspace``, ``cublas_workspace before Hopper``
    Workspace of a handle. [B]
``engine_workspace``, ``engine_workspace before Hopper``
    Workspace that TransformerEngine keeps for its own products. [B]
``engine_expert_workspaces``
    Workspaces that it keeps besides for grouped products, one a stream. [-]
``shown_gradients``
    ``yes`` where a gradient is written straight into its buffer, and autograd is shown one that nobody writes: a tensor
    in the dtype of the weights for each shape of a weight.
``workspace``
    Anything else. [B]
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.devices import find_device
from planner.errors import PlannerError
from planner.formulas.memory import packed_bytes
from planner.memory import MemoryRow
from planner.nodes import Experts, Linear
from planner.numeric import Num, where
from planner.sharding import RankTensor
from planner.training.job import TrainingJob

WORKSPACE = "workspace"
SHOWN_GRADIENTS = "gradients that autograd is shown"

BEFORE_HOPPER = ("Pascal", "Volta", "Turing", "Ampere", "Ada")


def workspace_rows(held: Sequence[RankTensor], job: TrainingJob) -> tuple[MemoryRow, ...]:
    """Rows that are there for the whole run.

    Parameters
    ----------
    held : sequence of RankTensor
        Tensors of the rank before data parallelism divides them.
    job : TrainingJob
        The job; `device` decides about sizes, and an option `cublas_workspace` overrides that of a handle.
    """
    recipe = job.recipe
    handle = job.options.get("cublas_workspace", _by_architecture("cublas_workspace", job))
    engine = _by_architecture("engine_workspace", job)
    streams = 1 + (recipe.number("engine_expert_workspaces", "-") if _has_grouped_experts(held, job) else 0)
    size = recipe.number("cublas_handles", "-") * float(handle) + streams * engine + recipe.number("workspace", "B")
    sources = [recipe.source(name) for name in ("cublas_workspace", "engine_workspace", "workspace")]
    origin = "; ".join(source for source in sources if source)
    rows = [MemoryRow(name=WORKSPACE, size_bytes=int(size), basis="assumed", source=origin)]
    if recipe.word("shown_gradients", "no") == "yes" and job.option("gradient_accumulation_fusion", True):
        rows.append(
            MemoryRow(
                name=SHOWN_GRADIENTS,
                size_bytes=packed_bytes(shown_elements(held), job.precision.parameters.element_bits),
                basis="modelled",
                source=recipe.source("shown_gradients"),
            )
        )
    return tuple(rows)


def _by_architecture(name: str, job: TrainingJob) -> float:
    old = f"{name} before Hopper"
    if old in job.recipe.facts and architecture(job.device) in BEFORE_HOPPER:
        return job.recipe.number(old, "B")
    return job.recipe.number(name, "B")


def architecture(device: str) -> str:
    """Architecture of an accelerator by name; empty where the catalog does not know it."""
    try:
        return find_device(device).architecture if device else ""
    except PlannerError:
        return ""


def _has_grouped_experts(held: Sequence[RankTensor], job: TrainingJob) -> bool:
    return bool(job.option("grouped_experts", True)) and any(isinstance(item.row.leaf, Experts) for item in held)


def shown_elements(held: Sequence[RankTensor]) -> Num:
    """Elements of one tensor for each shape that a weight of the blocks has on the rank. [-]

    Matrices that read the same input are one weight: queries, keys and values; the two of a gated MLP.
    """
    shapes: dict[tuple[object, ...], tuple[Num, Num]] = {}
    for item in held:
        leaf = item.row.leaf
        if "*" not in item.row.path or item.tensor.matrices is None or item.row.bucket.endswith("router"):
            continue
        if isinstance(leaf, Experts):
            matrices = item.tensor.matrices
            shapes[item.row.path, item.tensor.name] = (matrices.out_features, matrices.in_features)
        elif isinstance(leaf, Linear):
            together = item.cut in ("column", "key_value")
            rows, columns = item.tensor.shape[-2:]
            parent = item.row.path.rpartition(".")[0] if together else item.row.path
            key = (parent, leaf.in_features if together else "")
            shapes[key] = (shapes.get(key, (0, 0))[0] + rows, columns)
    total: Num = 0
    found: list[tuple[Num, Num]] = []
    for rows, columns in shapes.values():
        # Whether two weights have the same shape may depend on the degree that divides one of them.
        is_new: Num = 1
        for other_rows, other_columns in found:
            is_new = where((rows == other_rows) & (columns == other_columns), 0, is_new)
        total = total + is_new * rows * columns
        found.append((rows, columns))
    return total
