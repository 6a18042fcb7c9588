"""DeciLM, whose layers differ."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.counts import Counts
from planner.errors import ConfigError

TINY: dict[str, Any] = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_hidden_layers": 1,
    "tie_word_embeddings": True,
    "vocab_size": 100,
}
H = 768
OUTSIDE = 100 * H + H
"""Table and last norm."""


def _block(attention: dict[str, Any] | None = None, ffn: dict[str, Any] | None = None) -> dict[str, Any]:
    off = {"no_op": False, "replace_with_linear": False, "sparsify": None}
    return {
        "attention": {"n_heads_in_group": 4, "window_length": None, **off, **(attention or {})},
        "ffn": {"ffn_mult": 1.0, **off, **(ffn or {})},
    }


# queries and output, keys and values of 12 / 4 heads of 64, norm
ATTENTION = 2 * H * H + 2 * H * 192 + H
# 2 / 3 of 768 is 512
MLP = 3 * H * 512 + H


def test_nemotron_super_49b(counts: Callable[..., Counts]) -> None:
    """Hub total of nvidia/Llama-3_3-Nemotron-Super-49B-v1; which layers are which does not matter for it."""
    layers_by_multiple = {0.5: 6, 1.0: 8, 1.3125: 10, 2.625: 6, 3.28125: 1, 5.25: 49}
    multiples = [multiple for multiple, times in layers_by_multiple.items() for _ in range(times)]
    group, dropped = {"n_heads_in_group": 8}, {"n_heads_in_group": None, "no_op": True}
    blocks = [
        _block(group if layer < 49 else dropped, {"ffn_mult": multiple}) for layer, multiple in enumerate(multiples)
    ]
    assert counts("nemotron-nas", block_configs=blocks).total == 49_867_145_216


@pytest.mark.parametrize(
    ("block", "total"),
    [
        (_block(), ATTENTION + MLP),
        (_block({"n_heads_in_group": 12}), ATTENTION - 2 * H * 128 + MLP),
        # a dropped sublayer takes its norm along
        (_block({"no_op": True, "n_heads_in_group": None}), MLP),
        (_block(ffn={"no_op": True, "ffn_mult": None}), ATTENTION),
        (_block({"replace_with_linear": True}), H * H + H + MLP),
        (_block(ffn={"replace_with_linear": True}), ATTENTION + H * H + H),
        # 2 / 3 of 1.3 times 768 is 665.6, and the next multiple of 256 is 768
        (_block(ffn={"ffn_mult": 1.3}), ATTENTION + 3 * H * 768 + H),
        # a width that is stated is not rounded
        (_block(ffn={"ffn_mult": None, "intermediate_size": 100}), ATTENTION + 3 * H * 100 + H),
    ],
)
def test_one_block_by_hand(counts: Callable[..., Counts], block: dict[str, Any], total: int) -> None:
    assert counts("nemotron-nas", **TINY, block_configs=[block]).total == OUTSIDE + total


def test_without_blocks_it_is_llama(counts: Callable[..., Counts]) -> None:
    keys = {**TINY, "intermediate_size": 96, "num_key_value_heads": 3}
    assert counts("nemotron-nas", **keys).breakdown == counts("llama", **keys).breakdown


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([_block(), _block()], "block_configs: lists 2 layers, but num_hidden_layers is 1"),
        ([_block({"n_heads_in_group": 5})], "block_configs.0.attention.n_heads_in_group: must divide"),
        ([_block(ffn={"ffn_mult": None})], "block_configs.0.ffn.ffn_mult: is missing, and neither the block nor"),
        ([_block({"mamba": {"state": 1}})], "block_configs.0.attention.mamba: extra inputs are not permitted"),
        ([_block(ffn={"ffn_mult": -1.0})], "block_configs.0.ffn.ffn_mult: input should be greater than 0"),
    ],
)
def test_wrong_blocks(counts: Callable[..., Counts], blocks: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("nemotron-nas", **TINY, block_configs=blocks)
