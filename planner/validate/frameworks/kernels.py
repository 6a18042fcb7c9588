"""Rows of a loss alone, as Liger-Kernel's benchmarks measure it: a head and its loss, or a loss of given logits.

Gradients of the pass before stay allocated while the next one runs. A loss of given logits is read as a head that reads
nothing; the gradient of the logits lies beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.nodes import LOGITS, Linear, Module
from planner.training.setup import training_job
from planner.validate.frameworks import fields
from planner.validate.reading import Reading, Skipped
from planner.workload import Step

RECIPES = ("loss-kernels",)

FUSED_LINEAR = {"liger": "fused-linear", "huggingface": "eager-bf16", "torch": "eager-bf16"}
"""Providers of a kernel that includes the head's matrix, and the loss path of each."""

GIVEN_LOGITS = {
    "liger": "fused-in-place-fp32",
    "huggingface": "eager-fp32-held",
    "torch": "eager-fp32-held",
    "megatron-fused": "vocab-parallel-fused-fp32",
    "megatron": "vocab-parallel-fused-fp32",
    "megatron-unfused": "vocab-parallel-fp32",
}
"""Providers of a kernel that is given fp32 logits, and the loss path of each."""

LABEL_BYTES, LOSS_BYTES = 8, 4
"""Of one token: its label, and its loss in fp32. [B]"""


def read(row: Mapping[str, Any]) -> Reading:
    """A row as a head and a job."""
    model = row.get("model") or {}
    vocabulary, hidden = fields.needed(model, "vocab"), fields.number(model, "hidden")
    tokens = fields.needed(row, "seq_len") * (fields.number(row, "micro_batch_per_gpu") or 1)
    provider = str(row.get("loss_impl") or "").lower()
    paths = GIVEN_LOGITS if hidden is None else FUSED_LINEAR
    if provider not in paths:
        raise Skipped(f"the loss kernel '{row.get('loss_impl')}' is not known")
    kernel = str(model.get("name") or "")
    if "cross_entropy" not in kernel or "megatron_fused_linear" in kernel:
        raise Skipped(f"the kernel '{kernel}' is no loss that is modelled")
    job = training_job(
        Step(batch_size=1, sequence_length=tokens),
        "loss-kernels",
        loss=paths[provider],
        compiled=True,
        device=str(row.get("gpu_kind") or ""),
    )
    options: dict[str, str | int | float | bool] = {"given_bytes": _given(vocabulary, hidden, tokens)}
    if hidden is None:
        options["cublas_workspace"] = 0
    head = Linear(
        in_features=hidden or 0, out_features=vocabulary, yields_logits=True, bucket="other.lm_head", stream=LOGITS
    )
    return Reading(
        tree=Module(children={"lm_head": head}),
        job=replace(job, options=options),
        peak_counter=fields.counter(row),
    )


def _given(vocabulary: int, hidden: int | None, tokens: int) -> int:
    """What the script holds beside the head, its gradient, and what is kept for backward. [B]

    With a head: a second one of the other provider, and the gradient of the hidden states; with logits: their gradient.
    """
    labels = tokens * LABEL_BYTES
    if hidden is None:
        return 4 * tokens * vocabulary + labels + tokens * LOSS_BYTES
    return 2 * hidden * vocabulary + 2 * tokens * hidden + labels
