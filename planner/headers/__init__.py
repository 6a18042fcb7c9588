"""A checkpoint's own files as the witness: headers of safetensors and GGUF files, which are untrusted input.

`read_checkpoint` reads headers and no weights; `compare` says which of the stored tensors are a model's parameters,
and what the others are.
"""

from planner.headers.held import Beyond, Comparison, Held, compare
from planner.headers.read import has_weights, read_checkpoint
from planner.headers.stored import StoredCheckpoint, StoredFile, StoredTensor, bytes_by_dtype
from planner.headers.summary import (
    StoredBytes,
    StoredRow,
    remarks,
    stored_bytes_by_tensor,
    stored_memory,
    summarise,
)

__all__ = [
    "Beyond",
    "Comparison",
    "Held",
    "StoredBytes",
    "StoredCheckpoint",
    "StoredFile",
    "StoredRow",
    "StoredTensor",
    "bytes_by_dtype",
    "compare",
    "has_weights",
    "read_checkpoint",
    "remarks",
    "stored_bytes_by_tensor",
    "stored_memory",
    "summarise",
]
