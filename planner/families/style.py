"""How the class of a model type computes, where no shape says it: facts of the catalog, and the activation's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from planner.catalog import Fact, read_facts
from planner.errors import CatalogError, near_miss
from planner.nodes import Style

STYLES = "class_styles.csv"

ACTIVATION_KEYS = ("hidden_activation", "hidden_act", "activation_function", "activation", "feed_forward_proj")
"""What configs call their nonlinearity; Gemma's second name overrides its first."""

OTHER_KEYS = {
    "rotary_width": ("rotary_dim", "qk_rope_head_dim"),
    "router_normed": ("norm_topk_prob",),
    "router_groups": ("n_group",),
    "router_groups_chosen": ("topk_group",),
}
"""Fields of a style, and what configs call them."""

SAME = "as"
"""Fact that names a model type whose classes compute alike."""

SHARE_KEYS = ("partial_rotary_factor", "rotary_pct")
"""What configs call the share of a head that rotary positions turn."""


def style_of(model_type: str, raw: Mapping[str, Any]) -> Style:
    """Style of a model type's classes.

    Parameters
    ----------
    model_type : str
        As config.json states it.
    raw : mapping
        The config, which may name the activation.

    Raises
    ------
    CatalogError
        The catalog states a fact that no style has.

    Examples
    --------
    >>> style_of("gpt2", {}).activation, style_of("gpt2", {"activation_function": "relu"}).activation
    ('gelu_new', 'relu')
    """
    text = raw.get("text_config")
    if isinstance(text, Mapping):
        # Of a whole that is made of parts, the decoder's: towers are LayerNorms and plain MLPs.
        inner = text.get("model_type")
        known_type = inner if isinstance(inner, str) and inner in read_facts(STYLES) else model_type
        return style_of(known_type, {**raw, **text, "text_config": None})
    known: dict[str, Any] = {}
    kinds = {field.name: str(field.type) for field in fields(Style)}
    for name, fact in _facts(model_type).items():
        if name not in kinds:
            raise CatalogError(f"no style has '{name}'", file=STYLES, hint=near_miss(name, kinds))
        number = {"float": fact.number, "int": fact.integer}.get(kinds[name])
        known[name] = _word(fact.value) if number is None else number("-")
    return Style(**{**known, **_stated(raw)})


def _facts(model_type: str) -> dict[str, Fact]:
    facts = dict(read_facts(STYLES).get(model_type, {}))
    same = facts.pop(SAME, None)
    return facts if same is None else {**_facts(same.value), **facts}


def _word(value: str) -> str | bool:
    return {"true": True, "false": False}.get(value, value)


def _stated(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says itself."""
    stated: dict[str, Any] = {}
    activation = _first(raw, ACTIVATION_KEYS, str)
    if activation is not None:
        stated["activation"] = _activation(activation)
    rope = raw.get("rope_parameters") or raw.get("rope_scaling")
    nested = rope if isinstance(rope, Mapping) else {}
    share = _first({**nested, **raw}, SHARE_KEYS, (int, float))
    if share is not None:
        stated["rotary_share"] = float(share)
    for name, keys in OTHER_KEYS.items():
        found = _first(raw, keys, int)
        if found is not None:
            stated[name] = found
    return stated


def _first(raw: Mapping[str, Any], keys: tuple[str, ...], kind: Any) -> Any:
    return next((raw[key] for key in keys if isinstance(raw.get(key), kind)), None)


def _activation(name: str) -> str:
    """T5 writes ``gated-`` before the name, and means the composed function where that is gelu."""
    gated = name.removeprefix("gated-")
    return "gelu_new" if name == "gated-gelu" else gated
