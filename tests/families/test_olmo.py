"""OLMo 1 to 3 and EXAONE 4."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError
from planner.families.decoder import FULL, SLIDING
from planner.families.olmo import Exaone4Config, Olmo3Config

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 100,
}
# V H; queries and output, keys and values; gate, up and down
CORE = 100 * 64 + 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        (
            "olmo",  # hub total of allenai/OLMo-1B-hf, its head tied
            {
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_attention_heads": 16,
                "num_hidden_layers": 16,
                "tie_word_embeddings": True,
            },
            1_176_764_416,
        ),
        ("olmo2", {"vocab_size": 100_352}, 7_298_617_344),  # allenai/OLMo-2-1124-7B
        (
            "olmo2",  # allenai/OLMo-2-0325-32B
            {
                "hidden_size": 5120,
                "intermediate_size": 27648,
                "num_attention_heads": 40,
                "num_hidden_layers": 64,
                "num_key_value_heads": 8,
                "vocab_size": 100_352,
            },
            32_234_279_936,
        ),
        (
            "exaone4",  # LGAI-EXAONE/EXAONE-4.0-32B
            {
                "head_dim": 128,
                "hidden_size": 5120,
                "intermediate_size": 27392,
                "num_attention_heads": 40,
                "num_hidden_layers": 64,
                "num_key_value_heads": 8,
            },
            32_003_216_384,
        ),
        (
            "exaone4",  # LGAI-EXAONE/EXAONE-4.0-1.2B, its head tied
            {
                "head_dim": 64,
                "hidden_size": 2048,
                "intermediate_size": 4096,
                "num_hidden_layers": 30,
                "num_key_value_heads": 8,
                "sliding_window": None,
                "tie_word_embeddings": True,
            },
            1_279_391_488,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


@pytest.mark.parametrize(
    ("model_type", "flags", "extra"),
    [
        # no norm has parameters
        ("olmo", {}, 0),
        ("olmo", {"attention_bias": True}, 2 * 64 + 2 * 32),
        # three norms, and those of all queries (64) and all keys (32)
        ("olmo2", {}, 3 * 64 + 64 + 32),
        ("olmo3", {}, 3 * 64 + 64 + 32),
        ("olmo3", {"attention_bias": True}, 3 * 64 + 64 + 32 + 2 * 64 + 2 * 32),
        # three norms, and those of a head's queries and keys
        ("exaone4", {}, 3 * 64 + 2 * 16),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], model_type: str, flags: dict[str, Any], extra: int) -> None:
    assert counts(model_type, **TINY, **flags).total == CORE + extra


def test_windows_where_the_config_does_not_list_them() -> None:
    assert Olmo3Config(num_hidden_layers=8).windows() == [4096, 4096, 4096, None] * 2
    assert Exaone4Config(num_hidden_layers=4, sliding_window_pattern=2).windows() == [4096, None] * 2
    assert Exaone4Config(num_hidden_layers=4, sliding_window_pattern="LG").windows() == [4096, None] * 2
    assert Exaone4Config(num_hidden_layers=2, sliding_window=None).windows() == [None] * 2
    listed = Exaone4Config(num_hidden_layers=2, sliding_window=8, layer_types=[FULL, SLIDING])
    assert listed.windows() == [None, 8]


def test_the_list_of_layers_must_fit(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="layer_types: lists 1 layers, but num_hidden_layers is 32"):
        counts("olmo3", layer_types=[FULL])
