"""T5Gemma: two stacks of Gemma 2."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.t5gemma import T5GemmaConfig, T5GemmaModuleConfig
from planner.workload import Step

TINY: dict[str, Any] = {
    "head_dim": 10,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "sliding_window": 8,
    "vocab_size": 99,
}


def test_published_total(counts: Callable[..., Counts]) -> None:
    # tensors of the checkpoint of google/t5gemma-2b-2b-ul2, the class's defaults
    found = counts("t5gemma")
    assert found.total == 5_596_853_760
    # each side has a table, and the head runs with the decoder's
    assert found.breakdown["embeddings.token"] == 2 * 256_000 * 2304
    assert found.total_with_untied_head - found.total == 256_000 * 2304


def test_keys_and_values_of_a_source_of_another_width(counts: Callable[..., Counts]) -> None:
    found = counts("t5gemma", encoder={**TINY, "hidden_size": 40}, decoder=TINY)
    # 2 layers: queries of 6 heads from 48 channels, keys and values of 2 heads from 40, and the output
    assert found.breakdown["attention.cross"] == 2 * (48 * 60 + 2 * 40 * 20 + 60 * 48)
    # four norms a layer and a last one, six a layer in the decoder
    assert found.breakdown["norms"] == (2 * 4 + 1) * 40 + (2 * 6 + 1) * 48


def test_classifiers_may_have_no_decoder(counts: Callable[..., Counts]) -> None:
    sides = {"encoder": TINY, "decoder": TINY}
    alone = counts("t5gemma", "T5GemmaForTokenClassification", **sides, is_encoder_decoder=False).total
    assert alone - counts("t5gemma", "T5GemmaEncoderModel", **sides).total == 2 * 49
    both = counts("t5gemma", "T5GemmaForSequenceClassification", **sides).total
    assert both - counts("t5gemma", "T5GemmaModel", **sides).total == 2 * 49


def test_the_encoder_s_window_reaches_to_both_sides() -> None:
    side = T5GemmaModuleConfig(**TINY)
    config = T5GemmaConfig(encoder=side, decoder=side)
    encoder = family("t5gemma").classes["T5GemmaEncoderModel"](config)
    conventions = compute(encoder, Step(sequence_length=100)).conventions
    # one layer of two sees 8 tokens to each side; 6 heads of width 10, scores and values
    banded = 100 * 17 - 8 * 9
    assert conventions["matmul"].forward - conventions["masked"].forward == (100**2 - banded) * 6 * 10 * 2 * 2


def test_a_bad_key_is_named_with_its_side(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="decoder.num_key_value_heads: must divide num_attention_heads"):
        counts("t5gemma", decoder={"num_key_value_heads": 3})
