"""What ranks hold: together the whole, and what each holds again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from planner.counts import count
from planner.errors import UnsupportedError
from planner.models import Model, load_model
from planner.nodes import Node, walk
from planner.parallelism import ONE_DEVICE, Parallelism, pipeline_stages
from planner.sharding import counted_layers, main_stack, rank_tensors, stack_length

TinyModel = Callable[..., Model]


def _elements(tree: Node, parallelism: Parallelism = ONE_DEVICE, vocabulary_multiple: int = 1) -> int:
    return sum(int(held.elements) for held in rank_tensors(tree, parallelism, vocabulary_multiple=vocabulary_multiple))


def test_one_rank_holds_the_model(tiny_type: str, tiny_model: TinyModel) -> None:
    tree = tiny_model(tiny_type).tree
    assert _elements(tree) == count(tree).total


def test_no_rank_holds_less_than_its_share_or_more_than_all(tiny_type: str, tiny_model: TinyModel) -> None:
    tree = tiny_model(tiny_type).tree
    total = count(tree).total
    assert total / 2 <= _elements(tree, Parallelism(tp=2)) <= total


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_ranks_sum_to_the_total_and_what_is_replicated(tp: int) -> None:
    # Llama-3.1-8B: all matrices and tables divide by 8; only the norms are held by every rank: 65 * 4096
    tree = load_model("meta-llama/Llama-3.1-8B", offline=True).tree
    assert tp * _elements(tree, Parallelism(tp=tp)) == 8_030_261_248 + (tp - 1) * 65 * 4096


def test_key_value_heads_are_never_cut() -> None:
    # Qwen3-30B-A3B has 4 of them: 8 ranks hold each twice, 48 layers * 2048 * 2 * (4 * 128) elements more, and what
    # every rank holds 4 times more: 2 * 48 + 1 norms of 2048, 2 * 48 of 128, and 48 routers of 128 * 2048
    tree = load_model("Qwen/Qwen3-30B-A3B", offline=True).tree
    replicated = 97 * 2048 + 96 * 128 + 48 * 128 * 2048
    four, eight = 4 * _elements(tree, Parallelism(tp=4)), 8 * _elements(tree, Parallelism(tp=8))
    assert eight - four == 48 * 2048 * 2 * 4 * 128 + 4 * replicated


def test_layers_of_one_list_may_differ_in_their_heads() -> None:
    # Gemma 4 31B: 50 layers with 16 key/value heads of 256, and 10 without a window with 4 of 512
    tree = load_model("google/gemma-4-31B-it", offline=True).tree
    held = rank_tensors(tree, Parallelism(tp=2))
    widths = {
        (item.copies, item.tensor.shape[0]) for item in held if item.row.path.endswith("layers.*.self_attn.k_proj")
    }
    assert widths == {(50, 8 * 256), (10, 2 * 512)}


def test_a_latent_is_held_by_every_rank() -> None:
    tree = load_model("deepseek-ai/DeepSeek-V3", offline=True).tree
    cuts = {held.row.path.rpartition(".")[2]: held.cut for held in rank_tensors(tree, Parallelism(tp=8))}
    assert cuts["kv_a_proj_with_mqa"] == cuts["q_a_proj"] == cuts["gate"] == "replicated"
    assert cuts["kv_b_proj"] == cuts["q_b_proj"] == "column"
    assert cuts["o_proj"] == "row"


def test_whole_experts_or_parts_of_each_are_as_large() -> None:
    tree = load_model("mistralai/Mixtral-8x7B-v0.1", offline=True).tree
    parts = _elements(tree, Parallelism(tp=8))
    whole = _elements(tree, Parallelism(tp=8, ep=8, etp=1))
    assert parts == whole


def test_a_vocabulary_is_padded_before_it_is_divided() -> None:
    # Granite-3.1: 49155 rows become 49216; on 2 ranks 24608
    tree = load_model("ibm-granite/granite-3.1-8b-instruct", offline=True).tree
    tables = [
        held for held in rank_tensors(tree, Parallelism(tp=2), vocabulary_multiple=64) if held.cut == "vocabulary"
    ]
    assert {held.tensor.shape for held in tables} == {(24608, 4096)}


def test_stages_sum_to_the_model_and_a_second_tied_table(tiny_model: TinyModel) -> None:
    for tied, again in ((False, 0), (True, 1)):
        tree = tiny_model("llama", tie_word_embeddings=tied).tree
        rows = list(walk(tree))
        stack = main_stack(rows)
        assert stack == "model.layers"
        layers = stack_length(rows, stack)
        assert isinstance(layers, int)
        held = sum(
            int(held.elements)
            for stage in pipeline_stages(layers, layers)
            for held in rank_tensors(tree, Parallelism(pp=layers), stage)
        )
        table = next(row.leaf for row in rows if row.path == "model.embed_tokens")
        size = table.num_embeddings * table.embedding_dim  # type: ignore[union-attr]
        assert held == count(tree).total + again * size


def test_columns_equal_numbers(tiny_type: str, tiny_model: TinyModel) -> None:
    tree = tiny_model(tiny_type).tree
    degrees = [1, 2, 4]
    column = Parallelism(tp=np.array(degrees, dtype=np.float64))
    found = sum(held.elements for held in rank_tensors(tree, column, vocabulary_multiple=64))
    alone = [_elements(tree, Parallelism(tp=tp), vocabulary_multiple=64) for tp in degrees]
    assert list(np.broadcast_to(found, (3,))) == alone


def test_a_swept_number_of_layers_is_a_column_of_lengths() -> None:
    model = load_model("meta-llama/Llama-3.1-8B", offline=True)
    tree = model.tree_of(model.config.replaced({"num_hidden_layers": np.array([2.0, 32.0])}))
    rows = list(walk(tree))
    stack = main_stack(rows)
    assert stack is not None
    assert list(np.asarray(stack_length(rows, stack))) == [2, 32]
    with pytest.raises(UnsupportedError, match="cannot be placed one by one"):
        counted_layers(rows, stack)
    whole = list(walk(model.tree))
    assert counted_layers(whole, main_stack(whole)) == 32
    assert counted_layers(whole, None) == 0
