"""Measurements against predictions: how far off has it been?"""
