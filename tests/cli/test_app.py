"""The program as a process: exit status, and what goes to which stream."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from planner._version import __version__
from planner.cli.app import app


def _planner(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planner", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


def test_an_error_is_one_line_on_stderr_and_exit_status_2() -> None:
    run = _planner("params", "bert-base-uncased", "--set", "num_attention_heads=7")
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert "num_attention_heads: must divide hidden_size (768 / 7)" in run.stderr


def test_a_wrong_option_exits_2() -> None:
    assert _planner("params", "bert-base-uncased", "--nonsense").returncode == 2


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = f"{sys.executable} -m planner params bert-base-uncased --explain | head -n 1"
    run = subprocess.run(program, shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert run.returncode == 0
    assert run.stderr == ""


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"planner {__version__}\n"


COMMANDS = [
    "params",
    "flops",
    "memory",
    "cache",
    "fit",
    "verify",
    "validate",
    "sweep",
    "plan",
    "schema",
    "gpus",
    "models",
    "recipes",
    "engines",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0, result.output


def test_the_commands_are_these() -> None:
    assert sorted(COMMANDS) == sorted(str(command.name) for command in app.registered_commands)
