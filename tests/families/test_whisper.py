"""Whisper: a source of fixed length."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.families import family
from planner.families.whisper import WhisperConfig
from planner.workload import Step


def _size(width: int, heads: int, layers: int, **more: int) -> dict[str, int]:
    sides = {
        f"{side}_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (("attention_heads", heads), ("ffn_dim", 4 * width), ("layers", layers))
    }
    return {"d_model": width, **sides, **more}


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # KerasHub's presets whisper_base_multi, _small_multi and _medium_multi
        (_size(512, 8, 6), 72_593_920),
        (_size(768, 12, 12), 241_734_912),
        (_size(1024, 16, 24), 763_857_920),
        # tensors of the checkpoint of openai/whisper-large-v3-turbo
        ({**_size(1280, 20, 32, num_mel_bins=128, vocab_size=51_866), "decoder_layers": 4}, 808_878_080),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("whisper", **keys).total == total


def test_keys_have_no_bias(counts: Callable[..., Counts]) -> None:
    # the class's defaults, 384 channels: 4 layers a side, and cross-attention
    found = counts("whisper").breakdown
    assert found["attention"] == 8 * (4 * 384**2 + 3 * 384)
    assert found["attention.cross"] == 4 * (4 * 384**2 + 3 * 384)
    # 80 and 384 channels in, three frames at a time
    assert found["embeddings.other"] == (80 + 384) * 3 * 384 + 2 * 384
    assert found["embeddings.position"] == (1500 + 448) * 384


def test_the_encoder_hears_thirty_seconds_whatever_is_asked() -> None:
    tree = family("whisper").classes["WhisperForConditionalGeneration"](WhisperConfig())
    short, long = (compute(tree, Step(batch_size=2, sequence_length=4, source_length=source)) for source in (1, 9))
    assert short == long
    assert short.tokens == 2 * (1500 + 4)
    convolutions = 3000 * 80 * 3 * 384 + 1500 * 384 * 3 * 384
    encoder = 4 * 1500 * (12 * 384**2 + 2 * 1500 * 384)
    to_keys = 4 * 1500 * 2 * 384**2
    decoder = 4 * 4 * (14 * 384**2 + 2 * 4 * 384 + 2 * 1500 * 384)
    once = convolutions + encoder + to_keys + decoder + 4 * 384 * 51_865
    assert short.conventions["matmul"].forward == 2 * 2 * once


def test_later_tokens_find_its_keys_and_values_at_hand() -> None:
    tree = family("whisper").classes["WhisperForConditionalGeneration"](WhisperConfig())
    later = compute(tree, Step(sequence_length=1, past=4))
    assert later.tokens == 1
    decoder = 4 * (14 * 384**2 + 2 * 5 * 384 + 2 * 1500 * 384)
    assert later.conventions["matmul"].forward == 2 * (decoder + 384 * 51_865)


def test_a_classifier_of_sound_has_no_text(counts: Callable[..., Counts]) -> None:
    tree = family("whisper").classes["WhisperForAudioClassification"](WhisperConfig(num_labels=5))
    assert compute(tree, Step(batch_size=3)).tokens == 3 * 1500
    plain, weighted = (
        counts("whisper", "WhisperForAudioClassification", use_weighted_layer_sum=flag).total for flag in (False, True)
    )
    assert weighted - plain == 5
