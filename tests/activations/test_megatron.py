"""Megatron's blocks against the published count, against nine measured runs, and on columns."""

from __future__ import annotations

import numpy as np
import pytest

from planner.activations.megatron import Engine, megatron_saved
from planner.activations.saved import SavedTensor
from planner.activations.textbook import textbook_saved
from planner.families.blocks import attention, layer_norm, layers, output_head, plain_mlp, token_embedding
from planner.families.decoder import block_with_norms
from planner.models import load_model
from planner.nodes import Module, Node
from planner.parallelism import WHOLE, Parallelism
from planner.training.activations import kept
from planner.training.job import Recompute
from planner.workload import Step

SAMPLES, LENGTH = 4, 2048
HEADS, WIDTH, LAYERS = 64, 6144, 48
"""The paper's 22B model: figure 7 and table 3."""


def _gpt(heads: int = HEADS, width: int = WIDTH, count: int = LAYERS) -> Node:
    block = block_with_norms(
        attention(
            hidden_size=width,
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=width // heads,
            causal=True,
            qkv_bias=True,
            out_bias=True,
        ),
        plain_mlp(width, 4 * width),
        layer_norm(width),
    )
    return Module(
        children={
            "embed_tokens": token_embedding(51200, width),
            "layers": layers(block, count),
            "norm": layer_norm(width),
            "lm_head": output_head(width, 51200, "embed_tokens"),
        }
    )


def _blocks(saved: tuple[SavedTensor, ...], parallelism: Parallelism, recompute: Recompute, again: float = 0) -> float:
    return float(kept(saved, parallelism, WHOLE, recompute, again).blocks)


SELECTIVE = Recompute(kind="selective", parts=frozenset({"core_attention"}))


@pytest.mark.parametrize(
    ("tp", "sequence_parallel", "recompute", "of_sbh", "of_score"),
    [
        # Korthikanti et al. 2022, table 2: sbh (34 + 5 a s / h), and its variants.
        (1, False, Recompute(), 34, 5),
        (8, False, Recompute(), 10 + 24 / 8, 5 / 8),
        (8, True, Recompute(), 34 / 8, 5 / 8),
        (8, False, SELECTIVE, 10 + 24 / 8, 0),
        (8, True, SELECTIVE, 34 / 8, 0),
    ],
)
def test_the_textbook_is_the_published_count(
    tp: int, sequence_parallel: bool, recompute: Recompute, of_sbh: float, of_score: float
) -> None:
    saved = textbook_saved(_gpt(), Step(batch_size=SAMPLES, sequence_length=LENGTH))
    sbh = LENGTH * SAMPLES * WIDTH
    expected = LAYERS * sbh * (of_sbh + of_score * HEADS * LENGTH / WIDTH)
    found = _blocks(saved, Parallelism(tp=tp, sequence_parallel=sequence_parallel), recompute)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("sequence_parallel", "recompute", "published"),
    # Korthikanti et al. 2022, figure 7, 22B: per cent of the tensor-parallel baseline, read off to about 0.1.
    [(True, Recompute(), 66.84), (False, SELECTIVE, 49.42), (True, SELECTIVE, 16.18), (False, None, 7.64)],
)
def test_the_textbook_is_figure_7(sequence_parallel: bool, recompute: Recompute | None, published: float) -> None:
    saved = textbook_saved(_gpt(), Step(batch_size=SAMPLES, sequence_length=LENGTH))
    baseline = _blocks(saved, Parallelism(tp=8), Recompute())
    whole = Recompute(kind="full")
    # 2 sbh stay of a block that is recomputed whole.
    input_bytes = 2 * LENGTH * SAMPLES * WIDTH
    found = _blocks(saved, Parallelism(tp=8, sequence_parallel=sequence_parallel), recompute or whole, input_bytes)
    assert 100 * found / baseline == pytest.approx(published, abs=0.1)


def test_outside_of_blocks_the_textbook_keeps_a_mask_a_norm_and_the_heads_input() -> None:
    saved = textbook_saved(_gpt(), Step(batch_size=SAMPLES, sequence_length=LENGTH))
    found = kept(saved, Parallelism(), WHOLE, Recompute(), 0)
    sbh = LENGTH * SAMPLES * WIDTH
    assert found.before == sbh  # 1 B, section 4.3
    assert found.behind == 2 * sbh + 2 * sbh


def test_a_llama_block_by_hand() -> None:
    tree = load_model("meta-llama/Llama-3.1-8B", offline=True).tree
    saved = megatron_saved(tree, Step(batch_size=1, sequence_length=1), Engine())
    # Two norm inputs and two normed, 2 B each: 16 h; queries, keys, values, output: 2 (2 h + 2 k);
    # gate, up and their product: 6 f; log-sum-exps 4 a; two statistics of 4 B.
    h, k, f, a = 4096, 1024, 14336, 32
    expected = 2 * (4 * h + 2 * h + 2 * k) + 6 * f + 4 * a + 2 * 4
    assert _blocks(saved, Parallelism(), Recompute()) == 32 * expected


def test_a_routed_block_by_hand() -> None:
    tree = load_model("mistralai/Mixtral-8x7B-v0.1", offline=True).tree
    saved = [
        tensor
        for tensor in megatron_saved(tree, Step(batch_size=1, sequence_length=1), Engine())
        if tensor.part in ("moe", "moe_activation", "router")
    ]
    # Each of 2 visits: the token 2 h, gate and up 4 f, their product 2 f, position and weight 12;
    # scores of 8 experts at 4 + 2 + 1 B.
    h, f = 4096, 14336
    assert sum(float(tensor.size_bytes) for tensor in saved) == 2 * (2 * h + 6 * f + 12) + 8 * 7


def test_modules_that_are_recomputed_leave_what_they_read() -> None:
    tree = load_model("deepseek-ai/DeepSeek-V2-Lite", offline=True).tree
    saved = megatron_saved(tree, Step(batch_size=1, sequence_length=1), Engine())

    def bytes_without(*parts: str) -> float:
        return _blocks(saved, Parallelism(), Recompute(kind="selective", parts=frozenset(parts)))

    nothing = _blocks(saved, Parallelism(), Recompute())
    # Queries 16 heads of 192, keys of 192, values of 128: 2 B each, in 27 layers.
    assert nothing - bytes_without("mla_up") == 27 * 2 * 16 * (192 + 192 + 128)
    # 6 visits of 1408, 26 layers.
    assert nothing - bytes_without("moe_activation") == 26 * 2 * 6 * 1408
    assert bytes_without("moe") < bytes_without("moe_activation")


def test_eight_bits_halve_the_inputs_of_products_and_nothing_else() -> None:
    tree = load_model("meta-llama/Llama-3.1-8B", offline=True).tree
    step = Step(batch_size=1, sequence_length=1)
    wide = _blocks(megatron_saved(tree, step, Engine()), Parallelism(), Recompute())
    narrow = _blocks(megatron_saved(tree, step, Engine(float8=True)), Parallelism(), Recompute())
    # Two normed tensors and the MLP's product lose a byte; attention's result is kept in 8 bits besides.
    assert wide - narrow == 32 * (2 * 4096 + 14336 - 4096)


def test_columns_equal_their_elements() -> None:
    tree = load_model("mistralai/Mixtral-8x7B-v0.1", offline=True).tree
    batch, length = np.array([1.0, 2.0, 8.0]), np.array([512.0, 1024.0, 4096.0])
    column = megatron_saved(tree, Step(batch_size=batch, sequence_length=length), Engine(attention="flash"))
    for at in range(3):
        step = Step(batch_size=int(batch[at]), sequence_length=int(length[at]))
        alone = megatron_saved(tree, step, Engine(attention="flash"))
        assert [float(np.asarray(tensor.size_bytes)[at]) for tensor in column] == [
            float(tensor.size_bytes) for tensor in alone
        ]
