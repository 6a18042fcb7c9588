"""What autograd keeps of the classes of transformers, where the arithmetic can be done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.activations import SavedTensor
from planner.activations.huggingface import huggingface_saved
from planner.models import Model
from planner.workload import Step

TinyModel = Callable[..., Model]

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY = 48, 80, 6, 2, 10, 99
LAYERS = 3
SAMPLES, TOKENS = 2, 12
AT = SAMPLES * TOKENS
STEP = Step(batch_size=SAMPLES, sequence_length=TOKENS)

FAMILIES = ("bert", "gpt2", "llama", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral", "t5")


def total(saved: tuple[SavedTensor, ...], *, inside: bool | None = None) -> int:
    """Bytes of all copies, in the blocks or outside of them."""
    chosen = (tensor for tensor in saved if inside is None or tensor.in_block == inside)
    return sum(int(tensor.size_bytes * tensor.copies) for tensor in chosen)


def test_a_llama_block_with_fused_attention_in_bf16(tiny_model: TinyModel) -> None:
    saved = huggingface_saved(tiny_model("llama").tree, STEP, dtype="bf16", attention="sdpa")
    # two RMSNorms: an fp32 copy, a reciprocal root in fp32, the normalised input in bf16; and their outputs
    norms = 2 * AT * (4 * HIDDEN + 4 + 2 * HIDDEN + 2 * HIDDEN)
    # queries, shared keys and values as they are, the output, a log-sum-exp in fp32
    core = 2 * AT * HEAD * (2 * HEADS + 2 * KV_HEADS) + 4 * AT * HEADS
    # the gate before and after its activation, the up half, their product
    mlp = 4 * 2 * AT * INNER
    assert total(saved, inside=True) == LAYERS * (norms + core + mlp)


def test_a_llama_model_outside_of_its_blocks(tiny_model: TinyModel) -> None:
    saved = huggingface_saved(tiny_model("llama").tree, STEP, dtype="bf16", attention="sdpa")
    norm = AT * (4 * HIDDEN + 4 + 2 * HIDDEN + 2 * HIDDEN)
    # cosines and sines, the same for every sample and layer
    rotary = 2 * 2 * TOKENS * HEAD
    # log-probabilities in fp32, shifted labels in int64, their weight
    loss = 4 * AT * VOCABULARY + 8 * AT + 4
    assert total(saved, inside=False) == norm + rotary + loss


def test_eager_attention_repeats_keys_and_keeps_probabilities_twice(tiny_model: TinyModel) -> None:
    tree = tiny_model("llama").tree
    eager, fused = (
        total(huggingface_saved(tree, STEP, dtype="bf16", attention=kernel)) for kernel in ("eager", "sdpa")
    )
    pairs = SAMPLES * HEADS * TOKENS**2
    # probabilities in fp32 and cast to bf16; keys and values of 6 heads and not of 2; no log-sum-exp
    more = (4 + 2) * pairs + 2 * 2 * AT * HEAD * (HEADS - KV_HEADS) - 4 * AT * HEADS
    assert eager - fused == LAYERS * more


def test_bert_is_megatrons_formula_and_the_statistics_of_its_norms(tiny_model: TinyModel) -> None:
    # 34 s b h + 5 a s^2 b has masks of dropout (2 s b h and a s^2 b) that a step without dropout has not
    model = tiny_model("bert", intermediate_size=4 * HIDDEN)
    saved = huggingface_saved(model.tree, STEP, dtype="bf16", attention="eager", device="cpu")
    by_megatron = 32 * AT * HIDDEN + 2 * HEADS * TOKENS**2 * SAMPLES
    statistics = 2 * 2 * AT * 2
    assert total(saved, inside=True) == LAYERS * (by_megatron + statistics)


def test_masks_of_dropout_have_a_byte_on_cuda(tiny_model: TinyModel) -> None:
    tree = tiny_model("bert", intermediate_size=4 * HIDDEN).tree
    rate = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
    with_masks, without = (
        total(huggingface_saved(tree, STEP, dtype="bf16", attention="eager", **kwargs), inside=True)  # type: ignore[arg-type]
        for kwargs in (rate, {})
    )
    # Megatron's 34 - 32 and 5 - 2: two masks of hidden states; a mask and the masked probabilities
    assert with_masks - without == LAYERS * (2 * AT * HIDDEN + 3 * HEADS * TOKENS**2 * SAMPLES)


def test_checkpointing_keeps_the_input_of_each_block(tiny_model: TinyModel) -> None:
    saved = huggingface_saved(tiny_model("llama").tree, STEP, dtype="bf16", checkpointing=True)
    assert [tensor.name for tensor in saved if tensor.in_block] == ["input of the block"]
    assert total(saved, inside=True) == LAYERS * 2 * AT * HIDDEN


def test_frozen_weights_keep_no_input(tiny_model: TinyModel) -> None:
    saved = huggingface_saved(
        tiny_model("llama").tree, STEP, dtype="bf16", trains=lambda _: False, input_needs_grad=True
    )
    assert not [tensor for tensor in saved if tensor.name == "input"]
    assert not [tensor for tensor in saved if tensor.name == "normalised"]
    # the fp32 copies, to which the gradient of the residual stream flows, stay
    assert [tensor for tensor in saved if tensor.name == "fp32 copy"]


def test_a_frozen_model_keeps_nothing(tiny_model: TinyModel) -> None:
    assert huggingface_saved(tiny_model("llama").tree, STEP, trains=lambda _: False) == ()


def test_below_the_first_weight_that_trains_nothing_is_kept(tiny_model: TinyModel) -> None:
    saved = huggingface_saved(tiny_model("llama").tree, STEP, trains=lambda row: row.path.endswith("down_proj"))
    # Its first block has no gradient but that of its last matrix, whose input it keeps.
    first = [tensor for tensor in saved if tensor.indices == (range(1),)]
    assert [tensor.name for tensor in first] == ["input"]
    rest = [tensor for tensor in saved if tensor.indices == (range(1, LAYERS),)]
    assert "queries" in [tensor.name for tensor in rest]


def test_an_adapter_keeps_the_input_of_a_frozen_matrix(tiny_model: TinyModel) -> None:
    tree = tiny_model("llama").tree
    keywords: dict[str, Any] = {"dtype": "bf16", "trains": lambda _: False, "input_needs_grad": True}
    plain = total(huggingface_saved(tree, STEP, **keywords))
    adapted = total(huggingface_saved(tree, STEP, adapted=lambda row: row.path.endswith("q_proj"), **keywords))
    assert adapted - plain == LAYERS * 2 * AT * HIDDEN


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "autocast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_column_equals_each_of_its_elements(tiny_model: TinyModel, family: str, dtype: Any, attention: Any) -> None:
    tree = tiny_model(family).tree
    batches, lengths = np.array([1.0, 2.0, 3.0]), np.array([5.0, 12.0, 20.0])
    columns = huggingface_saved(
        tree, Step(batch_size=batches, sequence_length=lengths), dtype=dtype, attention=attention, device="cpu"
    )
    together = sum(tensor.size_bytes * tensor.copies for tensor in columns)
    for index, (batch, length) in enumerate(zip(batches, lengths, strict=True)):
        step = Step(batch_size=int(batch), sequence_length=int(length))
        alone = huggingface_saved(tree, step, dtype=dtype, attention=attention, device="cpu")
        assert together[index] == total(alone)  # type: ignore[index]


def test_more_layers_and_wider_ones_keep_more(tiny_model: TinyModel) -> None:
    model = tiny_model("llama")
    sizes = [
        total(huggingface_saved(model.tree_of(model.config.replaced({"intermediate_size": width})), STEP))
        for width in (INNER, 2 * INNER)
    ]
    # two outputs of the readers, the activation and the product
    assert sizes[1] - sizes[0] == LAYERS * 4 * 2 * AT * INNER


def test_twice_the_samples_keep_twice_as_much_in_blocks(tiny_model: TinyModel) -> None:
    tree = tiny_model("qwen3").tree
    once, twice = (total(huggingface_saved(tree, replace(STEP, batch_size=samples)), inside=True) for samples in (2, 4))
    assert twice == 2 * once


def test_every_family_folds_on_columns_as_on_numbers(tiny_model: TinyModel, tiny_type: str) -> None:
    tree = tiny_model(tiny_type).tree
    batches, lengths = np.array([1.0, 2.0]), np.array([8.0, 12.0])
    for attention in ("eager", "sdpa"):
        columns = huggingface_saved(
            tree, Step(batch_size=batches, sequence_length=lengths), attention=attention, device="cpu"
        )
        together = sum(tensor.size_bytes * tensor.copies for tensor in columns)
        for index, (batch, length) in enumerate(zip(batches, lengths, strict=True)):
            step = Step(batch_size=int(batch), sequence_length=int(length))
            alone = huggingface_saved(tree, step, attention=attention, device="cpu")
            assert together[index] == total(alone)  # type: ignore[index]
