"""Real modules: classes of transformers built without their weights, and what any torch module says about itself.

This package and `planner.verify` are the only ones that import torch and transformers; both are loaded on call.
"""
