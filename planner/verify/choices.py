"""Which implementations of attention and experts a request means, and which of them its device can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planner.errors import UnknownNameError, UnsupportedError, near_miss
from planner.families import MODEL_TYPES, family
from planner.families.composed import ImageTextConfig
from planner.families.config import ModelConfig
from planner.models import BUILDER, Model
from planner.nodes import Experts, walk
from planner.real.build import real_class as class_of

DEVICES = ("meta", "cpu", "cuda")
ATTENTION = ("eager", "sdpa")
EXPERTS = ("eager", "batched_mm", "grouped_mm")
ALL = "all"
AUTO = "auto"

NOT_ON_META = "its loop over the experts that were hit needs real routing, which meta tensors do not have"


@dataclass(frozen=True, slots=True)
class Implementation:
    """One way in which transformers runs a model.

    Attributes
    ----------
    attention : str
        ``eager`` or ``sdpa``.
    experts : str or None
        ``eager``, ``batched_mm`` or ``grouped_mm``; None where there are no experts.
    """

    attention: str
    experts: str | None


def implementations(
    model: Model, real_class: Any, *, device: str, attention: str, experts: str
) -> tuple[list[Implementation], list[str]]:
    """What a request asks for, and why some of it is left out.

    Parameters
    ----------
    model : Model
        The model.
    real_class : type
        Its class of transformers.
    device, attention, experts : str
        As `planner.verify.verify` takes them.

    Returns
    -------
    chosen : list of Implementation
        At least one.
    skipped : list of str
        One line for each that ``all`` leaves out, with the reason.

    Raises
    ------
    UnknownNameError
        A word that is no choice.
    UnsupportedError
        The one that was asked for by name cannot run.
    """
    check_choice("attention", attention, (*ATTENTION, ALL))
    check_choice("experts", experts, (*EXPERTS, ALL, AUTO))
    no_sdpa = _without_sdpa(model, real_class)
    no_loop = NOT_ON_META if device == "meta" else None
    attentions, skipped = _choose("attention", attention, ATTENTION, {"sdpa": no_sdpa})
    chooses = _chooses_experts(model, real_class)
    routed = any(isinstance(row.leaf, Experts) and not row.leaf.visits_all for row in walk(model.tree))
    if model.method != BUILDER:
        # Its tree may hide its experts, so the class is asked.
        routed = chooses
    one_loop = routed and not chooses
    if one_loop and no_loop:
        raise UnsupportedError(f"{model.class_name} cannot run: {no_loop}", key="device", hint="choose cpu")
    # A class that multiplies every token with every expert has one way to do so, and so have some of the others.
    if one_loop or not routed:
        if experts in EXPERTS:
            raise UnsupportedError(
                f"{model.name} has no experts that can run in several ways", key="experts", hint="leave the option out"
            )
        return [Implementation(name, None) for name in attentions], skipped
    wanted = "grouped_mm" if experts == AUTO else experts
    chosen, left_out = _choose("experts", wanted, EXPERTS, {"eager": no_loop})
    return [Implementation(name, loop) for name in attentions for loop in chosen], [*skipped, *left_out]


def usual(model: Model, real_class: Any, *, device: str = "meta") -> Implementation:
    """The one that transformers would choose itself: sdpa where the class has it, and experts in groups."""
    attention = "eager" if _without_sdpa(model, real_class) else "sdpa"
    chosen, _ = implementations(model, real_class, device=device, attention=attention, experts=AUTO)
    return chosen[0]


def _without_sdpa(model: Model, kind: Any) -> str | None:
    """Why a model cannot run fused attention: its class has none, or that of a model which it is made of."""
    parts = (getattr(model.config, name) for name in type(model.config).model_fields)
    types = [part.model_type for part in parts if isinstance(part, ModelConfig) and part.model_type in MODEL_TYPES]
    for name, found in ((model.class_name, kind), *((name, class_of(name)) for name in map(_usual_class, types))):
        if not found._supports_sdpa:  # noqa: SLF001 - how the class itself asks
            return f"{name} of transformers has no sdpa attention"
    return None


def _usual_class(model_type: str) -> str:
    return family(model_type).default_class


def _chooses_experts(model: Model, real_class: Any) -> bool:
    """Whether a class, or the decoder that it reads images for, can run its experts in several ways."""
    return isinstance(model.config, ImageTextConfig) or bool(real_class._can_set_experts_implementation())  # noqa: SLF001


def _choose(
    option: str, wanted: str, known: Sequence[str], reasons: dict[str, str | None]
) -> tuple[list[str], list[str]]:
    asked = known if wanted == ALL else (wanted,)
    refused = {name: reason for name in asked if (reason := reasons.get(name))}
    chosen = [name for name in asked if name not in refused]
    if not chosen:
        name, reason = next(iter(refused.items()))
        others = ", ".join(other for other in known if not reasons.get(other))
        raise UnsupportedError(f"'{name}' cannot run: {reason}", key=option, hint=f"choose {others}")
    return chosen, [f"{option} {name} skipped: {reason}" for name, reason in refused.items()]


def check_choice(option: str, word: str, known: Sequence[str]) -> None:
    """Raise `UnknownNameError` for a word that is no choice of an option."""
    if word not in known:
        raise UnknownNameError(
            f"unknown {option} '{word}', expected one of {', '.join(known)}", hint=near_miss(word, known)
        )
