"""What real models keep for backward, and hold at a time, against the folds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from planner.activations.huggingface import huggingface_saved
from planner.cli.app import app
from planner.errors import UnknownNameError, UnsupportedError
from planner.models import Model
from planner.nodes import Row
from planner.real.build import build, quiet
from planner.verify.memory import verify_memory
from planner.verify.saved import kept_tensors, without_dropout
from planner.workload import Step

TinyConfig = Callable[..., dict[str, Any]]
TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

STEP = Step(batch_size=2, sequence_length=12)

EXACT = ("bert", "gpt2", "llama", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral", "t5")
"""Families that must keep what is predicted to the byte in every part."""


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "autocast"])
@pytest.mark.parametrize("family", EXACT)
def test_real_tensors_are_kept_as_predicted(
    tiny_model: TinyModel, family: str, dtype: str, checkpointing: bool
) -> None:
    results = verify_memory(
        tiny_model(family), step=STEP, device="cpu", dtype=dtype, checkpointing=checkpointing, peak=False
    )
    assert results
    for result in results:
        assert [part for part in result.parts if part.kept.difference] == []


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", EXACT)
def test_a_single_sample_copies_less(tiny_model: TinyModel, family: str, dtype: str) -> None:
    step = Step(batch_size=1, sequence_length=12)
    for result in verify_memory(tiny_model(family), step=step, device="cpu", dtype=dtype, peak=False):
        assert result.exact


@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm", "eager"])
def test_every_implementation_of_experts(tiny_model: TinyModel, experts: str) -> None:
    for result in verify_memory(tiny_model("mixtral"), step=STEP, device="cpu", experts=experts, peak=False):
        assert result.exact


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "gemma3_text", "mixtral", "t5"])
def test_fake_tensors_are_kept_as_real_ones(tiny_model: TinyModel, family: str) -> None:
    real, fake = (verify_memory(tiny_model(family), step=STEP, device=device, peak=False) for device in ("cpu", "meta"))
    assert [result.total for result in real] == [result.total for result in fake]


@pytest.mark.parametrize("frozen", ["all", "all but norms", "all but queries"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma", "gemma3_text", "mixtral"])
def test_frozen_weights_keep_less(
    tiny_model: TinyModel, family: str, dtype: torch.dtype, attention: Any, frozen: str
) -> None:
    part = {"all": "nothing", "all but norms": "norm", "all but queries": "q_proj"}[frozen]
    model = tiny_model(family)
    experts = "grouped_mm" if family == "mixtral" else None
    with quiet():
        real: Any = build(
            model.raw, model.class_name, "here", attention=attention, experts=experts, dtype=dtype, device="cpu"
        ).train()
    without_dropout(real)
    for name, parameter in real.named_parameters():
        parameter.requires_grad_(part in name)
    real.get_input_embeddings().register_forward_hook(lambda _module, _inputs, output: output.requires_grad_(True))
    ids = torch.randint(3, 90, (2, 12))
    kept = kept_tensors(real, lambda: real(input_ids=ids, labels=ids).loss, [ids])

    def trains(row: Row) -> bool:
        return part in row.path

    saved = huggingface_saved(
        model.tree,
        STEP,
        dtype="bf16" if dtype == torch.bfloat16 else "fp32",
        attention=attention,
        device="cpu",
        trains=trains,
        input_needs_grad=True,
    )
    assert sum(int(tensor.size_bytes * tensor.copies) for tensor in saved) == sum(tensor.size_bytes for tensor in kept)


def test_the_peak_of_a_step_closes(tiny_model: TinyModel) -> None:
    # A wide vocabulary and a long sequence, so that the loss is the fullest moment.
    model = tiny_model("llama", vocab_size=4000, num_hidden_layers=1)
    (result,) = verify_memory(
        model, step=Step(batch_size=4, sequence_length=256), device="meta", attention="sdpa", dtype="fp32"
    )
    peak = result.peak
    assert peak is not None
    forward, backward, _ = peak.phases
    # the loss itself
    assert forward.end_bytes - peak.predicted["end of forward"] == 4
    # the shifted labels are dropped by then
    assert peak.predicted["backward of the loss"] - backward.peak_bytes == 8 * 4 * 256 - 4
    assert peak.figure.actual == backward.peak_bytes


def test_the_optimizer_step_closes(tiny_model: TinyModel) -> None:
    (result,) = verify_memory(
        tiny_model("llama"), step=Step(sequence_length=4), device="meta", attention="sdpa", dtype="bf16"
    )
    assert result.peak is not None
    assert result.peak.phases[-1].peak_bytes == result.peak.predicted["optimizer step"]


def test_torchs_own_tracker_sees_the_same_peak(tiny_model: TinyModel) -> None:
    from torch.distributed._tools.mem_tracker import MemTracker

    model = tiny_model("llama", vocab_size=4000)
    step = Step(batch_size=2, sequence_length=64)
    (result,) = verify_memory(model, step=step, device="cpu", attention="sdpa", dtype="fp32")
    with quiet():
        real: Any = build(model.raw, model.class_name, "here", attention="sdpa", dtype=torch.float32, device="cpu")
    real.train()
    optimizer = torch.optim.AdamW(real.parameters(), foreach=True)
    ids = torch.randint(3, 90, (2, 64))
    labels = ids.clone()
    tracker: Any = MemTracker()
    tracker.track_external(real, optimizer, ids, labels)
    with tracker:
        for iteration in range(2):
            real(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if iteration == 0:
                tracker.reset_mod_stats()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    assert result.peak is not None
    # MemTracker rounds every storage up to 512 bytes.
    storages = 40 * len(list(real.parameters()))
    assert 0 <= snapshot["Total"] - result.peak.figure.actual <= 512 * storages


def test_the_command_prints_every_part_and_ends_with_0(tiny_config: TinyConfig, tmp_path: Path) -> None:
    path = tmp_path / "llama.json"
    path.write_text(json.dumps(tiny_config("llama")), encoding="utf-8")
    arguments = ["verify", str(path), "--memory", "--batch-size", "2", "--sequence-length", "12"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "model.layers.*" in result.output
    assert "peak of the step" in result.output
    as_json = CliRunner().invoke(app, [*arguments, "--format", "json", "--attention", "sdpa", "--checkpointing"])
    (record,) = json.loads(as_json.stdout)
    assert record["exact"] is True
    # the input of each of 3 blocks, in bf16
    (blocks,) = (part for part in record["parts"] if part["name"] == "model.layers.*")
    assert blocks["actual"] == 3 * 2 * 12 * 48 * 2


def test_a_wrong_prediction_ends_with_1(
    tiny_config: TinyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "llama.json"
    path.write_text(json.dumps(tiny_config("llama")), encoding="utf-8")
    monkeypatch.setattr("planner.verify.memory.huggingface_saved", lambda *_, **__: ())
    result = CliRunner().invoke(app, ["verify", str(path), "--memory", "--attention", "sdpa"])
    assert result.exit_code == 1


def test_words_that_are_no_choice(tiny_model: TinyModel) -> None:
    with pytest.raises(UnknownNameError, match="dtype 'bf61'"):
        verify_memory(tiny_model("llama"), step=STEP, dtype="bf61")
    with pytest.raises(UnsupportedError, match="no backward"):
        verify_memory(tiny_model("llama"), step=Step(past=3))


def test_options_of_memory_mean_nothing_without_it() -> None:
    result = CliRunner().invoke(app, ["verify", "gpt2", "--checkpointing"])
    assert result.exit_code != 0
