"""Every model of the catalog against the real one, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.catalog.models import CatalogModel, catalog_models
from planner.errors import PlannerError, UnknownNameError, UnsupportedError, near_miss
from planner.families.composed import ImageTextConfig
from planner.families.config import ComposedConfig
from planner.models import Model, build_model
from planner.real.build import real_class
from planner.sources import ConfigSource
from planner.verify.choices import usual
from planner.verify.result import Verification
from planner.verify.run import verify
from planner.verify.scans import has_scans
from planner.workload import Step

RECURRENT_TOKENS = 16
"""At most so many for a model with recurrences: a trace of them has every token's operators in every layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one model.

    Attributes
    ----------
    model : str
        Its id.
    class_name : str or None
        Class of transformers; None where not even that is known.
    result : Verification or None
        The comparison; None where there was none.
    unsupported : str or None
        Why there could be none.
    failure : str or None
        What went wrong where there should have been one.
    seconds : float
        Loading, building, tracing and counting. [s]
    """

    model: str
    class_name: str | None
    result: Verification | None = None
    unsupported: str | None = None
    failure: str | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """``exact``, ``different``, ``unsupported`` or ``failed``."""
        if self.result is not None:
            return "exact" if self.result.exact else "different"
        return "unsupported" if self.unsupported is not None else "failed"


def chosen_models(family: str | None = None, limit: int | None = None) -> Sequence[CatalogModel]:
    """Models of the catalog, of one model type only, and no more than a limit.

    Raises
    ------
    UnknownNameError
        The catalog has no model of the type.
    """
    entries = catalog_models()
    known = sorted({str(entry.config["model_type"]) for entry in entries})
    if family is not None and family not in known:
        raise UnknownNameError(
            f"no model of the catalog has model_type '{family}', expected one of {', '.join(known)}",
            hint=near_miss(family, known),
        )
    return [entry for entry in entries if family in (None, entry.config["model_type"])][:limit]


def verify_every(
    entries: Sequence[CatalogModel],
    *,
    step: Step,
    device: str = "meta",
    progress: Callable[[str], None] | None = None,
) -> Iterator[Outcome]:
    """Compare models one after the other, each in the implementation that transformers would choose.

    Parameters
    ----------
    entries : sequence of CatalogModel
        What to verify.
    step : Step
        What is asked of each.
    device : str
        ``meta``, ``cpu`` or ``cuda``.
    progress : callable, optional
        Told after each model what became of it.
    """
    for number, entry in enumerate(entries, start=1):
        start = time.perf_counter()
        outcome = replace(_outcome(entry, step, device), seconds=time.perf_counter() - start)
        _forget(device)
        if progress is not None:
            progress(f"{number} of {len(entries)}: {entry.id}, {outcome.verdict}, {outcome.seconds:.1f} s")
        yield outcome


def _outcome(entry: CatalogModel, step: Step, device: str) -> Outcome:
    class_name = None
    try:
        model = build_model(ConfigSource(name=entry.id, raw=entry.config, origin=entry.source))
        class_name = model.class_name
        implementation = usual(model, real_class(class_name), device=device)
        (result,) = verify(model, step=_askable(model, step), device=device, attention=implementation.attention)
    except UnsupportedError as error:
        return Outcome(model=entry.id, class_name=class_name, unsupported=str(error))
    except PlannerError as error:
        return Outcome(model=entry.id, class_name=class_name, failure=str(error))
    except Exception as error:  # one model that breaks must not hide what became of all others
        return Outcome(model=entry.id, class_name=class_name, failure=f"{type(error).__name__}: {error}")
    return Outcome(model=entry.id, class_name=class_name, result=result)


def _askable(model: Model, step: Step) -> Step:
    """The step with what a class cannot do without, and no longer than it can be.

    A class that compares texts with images needs an image, and takes short texts only. Tokens of recurrences run one by
    one.
    """
    config, tokens = model.config, step.sequence_length
    if isinstance(config, ComposedConfig) and not isinstance(config, ImageTextConfig):
        text = getattr(config, "text_config", None)
        tokens = min(tokens, getattr(text, "max_position_embeddings", tokens))
        step = replace(step, images=max(1, step.images))
    if has_scans(model.tree):
        tokens = min(tokens, RECURRENT_TOKENS)
    return replace(step, sequence_length=tokens)


def _forget(device: str) -> None:
    """Free what the last model left: modules and graphs refer to themselves, and fake tensors are cached."""
    gc.collect()
    FakeTensorMode.cache_clear()
    if device == "cuda":
        torch.cuda.empty_cache()
