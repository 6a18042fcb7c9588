"""Rows of the Hugging Face stack, read by their words, and what they measured."""

from __future__ import annotations

from typing import Any

import pytest

from planner.validate import training
from planner.validate.frameworks.huggingface import RECIPES, read
from planner.validate.reading import Skipped

LLAMA = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "gated_mlp": True}
LORA = {"method": "lora", "rank": 16, "targets": "q_proj k_proj v_proj o_proj"}


def _row(**more: Any) -> dict[str, Any]:
    row = {
        "id": "one",
        "recipe": "huggingface-4.45",
        "model": LLAMA,
        "seq_len": 4096,
        "micro_batch_per_gpu": 4,
        "precision": "torch_dtype=bfloat16, bf16 AMP",
        "optimizer": "AdamW (torch, foreach)",
        "act_ckpt": "full (HF gradient_checkpointing)",
        "attention": "flash-attention-2",
        "loss_impl": "liger fused linear+CE",
        "finetune": LORA,
        "peak_mem": {"metric": "max_allocated"},
        "extra": {"framework_config": "foak-fast-kernels-liger"},
        "source": {"repo": "github.com/foundation-model-stack/fms-acceleration"},
    }
    return {**row, **more}


def _peak(row: dict[str, Any]) -> float:
    return float(training.predict(read(row))["peak_bytes"])


def test_bytes_a_token_are_those_that_were_measured() -> None:
    # fms-acceleration a100_80gb_liger.csv, Llama-3-8B, LoRA, 1 GPU: peaks of batches of 4 and 8 samples of 4096
    measured = (33_567_698_944 - 24_905_936_896) / (4 * 4096)
    slope = (_peak(_row(micro_batch_per_gpu=8)) - _peak(_row())) / (4 * 4096)
    # 32 inputs of 8192 B; 21 of gate and up with gradients, 1.5 q k v, 1 output, 1 sum, 2 outputs and gradients, and 6
    # of dropped inputs and masks, 8192 B each; 264 B of log-sum-exps, roots and ranks; 24 B of the batch
    by_hand = 32 * 8192 + 32.5 * 8192 + 264 + 24
    assert by_hand == 528_672
    assert measured == pytest.approx(by_hand, rel=1e-4)
    assert slope == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(
    ("finetune", "recipe"),
    [
        ({"method": "full"}, "huggingface-4.45"),
        (LORA, "trl-lora-4.45"),
        ({**LORA, "method": "qlora", "quant": "bnb nf4"}, "trl-qlora-4.45"),
        ({**LORA, "method": "lora on GPTQ-int4", "quant": "gptq int4"}, "trl-qlora-4.45"),
    ],
)
def test_the_recipe_follows_from_what_is_trained(finetune: dict[str, Any], recipe: str) -> None:
    found = read(_row(finetune=finetune)).job.recipe.name
    assert found == recipe
    assert found in RECIPES


def test_measured_fields_are_no_context() -> None:
    plain, leaking = _row(), _row(peak_bytes=1, steady_bytes=2)
    assert _peak(plain) == _peak(leaking)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"seq_len": None}, "not stated"),
        ({"finetune": {"method": "telepathy"}}, "telepathy"),
        ({"finetune": {"method": "osf", "rank": 8}}, "decomposed"),
        ({"optimizer": "hope"}, "hope"),
        ({"act_ckpt": "sometimes"}, "sometimes"),
        ({"precision": "int3"}, "int3"),
    ],
)
def test_what_is_unknown_is_skipped_with_its_reason(more: dict[str, Any], words: str) -> None:
    with pytest.raises(Skipped, match=words):
        read(_row(**more))


@pytest.mark.parametrize("field", ["precision", "optimizer", "act_ckpt", "attention", "loss_impl", "extra", "parallel"])
def test_a_null_is_what_the_recipe_usually_does(field: str) -> None:
    assert _peak(_row(**{field: None})) > 0


def test_targets_that_are_not_stated_follow_from_how_much_was_trained() -> None:
    # 10 * (4096 + 14336) * 3 matrices * 32 layers
    finetune = {"method": "lora", "rank": 10, "trainable_params": 17_694_720}
    adapter = read(_row(finetune=finetune)).job.adapter
    assert adapter is not None
    assert adapter.target_modules == ("gate_proj", "up_proj", "down_proj")
