"""What is trained how: one frozen value that every term of the memory reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from planner.errors import UnknownNameError, near_miss
from planner.formats import WeightFormat
from planner.numeric import Num
from planner.optimizers import Optimizer
from planner.parallelism import ONE_DEVICE, Parallelism
from planner.precisions import Precision
from planner.training.recipe import Recipe
from planner.workload import Step

if TYPE_CHECKING:
    from planner.adapters import Adapter

PARTS = (
    "norm",
    "core_attention",
    "attention",
    "mlp",
    "moe",
    "moe_activation",
    "mla_up",
    "router",
    "shared_experts",
)
"""Pieces of a block that selective recomputation can name; see `planner.activations.SavedTensor.part`."""

CONTAINED: Mapping[str, tuple[str, ...]] = {
    "attention": ("core_attention", "mla_up"),
    "moe": ("moe_activation", "router", "shared_experts"),
}
"""Pieces that lie within another and are computed again with it."""

RecomputeKind: TypeAlias = Literal["none", "selective", "full", "per_op"]
"""``per_op`` is torchtitan's list of operators whose outputs are kept, see `planner.activations`."""

KINDS = get_args(RecomputeKind)

MOST_DIGITS = 6
"""Of a number of blocks; a longer one is a typing error."""

ATTENTIONS = ("eager", "sdpa", "flash")
"""Implementations of attention: scores kept, or recomputed from log-sum-exps by a fused kernel."""


def find_attention(name: str) -> str:
    """Implementation of attention by name.

    Raises
    ------
    UnknownNameError
        None of `ATTENTIONS`.
    """
    if name not in ATTENTIONS:
        raise UnknownNameError(
            f"unknown attention '{name}', expected one of {', '.join(ATTENTIONS)}",
            key="attention",
            hint=near_miss(name, ATTENTIONS),
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Recompute:
    """What backward computes again instead of keeping it.

    Attributes
    ----------
    kind : str
        ``none``; ``selective``: the named `parts` of every block; ``full``: whole blocks, of which only the input is
        kept; ``per_op``: everything but the outputs of a list of operators.
    parts : frozenset of str
        See `PARTS`; for ``selective``.
    every : int
        Every how manieth block is recomputed under ``full``. [-]
    blocks : int, optional
        How many blocks of each stage are recomputed; all where it is left out. [-]
    group : int
        Neighbouring blocks that are recomputed together, from the input of the first of them. [-]
    offload : bool
        What is kept of a recomputed block lies in the host's memory.
    """

    kind: RecomputeKind = "none"
    parts: frozenset[str] = frozenset()
    every: int = 1
    blocks: int | None = None
    group: int = 1
    offload: bool = False

    def drops(self, part: str) -> bool:
        """Whether a piece of a block is computed again, by itself or within another."""
        if self.kind != "selective":
            return False
        return part in self.parts or any(part in inner and outer in self.parts for outer, inner in CONTAINED.items())


def parse_recompute(text: str) -> Recompute:
    """Recomputation from words.

    They are ``none``, ``full``, ``full:2`` (every second block), ``selective`` (the attention's core),
    ``selective:core_attention,mlp``, or ``per_op``.

    Raises
    ------
    UnknownNameError
        A word is none of them.

    Examples
    --------
    >>> parse_recompute("selective").parts
    frozenset({'core_attention'})
    """
    kind, colon, rest = text.partition(":")
    if text in ("none", "per_op"):
        return Recompute(kind="none" if text == "none" else "per_op")
    if kind == "full":
        every = rest if colon else "1"
        if not every.isdecimal() or len(every) > MOST_DIGITS or int(every) == 0:
            raise UnknownNameError(
                f"expected a number of blocks after 'full:', at least 1, got '{every}'", key="recompute"
            )
        return Recompute(kind="full", every=int(every))
    if kind == "selective":
        parts = tuple(rest.split(",")) if colon else ("core_attention",)
        for part in parts:
            if part not in PARTS:
                raise UnknownNameError(
                    f"unknown part '{part}', expected some of {', '.join(PARTS)}",
                    key="recompute",
                    hint=near_miss(part, PARTS),
                )
        return Recompute(kind="selective", parts=frozenset(parts))
    raise UnknownNameError(
        f"unknown recomputation '{text}', expected one of {', '.join(KINDS)}",
        key="recompute",
        hint=near_miss(kind, KINDS) if kind not in KINDS else "it takes nothing after a colon",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One training step, and how it is spread and computed.

    Attributes
    ----------
    step : Step
        A micro-batch of one rank: `batch_size` samples. With context parallelism the whole sequence, of which a rank
        holds its share.
    recipe : Recipe
        Habits of the framework.
    precision : Precision
        Dtypes of parameters, gradients and masters.
    optimizer : Optimizer
        States that it keeps.
    parallelism : Parallelism
        Degrees.
    recompute : Recompute
        What is computed again.
    loss : str
        Loss path, see `planner.training.loss`.
    attention : str
        ``eager``, ``sdpa`` or ``flash``.
    micro_batches : Num
        Micro-batches that one optimizer step adds up, on one data-parallel rank. [-]
    adapter : Adapter, optional
        What of the model is trained; all of it where it is left out.
    base : WeightFormat, optional
        Format of frozen weights; the precision's own where it is left out.
    compiled : bool
        Whether torch.compile fuses what lies between matrix products.
    device : str
        Name of the accelerator, where a term depends on it; empty where it is not known.
    stage_split : tuple of int, optional
        Layers of each pipeline chunk, where they are uneven.
    options : mapping
        Switches of the recipe that are not one of the above, by its own name for them.
    """

    step: Step
    recipe: Recipe
    precision: Precision
    optimizer: Optimizer
    parallelism: Parallelism = ONE_DEVICE
    recompute: Recompute = field(default_factory=Recompute)
    loss: str = "eager"
    attention: str = "sdpa"
    micro_batches: Num = 1
    adapter: Adapter | None = None
    base: WeightFormat | None = None
    compiled: bool = False
    device: str = ""
    stage_split: tuple[int, ...] | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def option(self, name: str, default: str | float | bool) -> str | int | float | bool:
        """Switch of the recipe."""
        return self.options.get(name, default)
