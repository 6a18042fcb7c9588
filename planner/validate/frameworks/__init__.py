"""Readers of measured rows, one file a stack of frameworks."""
