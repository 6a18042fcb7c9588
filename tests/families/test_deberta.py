"""DeBERTa 1 to 3: tables, projections and products of relative distances."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.deberta import DebertaConfig, DebertaV2Config
from planner.workload import Step

RELATIVE: dict[str, Any] = {
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "relative_attention": True,
}
V3: dict[str, Any] = {
    **RELATIVE,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 256,
    "share_att_key": True,
}
BASE: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
TINY: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "max_position_embeddings": 70,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "vocab_size": 99,
}


@pytest.mark.parametrize(
    ("model_type", "class_name", "keys", "total"),
    [
        # KerasHub's presets deberta_v3_extra_small_en, _small_en, _base_en and _base_multi
        (
            "deberta-v2",
            "DebertaV2Model",
            {**V3, **BASE, "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6},
            70_682_112,
        ),
        ("deberta-v2", "DebertaV2Model", {**V3, **BASE, "num_hidden_layers": 6}, 141_304_320),
        ("deberta-v2", "DebertaV2Model", {**V3, **BASE}, 183_831_552),
        ("deberta-v2", "DebertaV2Model", {**V3, **BASE, "vocab_size": 251_000}, 278_218_752),
        # tensors of the checkpoint of microsoft/deberta-base
        ("deberta", "DebertaForMaskedLM", RELATIVE, 139_244_121),
    ],
)
def test_published_totals(
    counts: Callable[..., Counts], model_type: str, class_name: str, keys: dict[str, Any], total: int
) -> None:
    assert counts(model_type, class_name, **keys).total == total


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        # 2 layers, each with a projection without and one with bias, and a table of 2 * 70 distances
        (RELATIVE, 2 * (2 * 48**2 + 48) + 140 * 48 - 70 * 48),
        ({**RELATIVE, "pos_att_type": "c2p"}, 2 * 48**2 + 140 * 48 - 70 * 48),
        (
            {**RELATIVE, "pos_att_type": "c2p|p2c", "max_relative_positions": 9},
            2 * (2 * 48**2 + 48) + 18 * 48 - 70 * 48,
        ),
        ({"relative_attention": True, "max_relative_positions": -1}, 140 * 48),
        ({"type_vocab_size": 3}, 3 * 48),
        ({"embedding_size": 20}, 20 * 48 + (99 + 70) * (20 - 48)),
    ],
)
def test_flags_of_the_first_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], more: int) -> None:
    assert counts("deberta", **TINY, **flags).total - counts("deberta", **TINY).total == more


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        # projections of distances with bias, unless queries and keys of tokens share theirs
        ({"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, 2 * 2 * (48**2 + 48) + 140 * 48),
        ({"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}, 140 * 48),
        ({"relative_attention": True, "position_buckets": 4}, 8 * 48),
        ({"norm_rel_ebd": "layer_norm"}, 2 * 48),
        ({"conv_kernel_size": 3}, 3 * 48**2 + 48 + 2 * 48),
        ({"conv_kernel_size": 3, "conv_groups": 6}, 3 * 48**2 // 6 + 48 + 2 * 48),
    ],
)
def test_flags_of_the_second_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], more: int) -> None:
    assert counts("deberta-v2", **TINY, **flags).total - counts("deberta-v2", **TINY).total == more


def test_the_newer_head_multiplies_with_the_input_table(counts: Callable[..., Counts]) -> None:
    old, new = (counts("deberta", "DebertaForMaskedLM", **TINY, legacy=legacy) for legacy in (True, False))
    assert old.total == new.total
    assert new.total_with_untied_head == new.total + 99 * 48


@pytest.mark.parametrize(("length", "told_apart"), [(5, 5), (30, 9)])
def test_the_first_compares_with_distances_that_the_sequence_has(length: int, told_apart: int) -> None:
    build = family("deberta").classes["DebertaModel"]
    step = Step(batch_size=3, sequence_length=length)
    keys = {**TINY, **RELATIVE, "max_relative_positions": 9}
    plain, relative = (
        compute(build(DebertaConfig(**{**keys, "pos_att_type": kinds})), step).conventions
        for kinds in ([], ["c2p", "p2c"])
    )
    # twice in each of 2 layers: distances projected once for the batch, and the scores of every token with them
    more = 2 * 2 * (2 * told_apart) * (48 * 48 + 3 * length * 48) * 2
    assert relative["matmul"].forward - plain["matmul"].forward == more
    # no rule of thumb knows them; the projections are parameters
    assert relative["palm"].forward - plain["palm"].forward == relative["6N"].forward - plain["6N"].forward


@pytest.mark.parametrize("length", [2, 30])
def test_the_second_projects_its_whole_table(length: int) -> None:
    build = family("deberta-v2").classes["DebertaV2Model"]
    step = Step(batch_size=3, sequence_length=length)
    keys = {**TINY, **V3, "position_buckets": 4}
    plain, relative = (
        compute(build(DebertaV2Config(**{**keys, "pos_att_type": kinds})), step).conventions["matmul"]
        for kinds in ([], ["c2p", "p2c"])
    )
    more = 2 * 2 * (2 * 4) * (48 * 48 + 3 * length * 48) * 2
    assert relative.forward - plain.forward == more
    assert relative.backward - plain.backward == 2 * more


@pytest.mark.parametrize(
    ("model_type", "flags", "message"),
    [
        ("deberta", {"talking_head": True}, "talking_head: heads that mix their scores are not supported"),
        ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size: expected an odd number, got 4"),
        ("deberta", {"num_attention_heads": 7}, r"num_attention_heads: must divide hidden_size \(768 / 7\)"),
        ("deberta", {"pos_att_type": [1]}, "pos_att_type.0: input should be a valid string, got 1"),
    ],
)
def test_what_is_refused(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts(model_type, **flags)
