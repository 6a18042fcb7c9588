"""What a stored tensor is that is no parameter of the model: a buffer, a head tied or foreign, a further layer."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from planner.catalog import read_text
from planner.checkpoint import KINDS, MTP, TIED_HEAD
from planner.errors import CatalogError
from planner.families.beside import MTP_TABLES
from planner.headers.names import Weights
from planner.headers.roles import Part
from planner.headers.slots import Slot, Target, pattern_of, targets_of
from planner.models import Model

FILENAME = "buffers.csv"

TIED_TABLE = "tied_table_twice"
CACHE_SCALES = "kv_cache_scales"
QUANTISER_BIASES = "quantiser_biases"
MORE_LAYERS = "more_layers"
OTHER_CLASS = "other_class"
SCALAR_BUFFERS = "scalar_buffers"
UNKNOWN = "unknown"

WHY: Mapping[str, str] = {
    **{name: kind.why for name, kind in KINDS.items()},
    TIED_TABLE: "table that is tied to another one, stored as a second tensor",
    CACHE_SCALES: "scales of a quantised key/value cache",
    SCALAR_BUFFERS: "single numbers that the class keeps as buffers",
    QUANTISER_BIASES: "biases that AutoGPTQ writes for every matrix, zeros where the class has none",
    MORE_LAYERS: "layers beyond those that the config counts",
    UNKNOWN: "nothing that is known of this model or of checkpoints",
}
"""What each kind is, for the reader of a table: the terms of `planner.checkpoint`, and those that only files have."""

CACHE_ENDINGS = (".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".prob_output_scale", ".kv_cache_scaling_factor")
"""vLLM, quantization/kv_cache.py: what it reads beside an attention."""

GGUF_BLOCKS = "blk."
"""How GGUF calls the one list of layers that it has."""

PREDICTION_TABLES = ("embed_tokens.weight", "shared_head.head.weight")
"""Copies that a module of multi-token prediction holds: DeepSeek-V3, README_WEIGHTS.md."""


@cache
def buffer_endings() -> Mapping[str, str]:
    """Kind of each ending of a name that only buffers have.

    Raises
    ------
    CatalogError
        A row names a kind that `WHY` does not know, or an ending stands twice.
    """
    found: dict[str, str] = {}
    reader = csv.DictReader(read_text(FILENAME).splitlines())
    for row in reader:
        if row["kind"] not in WHY or row["ending"] in found or not row["source"]:
            raise CatalogError(f"is no rule about '{row['ending']}'", file=FILENAME, line=reader.line_num)
        found[row["ending"]] = row["kind"]
    return found


@dataclass(frozen=True)
class Beyonds:
    """What is known about the tensors beyond a model's parameters.

    Attributes
    ----------
    model : Model
        The model.
    targets : mapping of str to Target
        Its tensors, by their names with stars.
    weights : mapping of str to parts
        All that the files hold.
    """

    model: Model
    targets: Mapping[str, Target]
    weights: Weights

    def kind_of(self, weight: str, parts: tuple[Part, ...]) -> tuple[str, str]:
        """Kind of a weight and what it is, in words."""
        kind = self._by_name(weight)
        if kind is not None:
            return kind, WHY[kind]
        pattern, indices = pattern_of(weight)
        for name in self._classes_with(pattern):
            slot = self._other_classes[name][pattern].find(indices)
            if slot is not None and slot.numel == sum(part.tensor.numel for part in parts):
                return OTHER_CLASS, f"parameters of {name}, which {self.model.class_name} does not have"
        return UNKNOWN, WHY[UNKNOWN]

    def _classes_with(self, pattern: str) -> list[str]:
        return [name for name, targets in self._other_classes.items() if pattern in targets]

    def _by_name(self, weight: str) -> str | None:
        kind = next((kind for ending, kind in buffer_endings().items() if f".{weight}".endswith(ending)), None)
        if kind is not None:
            return kind
        if f".{weight}".endswith(CACHE_ENDINGS):
            return CACHE_SCALES
        if weight.endswith(".bias") and self._is_packed(weight.removesuffix(".bias") + ".weight"):
            return QUANTISER_BIASES
        predicts = self.model.family.prediction is not None
        if any(part.startswith(("mtp", "nextn")) for part in weight.split(".")) or (
            predicts and self._is_later(weight)
        ):
            return MTP_TABLES if weight.endswith(PREDICTION_TABLES) else MTP
        return MORE_LAYERS if self._is_later(weight) else None

    def _is_packed(self, weight: str) -> bool:
        return any(part.tensor.name.endswith(".qweight") for part in self.weights.get(weight, ()))

    def _is_later(self, weight: str) -> bool:
        """Whether a name is that of a layer behind the last one."""
        pattern, indices = pattern_of(weight)
        start, star, _ = pattern.partition("*")
        last = max(self._last_layers.values(), default=None) if start == GGUF_BLOCKS else self._last_layers.get(start)
        return bool(star) and last is not None and indices[0] > last

    @cached_property
    def _last_layers(self) -> Mapping[str, int]:
        """Last index of every list of layers, by what stands before it."""
        last: dict[str, int] = {}
        for pattern, target in self.targets.items():
            start, star, _ = pattern.partition("*")
            if star and not (target.experts and pattern.count("*") == 1):
                last[start] = max(last.get(start, -1), *(indices[0] for indices in target.slots))
        return last

    @cached_property
    def _other_classes(self) -> Mapping[str, Mapping[str, Target]]:
        """Tensors that other classes of the family have beyond those of the model's."""
        classes = self.model.family.classes
        own = frozenset(self.targets)
        built = {
            name: targets_of(build(self.model.config))
            for name, build in classes.items()
            if name != self.model.class_name
        }
        return {
            name: {pattern: target for pattern, target in targets.items() if pattern not in own}
            for name, targets in built.items()
        }


def tied_kind(slot: Slot) -> tuple[str, str]:
    """Kind of a tensor that is stored although it is another one's."""
    kind = TIED_HEAD if slot.yields_logits else TIED_TABLE
    return kind, f"{WHY[kind]}: the weight of {slot.tied_to}"


__all__ = ["UNKNOWN", "WHY", "Beyonds", "buffer_endings", "tied_kind"]
