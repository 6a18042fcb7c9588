"""The model that the options of a command name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.options import parse_overrides

if TYPE_CHECKING:
    from planner.models import Model


def named_model(
    name: str, *, models_dir: Path | None, overrides: Sequence[str] | None, class_name: str | None, offline: bool
) -> Model:
    """Model by name with the options of a command; keys of its config that nobody read are said on stderr."""
    from planner.cli.output import warn_about_unread_keys
    from planner.models import load_model

    model = load_model(
        name,
        models_dir=models_dir,
        overrides=parse_overrides(overrides),
        class_name=class_name,
        offline=offline,
    )
    warn_about_unread_keys(model)
    return model
