"""How a count comes about: every module with its shape, and the formula of each repeated block in symbols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planner.counts import count, held_tensors
from planner.families.config import ModelConfig, dimension_names
from planner.models import Model
from planner.nodes import Module, Node, Repeat, Row, Stack, walk
from planner.numeric import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleLine:
    """One tensor of the derivation.

    Attributes
    ----------
    path : str
        Tensor, ``*`` for the index of a repeated block.
    shape : tuple of int
        As torch holds it. [-]
    copies : int
        How often it stands in the model. [-]
    parameters : int
        Of all copies. [-]
    bucket : str
        Component in the breakdown.
    """

    path: str
    shape: tuple[Num, ...]
    copies: Num
    parameters: Num
    bucket: str


def module_lines(model: Model) -> list[ModuleLine]:
    """Every tensor of a model; their parameters sum to its total."""
    return [line for row in walk(model.tree) for line in _tensor_lines(row)]


def tied_lines(model: Model) -> list[tuple[str, str]]:
    """Modules that run with another one's weight, and whose it is."""
    return [(row.path, row.tied_to) for row in walk(model.tree) if row.tied_to is not None]


def _tensor_lines(row: Row) -> Iterator[ModuleLine]:
    for tensor in held_tensors(row):
        yield ModuleLine(
            path=".".join(part for part in (row.path, tensor.name) if part),
            shape=tensor.shape,
            copies=row.copies,
            parameters=row.copies * tensor.numel,
            bucket=row.bucket,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormula:
    """Parameters of one repeated block in symbols.

    Attributes
    ----------
    path : str
        Where the block stands.
    copies : int
        How often. [-]
    components : dict of str to str
        Formula of each component, in the config's own key names.
    formula : str
        Their sum.
    values : dict of str to int
        The symbols' values.
    parameters : int
        What the formula gives for them. [-]
    """

    path: str
    copies: Num
    components: Mapping[str, str]
    formula: str
    values: Mapping[str, int]
    parameters: int


def block_formulas(model: Model) -> list[BlockFormula]:
    """Formula of each kind of block, derived by building the same tree from symbols."""
    import sympy

    values = _symbol_values(model.config)
    symbols = {name: sympy.Symbol(name, positive=True, integer=True) for name in values}
    symbolic = dict(_blocks(model.tree_of(_symbolic(model.config, symbols))))
    formulas = []
    for (path, indices), block in _blocks(model.tree):
        counts = count(symbolic[path, indices].child)
        total = sympy.expand(counts.total)
        used = sorted(str(symbol) for symbol in total.free_symbols)
        formulas.append(
            BlockFormula(
                path=path,
                copies=block.count,
                components={bucket: str(sympy.expand(value)) for bucket, value in counts.breakdown.items()},
                formula=str(total),
                values={name: values[name] for name in used},
                parameters=int(total.subs({symbols[name]: values[name] for name in used})),
            )
        )
    return formulas


def _symbol_values(config: ModelConfig, prefix: str = "") -> dict[str, int]:
    """Dimensions by key path; how often blocks are repeated stays a number, since it decides which blocks there are."""
    values: dict[str, int] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, ModelConfig):
            values |= _symbol_values(value, f"{prefix}{name}.")
        elif name in dimension_names(type(config)) and isinstance(value, int) and not _is_layer_count(name):
            values[f"{prefix}{name}"] = value
    return values


def _is_layer_count(name: str) -> bool:
    counted = ("num_layers", "num_hidden_layers", "num_decoder_layers", "n_layer", "encoder_layers", "decoder_layers")
    return name.startswith((*counted, "num_hidden_groups", "inner_group_num"))


def _symbolic(config: ModelConfig, symbols: Mapping[str, Any], prefix: str = "") -> ModelConfig:
    changed: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, ModelConfig):
            changed[name] = _symbolic(value, symbols, f"{prefix}{name}.")
        elif f"{prefix}{name}" in symbols:
            changed[name] = symbols[f"{prefix}{name}"]
    return config.replaced(changed)


def _blocks(node: Node, path: str = "") -> Iterator[tuple[tuple[str, object], Repeat]]:
    """Repeated blocks that differ in shape, by path and indices."""
    if isinstance(node, Module):
        for name, child in node.children.items():
            yield from _blocks(child, f"{path}.{name}" if path and name else path or name)
    elif isinstance(node, Stack):
        for part in node.parts:
            yield from _blocks(part, path)
    elif isinstance(node, Repeat) and node.count:
        yield (path, node.indices), node


def derivation(model: Model) -> dict[str, Any]:
    """The whole derivation as plain values, for JSON."""
    return {
        "modules": [
            {
                "path": line.path,
                "shape": list(line.shape),
                "copies": line.copies,
                "parameters": line.parameters,
                "bucket": line.bucket,
            }
            for line in module_lines(model)
        ],
        "tied": [{"path": path, "to": to} for path, to in tied_lines(model)],
        "blocks": [
            {
                "path": block.path,
                "copies": block.copies,
                "components": dict(block.components),
                "formula": block.formula,
                "values": dict(block.values),
                "parameters": block.parameters,
            }
            for block in block_formulas(model)
        ],
    }
