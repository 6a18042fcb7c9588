"""Rows of FSDP2 stacks, litgpt and loss kernels: read by their words, and what the shipped ones measured."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from planner.training import training_memory_of
from planner.training.recipe import load_recipes
from planner.validate import training
from planner.validate.frameworks import fsdp, kernels, litgpt
from planner.validate.intervals import quantile
from planner.validate.reading import Skipped
from planner.validate.rows import shipped_rows

LLAMA = {
    "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "gated_mlp": True,
    "norm": "rmsnorm",
}  # fmt: skip


def row(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": "one",
        "recipe": "torchtitan",
        "model": LLAMA,
        "seq_len": 8192,
        "micro_batch_per_gpu": 1,
        "gpus": 8,
        "parallel": {"tp": 1, "dp": 8, "zero": 3},
        "precision": "fp32 sharded params/master, bf16 all-gathered params",
        "optimizer": "AdamW fused",
        "act_ckpt": "selective per-op",
        "compile": True,
        "finetune": {"method": "pretrain"},
        "peak_mem": {"metric": "max_reserved"},
    }
    return {**found, **more}


def errors(recipes: Collection[str | None]) -> list[float]:
    """Absolute errors of the shipped rows of some recipes."""
    found = []
    for one in shipped_rows():
        if training.recipe_name(one) in recipes or one.get("recipe") in recipes:
            for judged in training.judge(one):
                assert not judged.skipped, (judged.id, judged.skipped)
                assert judged.error is not None
                found.append(abs(judged.error))
    return found


def test_losses_alone_are_within_one_percent() -> None:
    found = errors(kernels.RECIPES)
    assert len(found) == 26
    assert max(found) < 0.01


def test_litgpt_is_within_three_percent_in_the_median() -> None:
    found = errors(litgpt.RECIPES)
    assert len(found) == 28
    # the outer tenth are two runs of phi-1.5 with FSDP, and a quantised base
    assert quantile(found, 0.5) < 0.03
    assert quantile(found, 0.9) < 0.10


def test_a_model_that_is_built_whole_shows_that_peak() -> None:
    found = errors(("kempner-fsdp2",))
    assert len(found) == 2
    assert max(found) < 0.01


def test_runs_of_torchtitan_with_a_known_loss_are_within_ten_percent_in_the_median() -> None:
    found = errors(("torchtitan-2024",))
    assert found
    assert quantile(found, 0.5) < 0.10


def test_every_recipe_of_a_reader_is_in_the_catalog() -> None:
    for reader in (fsdp, kernels, litgpt):
        assert set(reader.RECIPES) <= set(load_recipes())


def test_words_become_a_job() -> None:
    reading = fsdp.read(row())
    assert reading.peak_counter == "reserved"
    job = reading.job
    assert (job.parallelism.zero, job.parallelism.dp, job.recompute.kind) == (3, 8, "per_op")
    assert (job.precision.name, job.optimizer.name, job.loss, job.compiled) == ("autocast", "adamw", "fused", True)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"compile": False}, "eager"),
        ({"parallel": {"tp": 2, "dp": 4, "zero": 3}}, "fused-parallel"),
        ({"recipe": "kempner-fsdp2", "parallel": {"tp": 2, "dp": 4, "zero": 3}}, "eager-bf16-held"),
    ],
)
def test_the_loss_follows_from_compilation_and_layout(more: dict[str, Any], expected: str) -> None:
    assert fsdp.read(row(**more)).job.loss == expected


def test_a_pipeline_of_torch_cuts_the_batch_of_a_rank_by_its_stages() -> None:
    # 256 samples over 8 data-parallel ranks, in 8 micro-batches
    reading = fsdp.read(
        row(
            recipe="torchtitan-2024",
            micro_batch_per_gpu=None,
            global_batch=256,
            gpus=512,
            parallel={"tp": 8, "sp": True, "pp": 8, "dp": 8, "zero": 3, "schedule": "Interleaved 1F1B"},
        )
    )
    assert (reading.job.step.batch_size, reading.job.micro_batches, reading.job.parallelism.vp) == (4, 8, 2)


def test_expert_ranks_beside_data_ranks_are_data_ranks_too() -> None:
    reading = fsdp.read(row(recipe="kempner-fsdp2", parallel={"dp": 2, "ep": 4, "zero": 3}))
    assert reading.job.parallelism.dp == 8


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("PagedAdamW / CPU offload", {"host": "weights gradients optimizer"}),
        ("PagedAdamW8bit / optimizer-in-bwd", {"optimizer_in_backward": True}),
    ],
)
def test_offload_and_fused_steps_are_options(words: str, options: dict[str, object]) -> None:
    reading = fsdp.read(row(recipe="torchtune", optimizer=words))
    assert reading.job.options == options


def test_what_is_offloaded_is_not_resident() -> None:
    there = fsdp.read(row(recipe="torchtune", precision="pure bf16", optimizer="AdamW"))
    away = fsdp.read(row(recipe="torchtune", precision="pure bf16", optimizer="AdamW / CPU offload"))
    steady = [training_memory_of(reading.tree, reading.job).stages[0].steady_bytes for reading in (there, away)]
    # bf16 weights and two bf16 moments of eight billion parameters over eight ranks
    assert steady[0] - steady[1] == pytest.approx(6 * 8030261248 / 8, rel=1e-6)


def test_a_model_that_is_cut_is_the_catalog_s_with_fewer_blocks() -> None:
    reading = fsdp.read(row(model={"name": "Llama-4 Scout 17Bx16E cut to 2 layers"}))
    held = training_memory_of(reading.tree, reading.job).stages[0].steady_bytes
    # table and head, and two blocks of about 2.2e9, at 12 B, over eight ranks
    assert held == pytest.approx(12 * (2 * 202048 * 5120 + 2 * 2.2e9) / 8, rel=0.02)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"seq_len": None}, "'seq_len' is not stated"),
        ({"micro_batch_per_gpu": None}, "neither 'micro_batch_per_gpu' nor 'global_batch'"),
        ({"micro_batch_per_gpu": 1.5}, "'micro_batch_per_gpu' is 1.5"),
        ({"act_ckpt": "weird"}, "checkpointing 'weird' is not known"),
        ({"optimizer": "Foo"}, "optimizer 'Foo' is not known"),
        ({"finetune": {"method": "boft"}}, "fine-tuning 'boft'"),
        ({"finetune": {"method": "qlora", "quant": "awq"}}, "quantisation 'awq'"),
        ({"model": {"name": "Nothing cut to 2 layers"}}, "does not know 'Nothing'"),
    ],
)
def test_what_cannot_be_read_is_skipped_with_the_reason(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(Skipped, match=reason):
        fsdp.read(row(**more))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"precision": "16-mixed"}, "only bf16-true is"),
        ({"finetune": {"method": "qlora", "quant": "gptq.int4"}}, "quantisation 'gptq.int4'"),
        ({"finetune": {"method": "lora", "targets": "q,w"}}, "target 'w'"),
        ({"finetune": {"method": "boft"}}, "no fine-tuning 'boft'"),
    ],
)
def test_what_litgpt_does_not_have_is_skipped(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(Skipped, match=reason):
        litgpt.read(row(**{"recipe": "litgpt", "precision": "bf16-true", **more}))


def test_an_unknown_loss_kernel_is_skipped() -> None:
    kernel = {"name": "cross_entropy kernel benchmark", "vocab": 32000}
    with pytest.raises(Skipped, match="loss kernel 'cute' is not known"):
        kernels.read(row(model=kernel, loss_impl="cute"))
    with pytest.raises(Skipped, match="'jsd' is no loss"):
        kernels.read(row(model={"name": "jsd", "vocab": 32000}, loss_impl="liger"))


def test_a_table_that_every_rank_holds_is_not_divided() -> None:
    layout = {"tp": 4, "dp": 2, "zero": 3}
    whole = fsdp.read(row(recipe="kempner-fsdp2", precision="params bf16", parallel=layout))
    cut = fsdp.read(row(recipe="fsdp2", precision="params bf16", parallel=layout))
    steady = [training_memory_of(reading.tree, reading.job).stages[0].steady_bytes for reading in (whole, cut)]
    # three quarters of the table, in bf16 with two moments, over two data-parallel ranks
    assert steady[0] - steady[1] == pytest.approx(6 * 0.75 * 128256 * 4096 / 2, rel=1e-9)
