"""A popular article counts BERT by hand and misses a third of the encoder: the example of what goes wrong."""

import pytest

from planner.article import Claim, applies_to, claims
from planner.models import load_model

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}


def _claims(overrides: dict[str, int]) -> dict[str, Claim]:
    return {claim.what: claim for claim in claims(load_model("bert-base-uncased", overrides=overrides))}


@pytest.mark.parametrize(
    ("overrides", "errors"),
    [
        (
            {},
            {
                "embeddings": 0,
                "attention": -26_578_944,  # 12 * (3 * 768**2 / 12 - 4 * 768**2 - 4 * 768)
                "feed-forward": -27_648,
                "LayerNorm": -38_400,
                "pooler": -590_592,
                "encoder layers": 58_411_008 - 85_054_464,
                "BertModel": 82_246_656 - 109_482_240,
            },
        ),
        (
            LARGE,
            {
                "embeddings": 0,
                "attention": -96_043_008,
                "feed-forward": -73_728,
                "LayerNorm": -100_352,
                "pooler": -1_049_600,
                "encoder layers": 206_094_336 - 302_309_376,
                "BertModel": 237_875_200 - 335_141_888,
            },
        ),
    ],
    ids=["base", "large"],
)
def test_where_the_article_goes_wrong(overrides: dict[str, int], errors: dict[str, int]) -> None:
    assert {what: claim.error for what, claim in _claims(overrides).items()} == errors


def test_the_shortfalls_add_up() -> None:
    found = _claims({})
    parts = ("attention", "feed-forward", "LayerNorm", "pooler")
    assert sum(found[what].error for what in parts) == found["BertModel"].error == -27_235_584


def test_it_is_shown_for_bert_alone() -> None:
    assert applies_to(load_model("bert-base-uncased"))
    assert not applies_to(load_model("openai-community/gpt2"))
