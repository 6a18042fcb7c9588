"""Where a model's config comes from: a file, a folder of configs, the catalog, the local cache, or the hub.

Only config.json is ever read; no code of a repository is run.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from planner.catalog.models import catalog_models, find_catalog_model
from planner.errors import ConfigError, UnknownNameError, near_miss

MODELS_VARIABLE = "PLANNER_MODELS"
"""Environment variable that names a folder of configs."""

LARGEST_CONFIG_BYTES = 4 * 2**20
"""The largest real config.json, with its label lists, is a tenth of this."""

LONGEST_SHOWN = 80
"""Characters of a name that an error repeats. [-]"""

DEEPEST_CONFIG = 32
"""Nesting beyond this is an attack on the parser, not a config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSource:
    """A config and where it was read.

    Attributes
    ----------
    name : str
        What the user asked for.
    raw : mapping
        Parsed config.json.
    origin : str
        The file, catalog line or repository, for errors and assumptions.
    """

    name: str
    raw: Mapping[str, Any]
    origin: str


def find_config(name: str, *, models_dir: Path | None = None, offline: bool = False) -> ConfigSource:
    """Config of a model, from the first place that knows it.

    Parameters
    ----------
    name : str
        A path to a config.json or to its folder, or a name: ``<org>/<name>``, or a catalog alias.
    models_dir : Path, optional
        Folder that is searched before the catalog, for ``<org>--<name>.json`` and ``<org>/<name>/config.json``;
        the environment variable ``PLANNER_MODELS`` names one as well.
    offline : bool
        Do not ask the hub. ``HF_HUB_OFFLINE`` says the same.

    Raises
    ------
    UnknownNameError
        No place knows the name; the message says which were asked.
    ConfigError
        The file is not a config.
    """
    try:
        path = _as_path(name)
    except OSError as error:
        # Longer than a file system takes, or in a folder that is closed.
        raise UnknownNameError(f"'{name[:LONGEST_SHOWN]}' cannot be looked up: {error.strerror}") from None
    if path is not None:
        return ConfigSource(name=name, raw=read_config_file(path), origin=str(path))
    for folder in _folders(models_dir):
        for candidate in _candidates(folder, name):
            if candidate.is_file():
                return ConfigSource(name=name, raw=read_config_file(candidate), origin=str(candidate))
    entry = find_catalog_model(name)
    if entry is not None:
        return ConfigSource(name=name, raw=entry.config, origin=f"catalog: {entry.source}")
    cached = _from_cache(name)
    if cached is not None:
        return ConfigSource(name=name, raw=read_config_file(cached), origin=str(cached))
    if not offline and not hub_is_off():
        return ConfigSource(name=name, raw=read_config_file(_from_hub(name)), origin=f"hub: {name}")
    raise UnknownNameError(
        f"unknown model '{name}': no such file, not in {_places(models_dir)} or the local cache, and the hub is off",
        hint=near_miss(name, _known_names()),
    )


def read_config_file(path: Path) -> Mapping[str, Any]:
    """Parsed config.json.

    Raises
    ------
    ConfigError
        Too large, truncated, not an object, a key given twice, or NaN.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_CONFIG_BYTES:
            raise ConfigError(f"is {size:,} bytes, expected a config of at most {LARGEST_CONFIG_BYTES:,}", file=path)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from None
    except UnicodeDecodeError:
        raise ConfigError("is not text in UTF-8, expected JSON", file=path) from None
    return parse_config(text, str(path))


def parse_config(text: str, file: str) -> Mapping[str, Any]:
    """Text of a config.json as a mapping; see `read_config_file`."""
    try:
        raw = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_constant)
        _check_values(raw, "", 0)
    except json.JSONDecodeError as error:
        raise ConfigError(f"is not JSON: {error.msg}", file=file, line=error.lineno) from None
    except RecursionError:
        raise ConfigError(f"is nested deeper than {DEEPEST_CONFIG} levels", file=file) from None
    except ValueError as error:
        # int() refuses digits beyond its own limit
        raise ConfigError(f"holds a value that cannot be read: {error}", file=file) from None
    except ConfigError as error:
        raise ConfigError(error.message, file=file, key=error.key) from None
    if not isinstance(raw, dict):
        raise ConfigError(f"expected an object with keys, got a {type(raw).__name__}", file=file)
    return raw


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError("is given twice", key=key)
        found[key] = value
    return found


def _constant(word: str) -> float:
    """Python's JSON knows three words more than JSON: real configs bound a time step by Infinity; NaN is a mistake."""
    if word == "NaN":
        raise ConfigError(f"{word} is not a number that a config may hold")
    return float(word)


def _check_values(value: object, key: str, depth: int) -> None:
    if depth > DEEPEST_CONFIG:
        raise ConfigError(f"is nested deeper than {DEEPEST_CONFIG} levels", key=key)
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_values(inner, f"{key}.{name}" if key else name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_values(inner, key, depth + 1)


def _as_path(name: str) -> Path | None:
    path = Path(name)
    if path.is_dir():
        config = path / "config.json"
        if config.is_file():
            return config
        if _looks_like_path(name):
            raise UnknownNameError(f"'{name}' is a folder without a config.json")
        return None
    if path.is_file():
        return path
    if _looks_like_path(name):
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UnknownNameError(f"no such file: '{name}'", hint=near_miss(path.name, siblings))
    return None


def _looks_like_path(name: str) -> bool:
    return name.endswith(".json") or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _folders(models_dir: Path | None) -> Iterator[Path]:
    if models_dir is not None:
        if not models_dir.is_dir():
            raise UnknownNameError(f"no such folder: '{models_dir}'")
        yield models_dir
    if os.environ.get(MODELS_VARIABLE):
        yield Path(os.environ[MODELS_VARIABLE])


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    if ".." in Path(name).parts:
        return
    yield folder / f"{name.replace('/', '--')}.json"
    yield folder / name / "config.json"


def _places(models_dir: Path | None) -> str:
    return ", ".join([*(f"'{folder}'" for folder in _folders(models_dir)), "the catalog"])


def _known_names() -> list[str]:
    return [spelling for entry in catalog_models() for spelling in entry.names]


def hub_is_off() -> bool:
    """Whether the environment says that the hub is not to be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def cached_repository(name: str) -> Path | None:
    """Folder of a repository in the cache of Hugging Face; None where the cache does not know it."""
    root = Path(
        os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface") / "hub"
    )
    folder = root / f"models--{name.replace('/', '--')}"
    return folder if folder.is_dir() else None


def _from_cache(name: str) -> Path | None:
    """Cached config.json; huggingface_hub, slow to import, is asked only where the cache knows the repository."""
    folder = cached_repository(name)
    if folder is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", cache_dir=folder.parent)
    return Path(found) if isinstance(found, str) else None


HUB_TIMEOUT_SECONDS = 3
"""How long a hub may take to accept a connection; the download itself has huggingface_hub's own limits."""


def hub_answers() -> bool:
    """Whether the hub accepts a connection: huggingface_hub would retry a dead network for half a minute."""
    from huggingface_hub.constants import ENDPOINT

    address = urlsplit(ENDPOINT)
    if getproxies().get(address.scheme):
        return True
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=HUB_TIMEOUT_SECONDS):
            return True
    except OSError:
        return False


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    hint = near_miss(name, _known_names())
    unreachable = UnknownNameError(
        f"unknown model '{name}': no such file, not in the catalog or the cache, and the hub cannot be reached",
        hint=hint,
    )
    if not hub_answers():
        raise unreachable
    try:
        return Path(hf_hub_download(name, "config.json"))
    except HFValidationError:
        raise UnknownNameError(
            f"unknown model '{name}': no such file, and no name that the hub allows", hint=hint
        ) from None
    except LocalEntryNotFoundError:
        raise unreachable from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = "needs a login or an accepted licence" if status in (401, 403) else f"answered {status}"
        raise UnknownNameError(f"unknown model '{name}': not in the catalog, and the hub {reason}", hint=hint) from None
