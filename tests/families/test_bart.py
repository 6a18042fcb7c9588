"""BART, mBART, Marian and Pegasus."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.bart import BartConfig
from planner.workload import Step

BART_BASE: dict[str, Any] = {
    "d_model": 768,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "encoder_layers": 6,
}
TINY: dict[str, Any] = {
    "d_model": 48,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 56,
    "decoder_layers": 3,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 80,
    "encoder_layers": 2,
    "max_position_embeddings": 70,
    "vocab_size": 99,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # tensors of the checkpoint of facebook/bart-base
        ("bart", BART_BASE, 139_420_416),
        # KerasHub's preset bart_large_en: 406,287,360 with two rows less in each table of positions
        ("bart", {}, 406_287_360 + 2 * 2 * 1024),
        # tensors of the checkpoint of facebook/mbart-large-50
        ("mbart", {"vocab_size": 250_054}, 610_879_488),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def _by_hand(*, spare: int, norms: int) -> int:
    attention = 4 * (48**2 + 48)
    encoder = attention + 2 * 48 * 80 + 80 + 48 + 2 * 2 * 48
    decoder = 2 * attention + 2 * 48 * 56 + 56 + 48 + 3 * 2 * 48
    return 99 * 48 + 2 * (70 + spare) * 48 + norms * 2 * 48 + 2 * encoder + 3 * decoder


@pytest.mark.parametrize(
    ("model_type", "spare", "norms"),
    [("bart", 2, 2), ("mbart", 2, 4), ("pegasus", 0, 2), ("marian", 0, 0)],
)
def test_what_tells_them_apart(counts: Callable[..., Counts], model_type: str, spare: int, norms: int) -> None:
    found = counts(model_type, **TINY)
    assert found.total == _by_hand(spare=spare, norms=norms)
    assert found.total_with_untied_head - found.total == 99 * 48
    # the table that both sides share, those of the sides, and the head
    untied = counts(model_type, **TINY, tie_word_embeddings=False)
    assert untied.total - found.total == 3 * 99 * 48


def test_sides_of_marian_may_have_vocabularies_of_their_own(counts: Callable[..., Counts]) -> None:
    apart = {**TINY, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 110}
    tied, shared = counts("marian", **apart), counts("marian", **TINY)
    assert tied.total - shared.total == 110 * 48
    assert tied.total_with_untied_head - tied.total == 110 * 48
    assert counts("marian", **apart, tie_word_embeddings=False).total == tied.total_with_untied_head


def test_bart_assumes_three_labels(counts: Callable[..., Counts]) -> None:
    model = counts("bart", "BartModel", **TINY).total
    head = 48**2 + 48
    assert counts("bart", "BartForSequenceClassification", **TINY).total - model == head + 3 * 49
    assert counts("mbart", "MBartForSequenceClassification", **TINY, num_labels=4).total - (
        counts("mbart", "MBartModel", **TINY).total
    ) == (head + 4 * 49)
    assert counts("bart", "BartForQuestionAnswering", **TINY).total - model == 2 * 49


def test_the_source_is_read_once() -> None:
    tree = family("bart").classes["BartForConditionalGeneration"](BartConfig(**TINY))
    first = compute(tree, Step(sequence_length=3, source_length=20)).conventions["matmul"].forward
    encoder = 2 * 20 * (4 * 48**2 + 2 * 48 * 80 + 2 * 20 * 48)
    to_keys = 3 * 20 * 2 * 48**2
    decoder = 3 * 3 * (6 * 48**2 + 2 * 48 * 56 + 2 * 3 * 48 + 2 * 20 * 48)
    assert first == 2 * (encoder + to_keys + decoder + 3 * 48 * 99)
    later = compute(tree, Step(sequence_length=1, past=3, source_length=20)).conventions["matmul"].forward
    assert later == 2 * (3 * (6 * 48**2 + 2 * 48 * 56 + 2 * 4 * 48 + 2 * 20 * 48) + 48 * 99)


def test_the_decoder_alone_holds_cross_attention_and_does_not_run_it(counts: Callable[..., Counts]) -> None:
    assert counts("bart", "BartForCausalLM", **TINY).breakdown["attention.cross"] == 3 * 4 * (48**2 + 48)
    tree = family("bart").classes["BartForCausalLM"](BartConfig(**TINY))
    done = compute(tree, Step(sequence_length=5))
    assert done.tokens == 5
    assert done.conventions["matmul"].forward == 2 * 5 * (3 * (4 * 48**2 + 2 * 48 * 56 + 2 * 5 * 48) + 48 * 99)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoder_attention_heads": 5}, r"encoder_attention_heads: must divide d_model \(48 / 5\)"),
        ({"decoder_attention_heads": 5}, r"decoder_attention_heads: must divide d_model \(48 / 5\)"),
        ({"num_hidden_layers": 7}, "encoder_layers: is 2, but its other name num_hidden_layers is 7"),
    ],
)
def test_what_is_refused(counts: Callable[..., Counts], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("bart", **{**TINY, **keys})
