"""The nodes of a model's tree, and the walk over it: data only, no formula.

A tree is named like the torch module that it describes: joining the names from the root to a leaf with dots gives the
path of a module (`Linear`, `Embedding`, `Norm`, ...) or of a bare tensor (`Parameter`). So every number can be
compared path by path with the real model.

Dimensions are `planner.numeric.Num`: a number, a column, or a symbol.
"""

from planner.nodes.kinds import (
    CONTEXT,
    CROSS,
    LOGITS,
    ONCE,
    SOURCE,
    TOKENS,
    Attention,
    Cached,
    Convolution,
    Embedding,
    Experts,
    Leaf,
    Linear,
    Module,
    Node,
    Norm,
    Parameter,
    Product,
    Repeat,
    Scan,
    Stack,
    Stream,
    Tied,
)
from planner.nodes.style import Style
from planner.nodes.walk import Place, Row, walk

__all__ = [
    "CONTEXT",
    "CROSS",
    "LOGITS",
    "ONCE",
    "SOURCE",
    "TOKENS",
    "Attention",
    "Cached",
    "Convolution",
    "Embedding",
    "Experts",
    "Leaf",
    "Linear",
    "Module",
    "Node",
    "Norm",
    "Parameter",
    "Place",
    "Product",
    "Repeat",
    "Row",
    "Scan",
    "Stack",
    "Stream",
    "Style",
    "Tied",
    "walk",
]
