"""XLNet."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.families import family
from planner.families.xlnet import XLNetConfig
from planner.workload import Step

BASE: dict[str, Any] = {"d_inner": 3072, "d_model": 768, "n_head": 12, "n_layer": 12}


def test_totals_by_hand(counts: Callable[..., Counts]) -> None:
    # xlnet-base-cased: q, k, v, o and r; three biases and two segments for the heads; norm; MLP with its norm
    layer = 5 * 768**2 + 3 * 768 + 2 * 768 + 2 * 768 + 2 * 768 * 3072 + 3072 + 768 + 2 * 768
    model = 32_000 * 768 + 768 + 12 * layer
    assert counts("xlnet", "XLNetModel", **BASE).total == model == 116_718_336
    assert counts("xlnet", **BASE).total == model + 32_000
    assert counts("xlnet", **BASE).total_with_untied_head == model + 32_000 + 32_000 * 768


def test_heads_by_hand(counts: Callable[..., Counts]) -> None:
    model = counts("xlnet", "XLNetModel", **BASE).total
    summary = 768**2 + 768
    assert counts("xlnet", "XLNetForMultipleChoice", **BASE).total - model == summary + 769
    without = counts("xlnet", "XLNetForMultipleChoice", **BASE, summary_use_proj=False).total
    assert without - model == 769
    # start; end of two dense layers and a norm; answerable or not, the last layer without bias
    start, end, answer = 769, 2 * 768**2 + 768 + 2 * 768 + 769, 2 * 768**2 + 768 + 768
    assert counts("xlnet", "XLNetForQuestionAnswering", **BASE).total - model == start + end + answer


def test_products_of_distances_by_hand() -> None:
    tree = family("xlnet").classes["XLNetModel"](XLNetConfig(**BASE))
    batch, length = 3, 20
    conventions = compute(tree, Step(batch_size=batch, sequence_length=length)).conventions
    tokens = batch * length
    # q, k, v, o at every token, r at twice as many distances; MLP; scores with tokens and distances, and values
    weights = tokens * (6 * 768**2 + 2 * 768 * 3072)
    scores = tokens * (length + 2 * length + length) * 768
    assert conventions["matmul"].forward == 12 * 2 * (weights + scores)
    # distances are constants, so that only r has a gradient
    assert conventions["matmul"].backward == 2 * conventions["matmul"].forward - 12 * 2 * 2 * tokens * 768**2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"attn_type": "uni"}, "attn_type: expected bi, got 'uni'"),
        ({"d_head": 63}, "d_head: must be d_model / n_head"),
        ({"n_head": 7}, r"n_head: must divide d_model \(1024 / 7\)"),
        ({"summary_type": "attn"}, "summary_type: a summary by attention is not supported"),
    ],
)
def test_what_is_refused(counts: Callable[..., Counts], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("xlnet", **flags)
