"""GLM-4."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts

TINY: dict[str, Any] = {
    "head_dim": 20,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "tie_word_embeddings": True,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        ("glm", {}, 9_399_951_360),  # hub total of zai-org/glm-4-9b-chat-hf; the class's defaults
        ("glm4", {}, 9_400_279_040),  # zai-org/GLM-4-9B-0414; the class's defaults
        (
            "glm4",  # zai-org/GLM-4-32B-0414
            {
                "attention_bias": False,
                "hidden_size": 6144,
                "intermediate_size": 23040,
                "num_attention_heads": 48,
                "num_hidden_layers": 61,
            },
            32_566_081_536,
        ),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


@pytest.mark.parametrize(("model_type", "norms"), [("glm", 3), ("glm4", 5)])
def test_a_layer_by_hand(counts: Callable[..., Counts], model_type: str, norms: int) -> None:
    # table; queries and output of 4 heads of 20, keys and values of 2; gate, up and down; norms
    core = 100 * 64 + 2 * 64 * 80 + 2 * 64 * 40 + 3 * 64 * 96 + norms * 64
    assert counts(model_type, **TINY, attention_bias=False).total == core
    # the output projection has no bias
    assert counts(model_type, **TINY).total == core + 80 + 2 * 40
