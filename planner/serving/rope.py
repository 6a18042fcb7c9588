"""Tables of cosines and sines that engines compute for all positions, read off a config."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from planner.catalog import read_text
from planner.formulas.serving import rope_cache_bytes
from planner.nodes import Attention, Module, Node, walk
from planner.numeric import Num

POSITIONS = "positions.csv"

POSITION_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length", "max_seq_len")
"""What configs call the positions that a model was made for."""

STRETCHED_IN_CONFIG = ("su", "longrope", "llama3", "mrope", "default", "proportional")
"""Scalings whose configs state the positions that they lead to, and not those that they start from."""


def rope_table_bytes(tree: Node, raw: Mapping[str, Any], max_model_len: Num, element_bytes: int, name: str = "") -> Num:
    """All tables of a model, each held once by every rank, however many layers share it. [B]

    Parameters
    ----------
    tree : Node
        The model.
    raw : mapping
        Its config.
    max_model_len : Num
        Positions where the config states none. [token]
    element_bytes : int
        Of the model's activations. [B]
    name : str
        Of the model, by which the catalog may know its positions.
    """
    style = tree.style if isinstance(tree, Module) else None
    if style is not None and style.rotary == "none":
        return 0
    attentions = [row.leaf for row in walk(tree) if isinstance(row.leaf, Attention) and _is_text(row.leaf)]
    if not attentions:
        return 0
    text = _text(raw)
    stated = stated_positions(raw, name)
    positions: Num = max_model_len if stated is None else stated
    rope = _scaling(raw, text, name)
    tables: Num = 0
    for windowed, scaling in _kinds(text, rope):
        chosen = [leaf for leaf in attentions if windowed is None or (leaf.window is not None) == windowed]
        if not chosen:
            continue
        rows = _rows(positions, scaling)
        tables = tables + rope_cache_bytes(rows, _width(chosen[0], text, scaling), element_bytes)
    return tables


def stated_positions(raw: Mapping[str, Any], name: str = "") -> int | None:
    """Positions that a config states, or that the catalog knows for a name or a model type; None where neither does."""
    text = _text(raw)
    for key in POSITION_KEYS:
        if isinstance(text.get(key), int):
            return int(text[key])
    known = _known(raw, name)
    return None if known is None else known.positions


def longest_request(raw: Mapping[str, Any], name: str = "") -> int | None:
    """Tokens of the longest request that an engine takes by itself; None where nobody states it. [token]

    Parameters
    ----------
    raw : mapping
        Config.
    name : str
        Of the model, by which the catalog may know its positions.

    References
    ----------
    .. [1] vLLM, config: _get_and_verify_max_len: the positions, times the factor of a scaling that the config states
       beside them, and for YaRN that of the original positions; Gemma 3 states what it leads to
    """
    positions = stated_positions(raw, name)
    text = _text(raw)
    scaling = _scaling(raw, text, name)
    kind, factor = scaling.get("rope_type", scaling.get("type", "default")), scaling.get("factor")
    if positions is None or not isinstance(factor, (int, float)) or kind in STRETCHED_IN_CONFIG:
        return positions
    if str(raw.get("model_type")).startswith("gemma3"):
        return positions
    if "yarn" in str(kind):
        original = scaling.get("original_max_position_embeddings")
        positions = int(original) if isinstance(original, (int, float)) else positions
    return int(positions * factor)


def _scaling(raw: Mapping[str, Any], text: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Scaling of the positions that the config states, null for none; what the catalog knows where it is silent."""
    for key in ("rope_parameters", "rope_scaling"):
        if key in text:
            return text[key] or {}
    known = _known(raw, name)
    return {} if known is None else {"rope_type": known.rope_type, "factor": known.rope_factor}


@dataclass(frozen=True, slots=True)
class _Positions:
    """A row of the catalog."""

    positions: int
    rope_type: str
    rope_factor: int


def _known(raw: Mapping[str, Any], name: str) -> _Positions | None:
    """What the catalog knows of a model by its name, which may be that of its file, or by its type."""
    stem = name.rpartition("/")[2].removesuffix(".json").replace("--", "/", 1)
    spellings = (name, stem, str(raw.get("model_type")), str(_text(raw).get("model_type")))
    table = _table()
    return next((table[spelling] for spelling in spellings if spelling in table), None)


@cache
def _table() -> dict[str, _Positions]:
    return {
        row["name"]: _Positions(int(row["positions"]), row["rope_type"], int(row["rope_factor"]))
        for row in csv.DictReader(read_text(POSITIONS).splitlines())
    }


def _is_text(leaf: Attention) -> bool:
    return leaf.causal and leaf.keys in ("self", "pooled")


def _text(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = raw.get("text_config")
    return {**raw, **inner} if isinstance(inner, Mapping) else raw


def _kinds(text: Mapping[str, Any], rope: Mapping[str, Any]) -> list[tuple[bool | None, Mapping[str, Any]]]:
    """Whether a table is for layers with a window, for those without, or for all (None); and its scaling."""
    if "full_attention" in rope:
        kinds: list[tuple[bool | None, Mapping[str, Any]]] = [(False, rope["full_attention"])]
        if "sliding_attention" in rope:
            kinds.append((True, rope["sliding_attention"]))
        return kinds
    if text.get("rope_local_base_freq") is not None or text.get("model_type") in ("gemma3", "gemma3_text"):
        return [(False, rope), (True, {})]
    return [(None, rope)]


def _width(leaf: Attention, text: Mapping[str, Any], scaling: Mapping[str, Any]) -> Num:
    kept = leaf.cached
    if kept is not None and kept.kind == "latent":
        return kept.value_width
    share = scaling.get("partial_rotary_factor") if isinstance(scaling, Mapping) else None
    if share is None:
        share = text.get("partial_rotary_factor", text.get("rotary_pct", 1.0))
    if scaling.get("rope_type") == "proportional":
        share = 1.0  # all angles are in the table, most of them 0
    return leaf.qk_head_dim if share == 1.0 else int(float(leaf.qk_head_dim * share))


def _rows(positions: Num, scaling: Mapping[str, Any]) -> Num:
    """Rows of a table: scalings that stretch the positions make it longer."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    factor: Num = scaling.get("factor", 1)
    original: Num | None = scaling.get("original_max_position_embeddings")
    if kind in ("linear", "dynamic"):
        return positions * factor
    if kind in ("yarn", "deepseek_yarn") and original is not None:
        return original * factor
    if kind in ("longrope", "su") and original is not None:
        return positions + original
    return positions
