"""DistilBERT."""

from collections.abc import Callable

import pytest

from planner.counts import Counts
from planner.errors import ConfigError


# KerasHub's presets distil_bert_base_en_uncased (the class's defaults) and distil_bert_base_en
@pytest.mark.parametrize(("vocab_size", "total"), [(30_522, 66_362_880), (28_996, 65_190_912)])
def test_published_totals(counts: Callable[..., Counts], vocab_size: int, total: int) -> None:
    assert counts("distilbert", "DistilBertModel", vocab_size=vocab_size).total == total


def test_heads_by_hand(counts: Callable[..., Counts]) -> None:
    model = counts("distilbert", "DistilBertModel").total
    # dense, norm, and a bias a token
    masked = counts("distilbert", "DistilBertForMaskedLM")
    assert masked.total - model == 768**2 + 768 + 2 * 768 + 30_522
    assert masked.total_with_untied_head - masked.total == 30_522 * 768
    classified = counts("distilbert", "DistilBertForSequenceClassification", num_labels=4).total
    assert classified - model == 768**2 + 768 + 4 * 769


def test_names_of_transformers_and_of_the_model_are_one(counts: Callable[..., Counts]) -> None:
    named = counts("distilbert", hidden_size=48, num_hidden_layers=2, num_attention_heads=6).total
    assert named == counts("distilbert", dim=48, n_layers=2, n_heads=6).total


def test_heads_must_divide_the_width(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match=r"n_heads: must divide dim \(768 / 7\)"):
        counts("distilbert", n_heads=7)
