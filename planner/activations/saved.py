"""One tensor that is kept for backward: what every execution profile yields and every consumer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from planner.numeric import Num

Split: TypeAlias = Literal["none", "tensor", "sequence", "expert", "scattered"]
"""What divides a kept tensor among the ranks of a tensor-parallel group.

``tensor``: it lies between a column-parallel and a row-parallel matrix, so the group divides it; ``sequence``: it lies
outside of them, so it is divided only where sequence parallelism is on; ``expert``: it enters routed experts, whose
ranks gather what those that share an expert were sent; ``scattered``: divided along the sequence whether or not what
lies around it is; ``none``: every rank holds the whole.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensor:
    """One tensor that autograd keeps, of each copy of a block.

    Attributes
    ----------
    path : str
        Dotted path of the leaf or module whose backward reads it first; ``*`` stands for the index of a repeated block.
    name : str
        What it is: ``input``, ``fp32 copy``, ``probabilities``, ``log-sum-exp``, ...
    size_bytes : Num
        Of one copy, for the whole batch, before any rank divides it. [B]
    copies : Num
        How often it stands in the model. [-]
    indices : tuple
        For each ``*`` of the path, the indices that it takes; None where the number is a column or a symbol.
    split : str
        What divides it, see `Split`.
    part : str
        Piece of the block that recomputation can name: ``norm``, ``core_attention``, ``attention``, ``mlp``,
        ``moe``, ``moe_activation``, ``mla_up``, ``router``, ``residual``, ``embedding``, ``head``, ``scan``.
    """

    path: str
    name: str
    size_bytes: Num
    copies: Num
    indices: tuple[tuple[int, ...] | range | None, ...] = ()
    split: Split = "sequence"
    part: str = "residual"

    @property
    def in_block(self) -> bool:
        """Whether it belongs to a repeated block, and so is dropped where that block is recomputed."""
        return "*" in self.path
