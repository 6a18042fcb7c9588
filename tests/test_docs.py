"""The README shows what the commands print.

`python tests/test_docs.py` writes the output of every block anew.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from planner.report import render

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
VERSION = re.compile(r"\b(torch|transformers|fvcore) [\w.+]+")
"""What differs between machines on which the commands print the same otherwise."""

BLOCK = re.compile(r"```console\n(.*?)```\n", re.DOTALL)


def _blocks(text: str) -> list[str]:
    return BLOCK.findall(text)


def _command(block: str) -> str:
    first = block.splitlines()[0]
    assert first.startswith("$ planner "), first
    return first.removeprefix("$ planner ")


def _printed(command: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-m", "planner", *shlex.split(command)]
    run = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stderr
    return run.stdout.rstrip("\n") + "\n"


def _commands() -> list[str]:
    return [_command(block) for block in _blocks(README.read_text(encoding="utf-8"))]


@pytest.mark.slow
@pytest.mark.parametrize("command", _commands())
def test_the_readme_shows_what_the_command_prints(command: str) -> None:
    (block,) = [block for block in _blocks(README.read_text(encoding="utf-8")) if _command(block) == command]
    printed = f"$ planner {command}\n{_printed(command)}"
    assert VERSION.sub(r"\1", block) == VERSION.sub(r"\1", printed)


def test_the_readme_shows_something_of_every_question() -> None:
    first_words = {command.split()[0] for command in _commands()}
    assert first_words >= {"params", "flops", "memory", "verify", "sweep", "plan"}


def test_the_test_command_of_the_readme_is_what_ci_runs() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (command,) = [
        line for line in README.read_text(encoding="utf-8").splitlines() if "pytest" in line and "pip" in line
    ]
    assert command.removeprefix("pip install") in run.replace("pip install --quiet", "")


def _tables() -> dict[str, str]:
    """Tables of the README that the code writes, by the comment above them."""
    from planner.sweep.table import column_table, field_table

    return {"fields": render(field_table(), "markdown"), "columns": render(column_table(), "markdown")}


@pytest.mark.parametrize("name", ["fields", "columns"])
def test_a_table_of_the_readme_is_what_the_code_says(name: str) -> None:
    assert f"<!-- {name} -->\n\n{_tables()[name]}\n<!-- end -->" in README.read_text(encoding="utf-8")


def write_readme() -> None:
    """Put what the commands print now into the README."""
    text = README.read_text(encoding="utf-8")
    for block in _blocks(text):
        command = _command(block)
        text = text.replace(f"```console\n{block}```\n", f"```console\n$ planner {command}\n{_printed(command)}```\n")
    for name, table in _tables().items():
        before, _, rest = text.partition(f"<!-- {name} -->")
        after = rest.partition("<!-- end -->")[2]
        text = f"{before}<!-- {name} -->\n\n{table}\n<!-- end -->{after}"
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_readme()
