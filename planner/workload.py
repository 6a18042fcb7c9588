"""What a model is asked to do: frozen, validated values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.errors import PlannerError, UnknownNameError
from planner.numeric import Num, all_true

Logits = Literal["all", "last"]
"""Positions whose logits are computed."""


def check_logits(word: str) -> Logits:
    """Word as `Logits`.

    Raises
    ------
    UnknownNameError
        Neither ``all`` nor ``last``.
    """
    if word == "all":
        return "all"
    if word == "last":
        return "last"
    raise UnknownNameError(f"expected all or last, got '{word}'", key="logits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward pass over a batch of equally long samples.

    Attributes
    ----------
    batch_size : Num
        Samples. [-]
    sequence_length : Num
        New tokens a sample; the decoder's in an encoder-decoder; of no effect where the sample is an image. [token]
    past : Num
        Tokens a sample that are already in the cache: 0 for training and prefill, more for decoding. [token]
    source_length : Num, optional
        Tokens of an encoder-decoder's encoder; as many as `sequence_length` where it is left out. [token]
    logits : str
        ``all`` positions get logits, or only the ``last``, as in a prefill for generation.
    images : Num
        Images a sample, for models that read images beside text. [-]
    """

    batch_size: Num = 1
    sequence_length: Num = 1
    past: Num = 0
    source_length: Num | None = None
    logits: Logits = "all"
    images: Num = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("sequence_length", self.sequence_length, 1),
            ("source_length", self.source_length, 1),
            ("past", self.past, 0),
            ("images", self.images, 0),
        ):
            if value is not None and not all_true(value >= least):
                raise PlannerError(f"must be at least {least}", key=name)

    @property
    def source(self) -> Num:
        """Tokens of the encoder. [token]"""
        return self.sequence_length if self.source_length is None else self.source_length
