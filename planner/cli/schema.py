"""`planner schema`: what a scenario file may say, for editors."""

from __future__ import annotations

import typer


def schema() -> None:
    """Print the JSON Schema of a scenario file, with which an editor completes and checks it."""
    import json

    from planner.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
