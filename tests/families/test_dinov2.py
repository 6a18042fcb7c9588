"""DINOv2, with and without registers."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

TINY: dict[str, Any] = {
    "hidden_size": 12,
    "image_size": 8,
    "mlp_ratio": 3,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 4,
}
# q, k, v and output; up and down, 36 wide; two norms and two scales
LAYER = 4 * (12 * 12 + 12) + (2 * 12 * 36 + 36 + 12) + 2 * 24 + 2 * 12
# class token, mask token, 3 x 4 x 4 pixels to 12, 4 patches and the class token, a last norm
TOWER = 12 + 12 + (48 * 12 + 12) + 5 * 12 + LAYER + 24


@pytest.mark.parametrize(
    ("keys", "total"),
    [
        # facebook/dinov2-small, -base, -large and -giant
        ({"hidden_size": 384, "num_attention_heads": 6}, 22_056_576),
        ({}, 86_580_480),
        ({"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}, 304_368_640),
        (
            {"hidden_size": 1536, "num_attention_heads": 24, "num_hidden_layers": 40, "use_swiglu_ffn": True},
            1_136_480_768,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], keys: dict[str, Any], total: int) -> None:
    assert counts("dinov2", image_size=518, **keys).total == total


@pytest.mark.parametrize(
    ("model_type", "flags", "total"),
    [
        ("dinov2", {}, TOWER),
        ("dinov2", {"use_mask_token": False}, TOWER - 12),
        ("dinov2", {"qkv_bias": False}, TOWER - 3 * 12),
        # two thirds of 36, which is a multiple of 8: three matrices in place of two
        ("dinov2", {"use_swiglu_ffn": True}, TOWER - (2 * 12 * 36 + 36 + 12) + 3 * 12 * 24 + 2 * 24 + 12),
        ("dinov2", {"mlp_ratio": 7}, TOWER + 2 * 12 * 48 + 48),
        ("dinov2_with_registers", {"num_register_tokens": 3}, TOWER + 3 * 12),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], total: int) -> None:
    assert counts(model_type, **{**TINY, **flags}).total == total


def test_the_gated_mlp_is_rounded_up_to_a_multiple_of_eight(counts: Callable[..., Counts]) -> None:
    # two thirds of 4 * 20 are 53, rounded down, and 56 is the next multiple
    keys = {**TINY, "hidden_size": 20, "mlp_ratio": 4, "use_swiglu_ffn": True}
    assert counts("dinov2", **keys).breakdown["mlp"] == 3 * 20 * 56 + 2 * 56 + 20


def test_the_classifier_sees_the_class_token_and_the_mean(counts: Callable[..., Counts]) -> None:
    classified = counts("dinov2", "Dinov2ForImageClassification", num_labels=5, **TINY)
    assert classified.total == TOWER + 2 * 12 * 5 + 5


def test_a_patch_must_fit(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="patch_size: 9 pixels, but image_size is 8"):
        counts("dinov2", **{**TINY, "patch_size": 9})
