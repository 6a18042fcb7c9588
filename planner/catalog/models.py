"""Shipped model configs: just the keys that shape a model, where they were read, and the published total."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from planner.catalog import read_text
from planner.errors import CatalogError

FILENAME = "models.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """One model of the catalog.

    Attributes
    ----------
    id : str
        ``<org>/<name>``.
    aliases : tuple of str
        Other names for it.
    config : mapping
        Keys that shape it, under their Hugging Face names.
    source : str
        Where the config was read.
    published_total : int or None
        Parameters that somebody published for it. [-]
    published_class : str or None
        Class that the published total counts, where it is not the config's own.
    published_extras : mapping of str to int
        What it holds beyond the parameters of that class, and how often: terms of `planner.checkpoint`.
    published_source : str or None
        Who.
    """

    id: str
    aliases: tuple[str, ...]
    config: Mapping[str, Any]
    source: str
    published_total: int | None
    published_class: str | None
    published_source: str | None
    published_extras: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling that finds it."""
        return (self.id, *self.aliases)


@cache
def catalog_models() -> tuple[CatalogModel, ...]:
    """Every model of the catalog, in the order of the file.

    Raises
    ------
    CatalogError
        A line that is not a model, or an id twice.
    """
    models: dict[str, CatalogModel] = {}
    for line, text in enumerate(read_text(FILENAME).splitlines(), start=1):
        try:
            entry = json.loads(text)
            model = CatalogModel(
                id=entry["id"],
                aliases=tuple(entry.get("aliases", ())),
                config=entry["config"],
                source=entry["source"],
                published_total=entry.get("published_total"),
                published_class=entry.get("published_class"),
                published_source=entry.get("published_source"),
                published_extras=entry.get("published_extras", {}),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CatalogError(f"is not a model: {error}", file=FILENAME, line=line) from None
        if model.id in models:
            raise CatalogError(f"'{model.id}' is given twice", file=FILENAME, line=line)
        models[model.id] = model
    return tuple(models.values())


@cache
def _by_name() -> dict[str, CatalogModel]:
    by_name: dict[str, CatalogModel] = {}
    for model in catalog_models():
        for name in model.names:
            by_name.setdefault(name.casefold(), model)
    return by_name


def find_catalog_model(name: str) -> CatalogModel | None:
    """Model by id or alias, whatever its case; None where the catalog does not know it."""
    return _by_name().get(name.casefold())
