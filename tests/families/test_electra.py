"""ELECTRA."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.counts import Counts, count
from planner.errors import ConfigError
from planner.families import family
from planner.families.electra import ElectraConfig

BASE: dict[str, Any] = {
    "embedding_size": 768,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
}


@pytest.mark.parametrize(
    ("keys", "backbone"),
    [
        # KerasHub's presets electra_small and electra_base_discriminator_uncased_en, which end before the last layer
        ({}, 13_548_800),
        (BASE, 109_482_240),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], backbone: int) -> None:
    found = counts("electra", **keys)
    assert found.total == backbone + keys.get("hidden_size", 256) + 1


def test_a_projection_where_the_embedding_is_narrow(counts: Callable[..., Counts]) -> None:
    assert counts("electra").breakdown["embeddings.token"] == 30_522 * 128 + 128 * 256 + 256
    assert counts("electra", **BASE).breakdown["embeddings.token"] == 30_522 * 768


def test_the_generator_s_head_is_as_narrow_as_the_embedding(counts: Callable[..., Counts]) -> None:
    generator = counts("electra", "ElectraForMaskedLM")
    assert generator.breakdown["other.lm_head"] == 256 * 128 + 128 + 2 * 128 + 30_522
    assert generator.total_with_untied_head - generator.total == 30_522 * 128
    untied = counts("electra", "ElectraForMaskedLM", tie_word_embeddings=False)
    assert untied.total == generator.total_with_untied_head


def test_a_summary_is_projected_or_not(counts: Callable[..., Counts]) -> None:
    projected = counts("electra", "ElectraForMultipleChoice").total
    assert projected - counts("electra", "ElectraForMultipleChoice", summary_use_proj=False).total == 256**2 + 256
    to_labels = counts("electra", "ElectraForMultipleChoice", summary_proj_to_labels=True, num_labels=3).total
    assert projected - to_labels == 256**2 + 256 - 3 * 257


def test_a_summary_by_attention_is_refused(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="summary_type: a summary by attention is not supported"):
        counts("electra", summary_type="attn")


def test_a_column_of_widths_projects_where_they_differ() -> None:
    build = family("electra").classes["ElectraModel"]
    config = ElectraConfig(embedding_size=128)
    column = count(build(config.replaced({"hidden_size": np.array([64.0, 128.0, 256.0])}))).total
    alone = [count(build(config.replaced({"hidden_size": width}))).total for width in (64, 128, 256)]
    assert list(column) == alone  # type: ignore[arg-type]
