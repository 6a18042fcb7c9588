"""How a model is spread over devices: degrees in Megatron's and torch's words, and the layers of a pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from planner.errors import PlannerError
from planner.numeric import Num, all_true

ZeroStage: TypeAlias = Literal[0, 1, 2, 3]
"""What data-parallel ranks divide: nothing; optimizer state; gradients too; parameters too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Degrees of parallelism of one job.

    A degree that a formula divides by may be a column; `pp`, `vp` and `zero` decide which formula applies.

    Attributes
    ----------
    tp : Num
        Tensor-parallel ranks. [-]
    sequence_parallel : bool
        What lies outside of the split matrices is divided by `tp` along the sequence.
    pp, vp : int
        Pipeline stages, and virtual stages (model chunks) on each. [-]
    cp : Num
        Context-parallel ranks: each holds a share of every sequence. [-]
    dp : Num
        Data-parallel ranks; `dp * cp` divide what ZeRO or FSDP shards. [-]
    ep, etp : Num
        Expert-parallel ranks, and tensor-parallel ranks within an expert. [-]
    zero : int
        ZeRO stage; FSDP's full shard is 3.
    shard : Num, optional
        Ranks that share one sharded copy, where that is fewer than `dp * cp` (HSDP). [-]
    """

    tp: Num = 1
    sequence_parallel: bool = False
    pp: int = 1
    vp: int = 1
    cp: Num = 1
    dp: Num = 1
    ep: Num = 1
    etp: Num | None = None
    zero: ZeroStage = 0
    shard: Num | None = None

    def __post_init__(self) -> None:
        """Refuse degrees that are none."""
        for name in ("tp", "pp", "vp", "cp", "dp", "ep", "etp", "shard"):
            value = getattr(self, name)
            if value is not None and not all_true(value >= 1):
                raise PlannerError("must be at least 1", key=name)
        if self.vp > 1 and self.pp == 1:
            raise PlannerError(f"{self.vp} virtual stages need several pipeline stages, but pp is 1", key="vp")

    @property
    def expert_tp(self) -> Num:
        """Tensor-parallel ranks within an expert: as many as `tp` where nothing else is said. [-]"""
        return self.tp if self.etp is None else self.etp

    @property
    def shard_ranks(self) -> Num:
        """Ranks that share one sharded copy of what is not an expert. [-]"""
        return self.dp * self.cp if self.shard is None else self.shard

    @property
    def expert_shard_ranks(self) -> Num:
        """Ranks that share one sharded copy of an expert: expert parallelism uses up data-parallel ranks. [-]"""
        return self.shard_ranks * self.tp / (self.ep * self.expert_tp)

    @property
    def devices(self) -> Num:
        """Devices of the job. [device]"""
        return self.tp * self.pp * self.cp * self.dp


ONE_DEVICE = Parallelism()
"""Nothing is spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one pipeline rank holds.

    Attributes
    ----------
    index : int
        Position in the pipeline, from 0.
    layers : tuple of int or None
        Positions of its layers in the model's list of blocks, over all of its model chunks; None for all of them.
    first, last : bool
        Whether the embeddings come before its layers, and the final norm and the head behind them.
    chunks : tuple of tuple of int
        The same layers, chunk by chunk; empty where the model is not cut.
    """

    index: int = 0
    layers: tuple[int, ...] | None = None
    first: bool = True
    last: bool = True
    chunks: tuple[tuple[int, ...], ...] = ()


WHOLE = Stage()
"""The one stage of a model that is not cut."""


def even_split(layers: int, parts: int) -> tuple[int, ...]:
    """Layers of each part where they divide, and one more in each of the first parts where they do not.

    Examples
    --------
    >>> even_split(32, 4), even_split(10, 4)
    ((8, 8, 8, 8), (3, 3, 2, 2))
    """
    whole, rest = divmod(layers, parts)
    return tuple(whole + (1 if part < rest else 0) for part in range(parts))


def parse_split(text: str) -> tuple[int, ...]:
    """Layers of each pipeline chunk from words.

    Raises
    ------
    PlannerError
        It is no list of whole numbers.

    Examples
    --------
    >>> parse_split("7,8,8,9")
    (7, 8, 8, 9)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise PlannerError(f"expected layers of each chunk, as 7,8,8,9, got '{text}'", key="pipeline_split")
    return tuple(int(part) for part in parts)


def pipeline_stages(layers: int, pp: int, vp: int = 1, split: tuple[int, ...] | None = None) -> tuple[Stage, ...]:
    """Stages of a pipeline in order.

    Parameters
    ----------
    layers : int
        Blocks of the model. [-]
    pp, vp : int
        Stages, and model chunks on each: chunk `c` of the model lies on stage `c mod pp`. [-]
    split : tuple of int, optional
        Layers of each chunk, `pp * vp` of them, where they are not as even as can be.

    Raises
    ------
    PlannerError
        There are more chunks than layers, or `split` does not add up.

    Examples
    --------
    >>> [stage.layers for stage in pipeline_stages(8, 2, vp=2)]
    [(0, 1, 4, 5), (2, 3, 6, 7)]
    """
    chunks = pp * vp
    if split is None:
        if layers < chunks:
            raise PlannerError(f"{chunks} pipeline chunks (pp {pp} x vp {vp}) for {layers} layers", key="pp")
        split = even_split(layers, chunks)
    if len(split) != chunks or sum(split) != layers:
        raise PlannerError(
            f"the split {split} has {len(split)} parts and {sum(split)} layers, expected {chunks} and {layers}",
            key="pipeline_split",
        )
    starts = [sum(split[:chunk]) for chunk in range(chunks)]
    held = [range(start, start + size) for start, size in zip(starts, split, strict=True)]
    return tuple(
        Stage(
            index=stage,
            layers=tuple(layer for chunk in range(stage, chunks, pp) for layer in held[chunk]),
            first=stage == 0,
            last=stage == pp - 1,
            chunks=tuple(tuple(held[chunk]) for chunk in range(stage, chunks, pp)),
        )
        for stage in range(pp)
    )
