"""Fake tensors, and what a class of transformers must be told while it runs on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Fake tensors have no values, from which a class would read that no samples are packed into one.

    It would make a mask to be on the safe side, which real tensors do without.
    """
    from transformers import masking_utils

    module: Any = masking_utils
    found = module.find_packed_sequence_indices
    module.find_packed_sequence_indices = lambda *_, **__: None
    try:
        with FakeTensorMode():
            yield
    finally:
        module.find_packed_sequence_indices = found
