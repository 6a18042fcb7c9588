"""What is alive while a block runs backward, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.activations.huggingface import huggingface_saved
from planner.activations.replay import BlockAtWork, ClockedTape
from planner.activations.tape import Arithmetic
from planner.nodes import Module, Node, Style
from planner.numeric import Num
from planner.validate.architecture import tree_of
from planner.workload import Step

HIDDEN, INNER, HEADS, KV_HEADS, TOKENS = 4096, 14336, 32, 8, 512
WIDE, NARROW = 2 * TOKENS * HIDDEN, 2 * TOKENS * 1024  # hidden states; keys or values of 8 heads of 128
MIDDLE = 2 * TOKENS * INNER


def _tree(**more: object) -> Node:
    model = {"layers": 3, "hidden": HIDDEN, "heads": HEADS, "kv_heads": KV_HEADS, "ffn": INNER, "vocab": 1000}
    tree = tree_of({**model, "gated_mlp": True, "norm": "rmsnorm", **more})
    assert isinstance(tree, Module)
    return replace(tree, style=Style(norm="rms_fused"))


def _block(
    tree: Node, *, tokens: Num = TOKENS, frozen: bool = False, turns: dict[str, Num] | None = None
) -> BlockAtWork:
    tapes: list[ClockedTape] = []

    def make_tape(arithmetic: Arithmetic) -> ClockedTape:
        tapes.append(ClockedTape(arithmetic, turns=turns or {}))
        return tapes[-1]

    huggingface_saved(
        tree,
        Step(batch_size=1, sequence_length=tokens),
        attention="flash",
        experts="eager" if turns else "grouped_mm",
        trains=lambda _: not frozen,
        input_needs_grad=frozen,
        make_tape=make_tape,
    )
    (block,) = tapes[0].blocks()
    return block


def test_a_block_peaks_when_its_gate_runs_backward() -> None:
    # kept: two normed inputs, the attention's sum, queries, keys, values, output; the log-sum-exps of 32 heads and two
    # roots in fp32; gate, activated gate and up, but no longer their product
    kept = 3 * WIDE + 2 * WIDE + 2 * NARROW + 4 * TOKENS * (HEADS + 2) + 3 * MIDDLE
    # on their way: the gradients of the block's output, of the product, and of its two factors
    assert _block(_tree()).peak_bytes == kept + WIDE + 3 * MIDDLE


def test_frozen_matrices_keep_no_inputs() -> None:
    # as above without the two normed inputs
    kept = WIDE + 2 * WIDE + 2 * NARROW + 4 * TOKENS * (HEADS + 2) + 3 * MIDDLE
    assert _block(_tree(), frozen=True).peak_bytes == kept + WIDE + 3 * MIDDLE


def test_a_column_of_tokens_equals_each_of_them() -> None:
    tokens = np.array([64.0, 512.0, 4096.0])
    column = _block(_tree(), tokens=tokens).peak_bytes
    assert np.asarray(column).tolist() == [float(_block(_tree(), tokens=int(each)).peak_bytes) for each in tokens]


def test_experts_in_a_loop_have_gradients_one_at_a_time() -> None:
    tree = _tree(moe={"experts": 8, "topk": 2, "moe_ffn": INNER})
    path = "model.layers.*.mlp.experts"
    peaks = [_block(tree, turns={path: turns}).peak_bytes for turns in (1, 2, 8, 64)]
    assert peaks == sorted(peaks, reverse=True)
    # 2 visits a token: gradients of the product, of its activated gate, and of gate and up side by side are there for
    # one expert of eight; the fullest moment may then be another one, so that less than that is gained
    gained = peaks[0] - peaks[2]
    assert 0 < gained <= 7 / 8 * 4 * 2 * MIDDLE
    # what all experts keep stays, however many take turns: gate and up, activated gate and product of both visits
    assert peaks[3] > 4 * 2 * MIDDLE


def test_input_and_output_are_as_large_as_each_other() -> None:
    block = _block(_tree())
    assert (block.input_bytes, block.keeps_input) == (WIDE, True)
