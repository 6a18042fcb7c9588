"""The command line: parse, call one function, render. No arithmetic happens here."""

from planner.cli.app import main

__all__ = ["main"]
