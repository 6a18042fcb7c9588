"""Which modules an adapter is about: peft's rules on names, and its defaults by model type, from the catalog."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache

from planner.adapters.adapter import ALL_LINEAR, Adapter
from planner.catalog import read_text
from planner.errors import CatalogError, ScenarioError, UnsupportedError
from planner.nodes import Convolution, Experts, Linear, Node, Row, walk
from planner.numeric import Num

FILENAME = "adapter_targets.csv"

_PATTERN = "regex:"
_FUSED = "fused experts"
_LINEAR_ROUTER = "linear router"
_REFUSED = "lora refuses"
_INPUT_SIDE = "ia3 input side"
_OWN_TABLE = frozenset({"adalora", "beft", "ia3", "ln_tuning", "osf", "vblora"})
"""Methods whose defaults are their own; those of the others are LoRA's where they have no row."""


def resolved(adapter: Adapter, tree: Node, model_type: str) -> Adapter:
    """Adapter as peft applies it to a model of a type of transformers.

    Targets that are left out become the defaults of that type. Where transformers holds the experts as fused tensors
    and checkpoints hold them as modules, LoRA's targets by the modules' names become the tensors, a tensor of two
    matrices with twice the rank.

    Parameters
    ----------
    adapter : Adapter
        As the user states it.
    tree : Node
        The model.
    model_type : str
        The config's ``model_type``.

    Raises
    ------
    UnsupportedError
        No targets are given, and there is no default for this type; or one has no effect in it.
    ScenarioError
        One of two matrices that are one tensor is targeted without the other.
    """
    table = _table()
    if adapter.spec.targets not in ("linear", "any", "norm"):
        return adapter
    if (model_type, _LINEAR_ROUTER) in table:
        adapter = replace(adapter, routers_are_linear=True)
    if adapter.target_modules is None and not adapter.target_parameters:
        adapter = _with_defaults(adapter, model_type, table)
    if (refused := table.get((model_type, _REFUSED))) is not None and adapter.spec.targets == "any":
        _refuse(adapter, tree, refused.split(), model_type)
    fused = table.get((model_type, _FUSED))
    if fused is None or adapter.spec.targets != "any":
        return adapter
    return _with_fused_experts(adapter, tree, dict(pair.split(":") for pair in fused.split()))


def targeted(adapter: Adapter, path: str) -> bool:
    """Whether a path of a module is one of the targets, its kind aside; ``all-linear`` targets every path."""
    if _excluded(adapter, path):
        return False
    targets = adapter.target_modules
    if targets is None:
        return False
    if isinstance(targets, str):
        return targets.lower() == ALL_LINEAR or re.fullmatch(targets, path) is not None
    if path in targets:
        return True
    return ends_with_name(path, targets) and _in_layers(adapter, path)


def parameter_targeted(adapter: Adapter, path: str) -> bool:
    """Whether a path of a bare tensor is one of the targets."""
    return path in adapter.target_parameters or ends_with_name(path, adapter.target_parameters)


def saved(adapter: Adapter, path: str) -> bool:
    """Whether a module, or one around it, is trained as a copy."""
    parts = path.split(".")
    return bool(adapter.modules_to_save) and any(
        ".".join(parts[:end]).endswith(name) for end in range(1, len(parts) + 1) for name in adapter.modules_to_save
    )


def below(path: str, names: Iterable[str]) -> bool:
    """Whether a path leads through one of the names, which are whole parts of it.

    Examples
    --------
    >>> below("model.vision_tower.encoder.layers.0.fc1.weight", ["vision_tower"]), below("lm_head.weight", ["head"])
    (True, False)
    """
    return any(f".{name}." in f".{path}." for name in names)


def ends_with_name(path: str, names: Iterable[str]) -> bool:
    """Whether the last parts of a path are one of the names.

    Examples
    --------
    >>> ends_with_name("model.layers.0.self_attn.q_proj", ["q_proj"]), ends_with_name("my_q_proj", ["q_proj"])
    (True, False)
    """
    return any(path.endswith(f".{name}") for name in names)


def rank_of(adapter: Adapter, path: str) -> Num:
    """Rank of an adapted module or tensor. [-]"""
    pattern = rank_pattern_of(adapter, path)
    return adapter.rank_or_default if pattern is None else adapter.rank_pattern[pattern]


def rank_pattern_of(adapter: Adapter, path: str) -> str | None:
    """Pattern that gives a module or tensor its rank; None where it has the one that all have."""
    return next((pattern for pattern in adapter.rank_pattern if re.match(rf"(.*\.)?({pattern})$", path)), None)


def depends_on_index(adapter: Adapter) -> bool:
    """Whether two copies of a repeated block may differ, so that each path has to be looked at."""
    if adapter.layers_to_transform is not None or isinstance(adapter.exclude_modules, str):
        return True
    targets = adapter.target_modules
    if isinstance(targets, str) and targets.lower() != ALL_LINEAR:
        return True
    names: list[str] = [*adapter.exclude_modules, *adapter.modules_to_save, *adapter.target_parameters]
    names += [*adapter.rank_pattern, *adapter.frozen_modules, *adapter.trained_modules, *adapter.input_side_modules]
    if targets is not None and not isinstance(targets, str):
        names += targets
    return any(character.isdigit() for name in names for character in name)


def _excluded(adapter: Adapter, path: str) -> bool:
    excluded = adapter.exclude_modules
    if isinstance(excluded, str):
        if re.fullmatch(excluded, path):
            return True
    elif path in excluded or ends_with_name(path, excluded):
        return True
    # what is trained as a copy has no adapter beside it
    return any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in adapter.modules_to_save)


def _in_layers(adapter: Adapter, path: str) -> bool:
    if adapter.layers_to_transform is None:
        return True
    # the first number of a path is the layer, one behind it an expert
    patterns = adapter.layers_pattern or (r"[^.]*",)
    for pattern in patterns:
        found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", path)
        if found is not None:
            return int(found.group(1)) in adapter.layers_to_transform
    return False


def _with_defaults(adapter: Adapter, model_type: str, table: Mapping[tuple[str, str], str]) -> Adapter:
    found = table.get((model_type, adapter.method))
    if found is None and adapter.method not in _OWN_TABLE:
        found = table.get((model_type, "lora"))
    if found is None:
        raise UnsupportedError(
            f"there are no default targets of '{adapter.method}' for models of type '{model_type}'",
            key="target_modules",
            hint=f"name the modules, or '{ALL_LINEAR}' for every matrix",
        )
    modules = found.removeprefix(_PATTERN) if found.startswith(_PATTERN) else tuple(found.split())
    if adapter.method == "ia3" and not adapter.input_side_modules:
        side = table.get((model_type, _INPUT_SIDE), "")
        return replace(adapter, target_modules=modules, input_side_modules=tuple(side.split()))
    return replace(adapter, target_modules=modules)


def is_matrix_module(row: Row, *, routers: bool) -> bool:
    """Whether a row is a module of its own that transformers holds as a Linear or Conv1D.

    Most routers are modules that hold a bare tensor; those that are a Linear inside of a router are not meant.
    """
    leaf = row.leaf
    if not isinstance(leaf, Linear) or leaf.blocks is not None or leaf.weight_shape is not None:
        return False
    if leaf.weight_name not in ("weight", "classifier.weight"):
        return False
    if row.bucket != "router" or routers or leaf.weight_name != "weight":
        return True
    return row.path.rpartition(".")[2] not in ("gate", "router") or below(row.path.rpartition(".")[0], ["router"])


def module_path(row: Row, path: str) -> str:
    """Path of the module that holds the weight, which a few classes put one level below what runs."""
    inner = row.leaf.weight_name if isinstance(row.leaf, Linear) else None
    return f"{path}.{inner.rpartition('.')[0]}" if inner and "." in inner else path


def among_all_linear(row: Row, *, routers: bool) -> bool:
    """Whether ``all-linear`` includes a row: every matrix that is a module, but the output head."""
    leaf = row.leaf
    return isinstance(leaf, Linear) and not leaf.yields_logits and is_matrix_module(row, routers=routers)


def _refuse(adapter: Adapter, tree: Node, refused: Collection[str], model_type: str) -> None:
    """Kernels of some recurrences read a weight and not its module, so that an adapter there has no effect."""
    for row in walk(tree):
        if row.path.rpartition(".")[2] in refused and isinstance(row.leaf, (Linear, Convolution)):
            path = next(row.real_paths())
            every = str(adapter.target_modules).lower() == ALL_LINEAR
            if targeted(adapter, path) and (not every or isinstance(row.leaf, Linear)):
                raise UnsupportedError(
                    f"LoRA has no effect on {row.path} of models of type '{model_type}', whose kernel reads the weight",
                    key="target_modules",
                    hint="exclude it, or name other modules",
                )


def _with_fused_experts(adapter: Adapter, tree: Node, mapping: Mapping[str, str]) -> Adapter:
    names = _names(adapter, tree, mapping)
    parameters = set(adapter.target_parameters)
    kept, met = [], set()
    for name in names:
        old = next((old for old in mapping if name == old or name.endswith(f".{old}")), None)
        if old is None:
            kept.append(name)
        else:
            met.add(old)
            parameters.add(mapping[old])
    pair = [old for old, new in mapping.items() if new == "gate_up_proj"]
    here = [old for old in pair if old in met]
    if len(here) == 1:
        missing = next(old for old in pair if old not in met)
        raise ScenarioError(
            f"'{here[0]}' is one tensor with '{missing}' and cannot be targeted without it", key="target_modules"
        )
    patterns = dict(adapter.rank_pattern)
    if here:
        patterns[r".*\.gate_up_proj"] = adapter.rank_or_default * len(pair)
    return replace(
        adapter, target_modules=tuple(kept), target_parameters=tuple(sorted(parameters)), rank_pattern=patterns
    )


def _names(adapter: Adapter, tree: Node, mapping: Mapping[str, str]) -> Collection[str]:
    """Targets as names: those that a pattern means, by the last part of their paths."""
    targets = adapter.target_modules
    if targets is None:
        return ()
    if not isinstance(targets, str):
        return targets
    rows = list(walk(tree))
    last: dict[str, None] = {}
    if targets.lower() == ALL_LINEAR:
        for row in rows:
            if among_all_linear(row, routers=adapter.routers_are_linear):
                last[module_path(row, row.path).rpartition(".")[2]] = None
        return (*last, *(old for old in mapping if old not in last))
    for row in rows:
        if any(targeted(adapter, path) for path in row.real_paths()):
            last[row.path.rpartition(".")[2]] = None
    fused = [path for row in rows if isinstance(row.leaf, Experts) for path in row.real_paths()]
    inside = (f"{path}.{old}" for path in fused for old in mapping)
    for path in inside:
        old = path.rpartition(".")[2]
        if old not in last and targeted(adapter, path):
            last[old] = None
    return tuple(last)


@cache
def _table() -> dict[tuple[str, str], str]:
    table: dict[tuple[str, str], str] = {}
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    for row in reader:
        key = row["model_type"], row["method"]
        if key in table:
            raise CatalogError(f"'{key[1]}' of '{key[0]}' is given twice", file=FILENAME, line=reader.line_num)
        if not (row["modules"] and row["source"]):
            raise CatalogError("a cell is empty", file=FILENAME, line=reader.line_num)
        table[key] = row["modules"]
    return table
