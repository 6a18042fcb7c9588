"""Arguments and options that several commands share, and how the text of one becomes a value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from planner.errors import PlannerError

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A config.json or its folder, an <org>/<name>, or an alias such as gpt2; `planner models` lists them.",
    ),
]

ModuleName = Annotated[
    str | None,
    typer.Option(
        "--module",
        metavar="PACKAGE.MODULE:FACTORY",
        help="A torch module of your own: what to import and call, without arguments, from the current directory.",
        show_default=False,
    ),
]

ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models",
        metavar="DIR",
        help="Folder of configs to search first: <org>--<name>.json or <org>/<name>/config.json.",
    ),
]

ClassName = Annotated[
    str | None,
    typer.Option("--class", metavar="CLASS", help="Class of transformers in place of the one that the config names."),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the config, such as num_hidden_layers=4; may be given several times.",
    ),
]

Offline = Annotated[bool, typer.Option("--offline", help="Do not ask the hub for configs.")]


def parse_overrides(texts: Iterable[str] | None) -> dict[str, object]:
    """Config keys from the texts of ``--set key=value``; a value is JSON where it reads as JSON, and else a string.

    Parameters
    ----------
    texts : iterable of str or None
        ``key=value``, where a dotted key reaches into a nested config.

    Raises
    ------
    PlannerError
        No ``=``, no key, or a key twice.

    Examples
    --------
    >>> parse_overrides(["num_hidden_layers=4", "tie_word_embeddings=true", "q_lora_rank=null", "hidden_act=gelu"])
    {'num_hidden_layers': 4, 'tie_word_embeddings': True, 'q_lora_rank': None, 'hidden_act': 'gelu'}
    """
    overrides: dict[str, object] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise PlannerError(f"expected --set key=value, got '{text}'", hint="for example --set num_hidden_layers=4")
        if key in overrides:
            raise PlannerError("is set twice", key=key)
        overrides[key] = _value(value.strip())
    return overrides


def _value(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value
