"""Reading a model's config: which keys shape it, what a missing one means, and what is wrong with a bad one.

A family's config is a frozen pydantic model whose fields carry the Hugging Face key names and, as defaults, what the
transformers class assumes when config.json does not state the key. Cross-checks between keys live in `check`, written
in arithmetic that also serves columns (see `planner.numeric`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from planner.errors import ConfigError, PlannerError
from planner.families.inert import is_inert
from planner.numeric import Num, divides, is_column, is_symbol

LARGEST_DIMENSION = 2**40
"""No tensor of any model comes near this; a larger number is a typing error or an attack."""

LARGEST_LAYER_COUNT = 100_000
"""Bound of lists and of everything that is built once per layer."""


def _dimension(value: object) -> object:
    if is_column(value) or is_symbol(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("dimension", "expected a whole number, got {found}", {"found": _shown(value)})
    if not 0 < value <= LARGEST_DIMENSION:
        raise PydanticCustomError(
            "dimension", "expected a positive number up to 2**40, got {found}", {"found": _shown(value)}
        )
    return value


def _layer_count(value: object) -> object:
    if isinstance(value, int) and value > LARGEST_LAYER_COUNT:
        raise PydanticCustomError("dimension", "expected at most 100,000, got {found}", {"found": _shown(value)})
    return value


def _optional_count(value: object) -> object:
    """Zero is allowed where a key counts something that a model may lack, such as dense first layers."""
    return value if value == 0 and isinstance(value, int) and not isinstance(value, bool) else _dimension(value)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python does not write integers beyond its own limit of digits.
        text = f"a {type(value).__name__} too long to write"
    return text if len(text) <= 40 else text[:37] + "..."


# The static type is int, which is what a config holds; a sweep puts a column in its place and a derivation a symbol.
Dimension = Annotated[int, BeforeValidator(_dimension, json_schema_input_type=int)]
"""Positive whole number that shapes a tensor."""

LayerCount = Annotated[int, BeforeValidator(_layer_count), BeforeValidator(_dimension, json_schema_input_type=int)]
"""How often a block is repeated."""

Count = Annotated[int, BeforeValidator(_layer_count), BeforeValidator(_optional_count, json_schema_input_type=int)]
"""Whole number that may be zero."""

Names = Annotated[list[str], Field(max_length=LARGEST_LAYER_COUNT)]
"""List with one word a layer."""


class ModelConfig(BaseModel):
    """Keys that shape a model; each family derives its own.

    Unknown keys are kept out here and reported by `read_config`, so that none is ignored in silence.
    """

    # arbitrary_types_allowed: a column or a symbol may stand where a scalar is declared
    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )

    accepted_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that real configs of the family carry and that its class does not use either."""

    column_free_keys: ClassVar[frozenset[str]] = frozenset()
    """Dimensions on which the tree's structure depends, so that a sweep builds one tree for each of their values."""

    model_type: str | None = None
    tie_word_embeddings: bool = False
    num_labels: Dimension = 2

    def check(self) -> None:
        """Raise `ConfigError` where keys contradict each other."""

    def replaced(self, values: Mapping[str, Num]) -> Self:
        """Copy with columns or symbols in place of some dimensions; `check` is run on the result."""
        changed = self.model_copy(update=dict(values))
        changed.check()
        return changed


C = TypeVar("C", bound=ModelConfig)


class ComposedConfig(ModelConfig):
    """Config of a model made of models, each with a config of its own inside."""

    def check(self) -> None:
        """Every part must hold."""
        for name in type(self).model_fields:
            part = getattr(self, name)
            if isinstance(part, ModelConfig):
                try:
                    part.check()
                except ConfigError as error:
                    raise ConfigError(error.message, key=f"{name}.{error.key}", hint=error.hint) from None


@dataclass(frozen=True, slots=True)
class ByModelType:
    """Validator of a nested config that may be of any family: its own `model_type` says of which.

    Attributes
    ----------
    default : str
        Model type where it states none.
    """

    default: str

    def kind(self, raw: object) -> type[ModelConfig]:
        """Config class of a nested config."""
        from planner.families import family  # here and not above, since the families import this module

        stated = raw.get("model_type") if isinstance(raw, Mapping) else None
        return family(stated if isinstance(stated, str) else self.default).config

    def __call__(self, value: object) -> object:
        """Nested config from its keys."""
        if isinstance(value, ModelConfig):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("nested", "expected a mapping of keys, got {found}", {"found": _shown(value)})
        kind = self.kind(value)
        return kind.model_validate({"model_type": self.default, **_stated_keys(kind, value)})


def nested_kind(kind: type[ModelConfig], name: str, raw: object) -> type[ModelConfig] | None:
    """Config class of the nested config in a field, or None where the field holds none."""
    field = kind.model_fields.get(name)
    if field is None:
        return None
    for item in field.metadata:
        chooser = getattr(item, "func", None)
        if isinstance(chooser, ByModelType):
            return chooser.kind(raw)
    members = get_args(field.annotation) if isinstance(field.annotation, UnionType) else (field.annotation,)
    for annotation in members:
        if isinstance(annotation, type) and issubclass(annotation, ModelConfig):
            return annotation
    return None


def require(condition: bool, key: str, message: str) -> None:
    """Raise `ConfigError` for `key` unless the condition holds."""
    if not condition:
        raise ConfigError(message, key=key)


def require_divides(divisor_key: str, divisor: Num, number_key: str, number: Num) -> None:
    """Raise `ConfigError` unless one dimension is a multiple of another."""
    if not divides(divisor, number):
        shown = "" if is_column(divisor) or is_column(number) else f" ({number} / {divisor})"
        raise ConfigError(f"must divide {number_key}{shown}", key=divisor_key)


def read_config(kind: type[C], raw: Mapping[str, Any], file: str | None = None) -> tuple[C, list[str]]:
    """Config of a family from the keys of a config.json.

    Parameters
    ----------
    kind : type of ModelConfig
        The family's config.
    raw : mapping
        Parsed config.json.
    file : str, optional
        Where it was read, for errors.

    Returns
    -------
    config : ModelConfig
        Validated and checked.
    assumptions : list of str
        One line for each default that was used in place of a missing key, and for each key that was not read.

    Raises
    ------
    ConfigError
        Names the file and the key, and says what was expected.
    """
    try:
        _check_spellings(kind, raw)
        config = kind.model_validate(_stated_keys(kind, raw))
        config.check()
    except ValidationError as error:
        raise _config_error(error, file) from None
    except PlannerError as error:
        raise ConfigError(error.message, file=file, key=error.key, hint=error.hint) from None
    return config, [*_defaults_used(config), *_unread_keys(kind, raw)]


def _check_spellings(kind: type[ModelConfig], raw: Mapping[str, Any], prefix: str = "") -> None:
    """A dimension under two of its names must have one value, in nested configs too."""
    for name in kind.model_fields:
        stated = {key: raw[key] for key in spellings(kind, name) if raw.get(key) is not None}
        if len(stated) > 1 and len(set(map(repr, stated.values()))) > 1:
            (first, value), (second, other), *_ = stated.items()
            raise ConfigError(
                f"is {_shown(value)}, but its other name {second} is {_shown(other)}", key=f"{prefix}{first}"
            )
        inner = raw.get(name)
        if isinstance(inner, Mapping) and (nested := nested_kind(kind, name, inner)) is not None:
            _check_spellings(nested, inner, f"{prefix}{name}.")


def _stated_keys(kind: type[ModelConfig], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that are stated: a null is not, unless the field itself knows null. Labels may be counted by their names."""
    stated = {key: value for key, value in raw.items() if value is not None or _knows_null(kind, key)}
    if isinstance(raw.get("id2label"), Mapping) and "num_labels" not in stated:
        stated["num_labels"] = len(raw["id2label"])
    return stated


def _knows_null(kind: type[ModelConfig], key: str) -> bool:
    field = kind.model_fields.get(key)
    return field is not None and type(None) in getattr(field.annotation, "__args__", ())


def _config_error(error: ValidationError, file: str | None) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"]
    if first["type"] == "missing":
        return ConfigError("is missing and the class has no default for it", file=file, key=key)
    if "found" not in (first.get("ctx") or {}):
        message = f"{message[0].lower()}{message[1:]}, got {_shown(first['input'])}"
    return ConfigError(message, file=file, key=key)


def known_keys(kind: type[ModelConfig]) -> frozenset[str]:
    """Every spelling of every key that a config reads."""
    return frozenset(spelling for name in kind.model_fields for spelling in spellings(kind, name)) | kind.accepted_keys


def spellings(kind: type[ModelConfig], name: str) -> Iterator[str]:
    """Name of a field and the other names that the class accepts for it."""
    yield name
    alias = kind.model_fields[name].validation_alias
    for choice in getattr(alias, "choices", ()):
        if choice != name:
            yield str(choice)


def field_of(kind: type[ModelConfig], key: str) -> str | None:
    """Field that reads `key`, or None."""
    return next((name for name in kind.model_fields if key in spellings(kind, name)), None)


def dimension_names(kind: type[ModelConfig]) -> frozenset[str]:
    """Fields that shape tensors and may hold a column or a symbol, the numbers of layers among them.

    Those of nested configs are not listed, nor those on which the tree's structure depends.
    """
    return frozenset(
        name
        for name, field in kind.model_fields.items()
        if name not in kind.column_free_keys and _validates_dimension(field.annotation, field.metadata)
    )


def _validates_dimension(annotation: object, metadata: Iterable[object] = ()) -> bool:
    """Whether `_dimension` is among the validators of an annotation or of a member of a union."""
    found = [*metadata, *getattr(annotation, "__metadata__", ())]
    if any(getattr(item, "func", None) is _dimension for item in found):
        return True
    return any(_validates_dimension(member) for member in getattr(annotation, "__args__", ()))


def validate_value(kind: type[ModelConfig], name: str, value: object) -> object:
    """One value of one field, validated alone; the axes of a sweep are checked so before they become columns.

    Raises
    ------
    ConfigError
        Names the key and says what was expected.
    """
    field = kind.model_fields[name]
    annotation: Any = field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[annotation, *field.metadata] if field.metadata else annotation)
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        problem = _config_error(error, None)
        raise ConfigError(problem.message, key=name) from None


def _defaults_used(config: ModelConfig) -> Iterator[str]:
    fields = type(config).model_fields
    # A part without a vocabulary, such as an image tower, has no head to tie.
    unremarkable = UNREMARKABLE_DEFAULTS | (frozenset() if "vocab_size" in fields else {"tie_word_embeddings"})
    for name in fields:
        value = getattr(config, name)
        if name not in config.model_fields_set and name not in unremarkable and not _is_derived(value):
            yield f"{name} = {_shown(value)}: not in the config, default of the {config_family(config)} class"
        elif isinstance(value, ModelConfig):
            for line in _defaults_used(value):
                yield f"{name}.{line}"


def _is_derived(value: object) -> bool:
    """A default of None stands for what follows from other keys, or for nothing at all."""
    return value is None


UNREMARKABLE_DEFAULTS = frozenset({"num_labels", "is_decoder", "add_cross_attention"})
"""Keys whose absence is not worth a line: they concern heads and layers that hardly any config asks for."""


def config_family(config: ModelConfig) -> str:
    """Word for a config in messages: its class without the suffix."""
    return type(config).__name__.removesuffix("Config")


NOT_READ = "not read by this family"
"""Words that mark the assumption about a key which nobody read."""


def _unread_keys(kind: type[ModelConfig], raw: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    known = known_keys(kind)
    for key, value in raw.items():
        name = field_of(kind, key)
        nested = nested_kind(kind, name, value) if name else None
        if nested is not None and isinstance(value, Mapping):
            yield from _unread_keys(nested, value, f"{prefix}{key}.")
        elif key not in known and not is_inert(key) and value is not None:
            consequence = "if it shapes the model, this count misses it"
            yield f"{prefix}{key} = {_shown(value)}: {NOT_READ}; {consequence}"
