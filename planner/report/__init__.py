"""Results as text for people and as data for programs."""

from planner.report.tables import FORMATS, Table, check_format, render

__all__ = ["FORMATS", "Table", "check_format", "render"]
