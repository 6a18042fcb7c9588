"""StarCoder2, Nemotron, Arcee and Apertus."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 100,
}
# V H; queries and output, keys and values; up and down
CORE = 100 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 2 * 64 * 96


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        ("starcoder2", {}, 3_030_371_328),  # hub total of bigcode/starcoder2-3b; the class's defaults
        (
            "starcoder2",  # bigcode/starcoder2-7b
            {
                "hidden_size": 4608,
                "intermediate_size": 18432,
                "num_attention_heads": 36,
                "num_hidden_layers": 32,
                "num_key_value_heads": 4,
            },
            7_173_923_840,
        ),
        (
            "apertus",  # swiss-ai/Apertus-8B-2509
            {"intermediate_size": 21504, "num_key_value_heads": 8},
            8_053_338_176,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


@pytest.mark.parametrize(
    ("model_type", "flags", "extra"),
    [
        # every matrix has a bias: q and o, k and v, up and down; three norms with gain and bias
        ("starcoder2", {}, 2 * 64 + 2 * 32 + 96 + 64 + 6 * 64),
        ("starcoder2", {"use_bias": False}, 6 * 64),
        ("nemotron", {}, 6 * 64),
        ("nemotron", {"attention_bias": True, "mlp_bias": True}, 6 * 64 + 2 * 64 + 2 * 32 + 96 + 64),
        # three norms with a gain
        ("arcee", {}, 3 * 64),
        ("arcee", {"mlp_bias": True}, 3 * 64 + 96 + 64),
        # one norm for queries and one for keys, heads of 16; two slopes of the activation
        ("apertus", {}, 3 * 64 + 2 * 16 + 2),
        ("apertus", {"attention_bias": True}, 3 * 64 + 2 * 16 + 2 + 2 * 64 + 2 * 32),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], extra: int) -> None:
    assert counts(model_type, **TINY, **flags).total == CORE + extra
