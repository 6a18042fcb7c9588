"""From a name to a tree: find the config, choose the class, build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.errors import ConfigError, UnknownNameError, UnsupportedError, near_miss
from planner.families import MODEL_TYPES, family_of
from planner.families.config import ModelConfig, field_of, known_keys, nested_kind, read_config, spellings
from planner.families.family import Family
from planner.families.inert import is_inert
from planner.families.style import style_of
from planner.nodes import Module, Node
from planner.sources import ConfigSource, find_config

BUILDER, TRANSFORMERS, MODULE = "builder", "transformers", "module"
"""How a model's tree came about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that can be counted.

    Attributes
    ----------
    name : str
        What the user asked for.
    origin : str
        Where its config was read.
    raw : mapping
        The config with overrides applied.
    family : Family
        Builder and config of its model type.
    config : ModelConfig
        The keys that shape it.
    class_name : str
        Class of transformers that is counted.
    method : str
        `BUILDER`: the tree was built here; `TRANSFORMERS`: it was read off the real class; `MODULE`: off a module.
    assumptions : tuple of str
        Defaults that stand in for keys which the config leaves out, and keys that nobody read.
    """

    name: str
    origin: str
    raw: Mapping[str, Any]
    family: Family
    config: ModelConfig
    class_name: str
    method: str
    assumptions: tuple[str, ...]

    @property
    def tree(self) -> Node:
        """Its modules."""
        return self.tree_of(self.config)

    def tree_of(self, config: ModelConfig) -> Node:
        """Modules of the same class with other dimensions, which may be columns or symbols."""
        tree = self.family.classes[self.class_name](config)
        if self.method != BUILDER or not isinstance(tree, Module):
            return tree
        return replace(tree, style=style_of(self.family.model_type, self.raw))


def load_model(
    name: str,
    *,
    models_dir: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    class_name: str | None = None,
    offline: bool = False,
) -> Model:
    """Model by path or name; see `planner.sources.find_config` for where it is looked for.

    Parameters
    ----------
    name : str
        Path to a config.json or its folder, or a name.
    models_dir : Path, optional
        Folder of configs that is searched first.
    overrides : mapping, optional
        Config keys to change; a dotted key reaches into a nested config.
    class_name : str, optional
        Class of transformers to count in place of the config's.
    offline : bool
        Do not ask the hub.

    Raises
    ------
    UnknownNameError
        Model or class unknown.
    UnsupportedError
        No builder for its model type.
    ConfigError
        The config is wrong; file and key are named.
    """
    return build_model(find_config(name, models_dir=models_dir, offline=offline), overrides, class_name)


def build_model(
    source: ConfigSource, overrides: Mapping[str, Any] | None = None, class_name: str | None = None
) -> Model:
    """Model of a config that is at hand; see `load_model`."""
    overrides = overrides or {}
    raw = with_overrides(source.raw, overrides)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(
            "is missing, expected the name of an architecture such as 'llama'", file=source.origin, key="model_type"
        )
    if model_type not in MODEL_TYPES:
        return _real_model(source, raw, class_name, overrides)
    known = family_of(model_type, raw)
    chosen = _choose_class(known, raw, class_name, source.origin)
    if chosen not in known.classes:
        return _real_model(source, raw, chosen, overrides)
    _check_overrides(known, raw, overrides, source.origin)
    raw = _without_other_spellings(known.config, raw, overrides)
    config, assumptions = read_config(known.config, raw, source.origin)
    return Model(
        name=source.name,
        origin=source.origin,
        raw=raw,
        family=known,
        config=config,
        class_name=chosen,
        method=BUILDER,
        assumptions=(*_class_assumption(raw, chosen, class_name), *filter(None, [known.note]), *assumptions),
    )


class _RealConfig(ModelConfig):
    """Stands for the config of a class that no builder knows: the class itself has read it."""


def _real_model(
    source: ConfigSource, raw: Mapping[str, Any], class_name: str | None, overrides: Mapping[str, Any]
) -> Model:
    """Model of an architecture without a builder, counted on its real class."""
    from planner.real.fallback import real_tree

    found = real_tree(raw, class_name, source.origin, overrides)
    return tree_model(
        found.tree,
        name=source.name,
        origin=source.origin,
        raw=raw,
        class_name=found.class_name,
        method=TRANSFORMERS,
        assumptions=(
            *_class_assumption(raw, found.class_name, class_name),
            "no builder: counted on the real class of transformers, built without memory",
            *found.assumptions,
        ),
    )


def tree_model(
    tree: Node,
    *,
    name: str,
    origin: str,
    raw: Mapping[str, Any],
    class_name: str,
    method: str,
    assumptions: tuple[str, ...],
) -> Model:
    """Model of a tree that is at hand, whose dimensions nothing can change."""
    kept = Family(
        model_type=str(raw.get("model_type", class_name)),
        config=_RealConfig,
        classes={class_name: lambda _: tree},
        default_class=class_name,
    )
    return Model(
        name=name,
        origin=origin,
        raw=raw,
        family=kept,
        config=_RealConfig(),
        class_name=class_name,
        method=method,
        assumptions=assumptions,
    )


def with_overrides(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Config with some keys changed; ``text_config.num_hidden_layers`` reaches into a nested config."""
    changed = dict(raw)
    for key, value in overrides.items():
        head, _, rest = key.partition(".")
        if rest:
            inner = changed.get(head)
            changed[head] = with_overrides(inner if isinstance(inner, Mapping) else {}, {rest: value})
        else:
            changed[key] = value
    return changed


def _without_other_spellings(
    kind: type[ModelConfig], raw: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """An override under one name of a key replaces the config's value under another."""
    replaced = {
        spelling
        for key in overrides
        for name in (field_of(kind, key),)
        if name is not None
        for spelling in spellings(kind, name)
        if spelling not in overrides
    }
    return {key: value for key, value in raw.items() if key not in replaced}


def _check_overrides(known: Family, raw: Mapping[str, Any], overrides: Mapping[str, Any], origin: str) -> None:
    """An override that no builder reads changes nothing, which is never what was meant."""
    keys = known_keys(known.config) | {"architectures", "model_type", "id2label"}
    for key in overrides:
        head, _, rest = key.partition(".")
        nested = nested_kind(known.config, head, raw.get(head)) if rest else None
        if nested is not None:
            inner = known_keys(nested)
            if rest not in inner:
                raise ConfigError("is read by no builder", file=origin, key=key, hint=near_miss(rest, inner))
        elif key not in keys:
            why = "shapes no tensor, so setting it changes nothing" if is_inert(key) else "is read by no builder"
            raise ConfigError(why, file=origin, key=key, hint=near_miss(key, keys))


def _choose_class(known: Family, raw: Mapping[str, Any], asked: str | None, origin: str) -> str:
    """Class that is asked for or named; one that has no builder must at least be one of transformers."""
    if asked is not None:
        if asked not in known.classes and not _is_real(asked):
            raise UnknownNameError(
                f"unknown class '{asked}' of {known.model_type}, expected one of {', '.join(known.classes)}",
                hint=near_miss(asked, known.classes),
            )
        return asked
    named = raw.get("architectures")
    if named is None or named == []:
        return known.default_class
    if not isinstance(named, list) or not isinstance(named[0], str):
        raise ConfigError("expected a list with the name of a class", file=origin, key="architectures")
    if named[0] not in known.classes and not _is_real(named[0]):
        raise ConfigError(
            f"no builder for class '{named[0]}', expected one of {', '.join(known.classes)}",
            file=origin,
            key="architectures",
            hint=near_miss(named[0], known.classes) or "choose one with --class",
        )
    return named[0]


def _is_real(class_name: str) -> bool:
    from planner.real.build import real_class

    try:
        real_class(class_name)
    except UnsupportedError:
        return False
    return True


def _class_assumption(raw: Mapping[str, Any], chosen: str, asked: str | None) -> list[str]:
    if asked is not None or raw.get("architectures"):
        return []
    return [f"class {chosen}: the config names none, this is the family's usual one"]


__all__ = ["MODEL_TYPES", "Model", "build_model", "load_model", "with_overrides"]
