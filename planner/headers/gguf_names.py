"""Which tensor of a model a tensor of a GGUF file is, by the gguf library's own list of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from planner.headers.gguf import ARCHITECTURE_KEY
from planner.headers.names import Match, Weights
from planner.headers.slots import Slot, Target, pattern_of

ENDINGS = (".weight", ".bias")

PREFIXES = ("", "model.", "backbone.", "transformer.")
"""What the list writes before the names inside a model."""

CONVERTED = ((".dt_bias", ".dt_proj.bias"), (".router.weight", ".router.layer.weight"))
"""Endings that llama.cpp's convert_hf_to_gguf.py renames before it looks them up, or that files of the hub have."""

TOWERS = ("vision.", "audio.", "projector")
"""Buckets of what lies in a file of its own, whose architecture is `MMPROJ`."""
MMPROJ = "clip"

LATENT = "kv_b_proj"
"""What DeepSeek's latents are multiplied with; llama.cpp splits it into keys and values."""


def match_gguf(weights: Weights, targets: Mapping[str, Target], metadata: Mapping[str, Any]) -> dict[str, Match]:
    """Slot of every weight of a GGUF file that has one; none where the library does not know the architecture."""
    from gguf import get_tensor_name_map
    from gguf.constants import MODEL_ARCH_NAMES

    architecture = metadata.get(ARCHITECTURE_KEY)
    known = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        return {}
    blocks = 1 + max((index for name in weights for index in pattern_of(name)[1][:1]), default=0)
    names = get_tensor_name_map(known[architecture], blocks)
    found: dict[str, Match] = {}
    for target in targets.values():
        if target.experts:
            continue  # GGUF has the experts of a layer in one tensor
        for slot in target.slots.values():
            if slot.bucket.startswith(TOWERS) != (architecture == MMPROJ):
                continue
            for name in _names(slot, names):
                if name in weights and name not in found:
                    found[name] = Match(slot, sum(part.tensor.numel for part in weights[name]))
    return found


def _names(slot: Slot, names: Any) -> Iterator[str]:
    """Names that a slot may have in a file; where several are there, each holds a part of it."""
    own = _own_name(slot.name, names)
    if own is not None:
        yield own
        yield f"{own}.weight"
    if LATENT in slot.name and own is not None:
        yield own.replace("attn_kv_b", "attn_k_b")
        yield own.replace("attn_kv_b", "attn_v_b")
    yield from _expert_names(slot)


def _own_name(name: str, names: Any) -> str | None:
    """Name by the library's list, which leaves out how a class calls the model inside it."""
    parts = name.split(".")
    for start in range(len(parts)):
        for prefix in PREFIXES:
            inside = prefix + ".".join(parts[start:])
            for written in (inside, *(inside.replace(old, new) for old, new in CONVERTED if inside.endswith(old))):
                found: str | None = names.get_name(written, try_suffixes=ENDINGS)
                if found is not None:
                    return found
    return None


def _expert_names(slot: Slot) -> Iterator[str]:
    from gguf.constants import MODEL_TENSOR, TENSOR_NAMES

    last = slot.name.rpartition(".")[2]
    fused = {
        "gate_up_proj": (MODEL_TENSOR.FFN_GATE_EXP, MODEL_TENSOR.FFN_UP_EXP, MODEL_TENSOR.FFN_GATE_UP_EXP),
        "up_proj": (MODEL_TENSOR.FFN_UP_EXP,),
        "down_proj": (MODEL_TENSOR.FFN_DOWN_EXP,),
    }
    kinds = fused.get(last.removesuffix("_bias"))
    indices = pattern_of(slot.name)[1]
    if kinds is None or not indices or not slot.bucket.endswith("experts.routed"):
        return
    ending = "bias" if last.endswith("_bias") else "weight"
    for kind in kinds:
        yield f"{TENSOR_NAMES[kind].format(bid=indices[0])}.{ending}"
