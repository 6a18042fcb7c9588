"""Start-ups of engines in a sweep: each row equals the same start-up asked alone."""

from pathlib import Path
from typing import Any

import pytest

from planner.errors import PlannerError, ScenarioError
from planner.plan import plan
from planner.scenario import Scenario
from planner.sweep.run import sweep
from planner.sweep.table import Report

SCENARIO = """\
model: [Qwen/Qwen3-0.6B, google/gemma-3-4b-it]
engine: [vllm 0.11, vllm 0.19]
gpu: [L4, H100 SXM5 80GB]
tp: [1, 2]
kv_cache_dtype: [auto, fp8]
quantization: [bf16, fp8]
max_model_len: [1024, 32768]
max_num_seqs: [16, 256]
"""

SERVED = ("kv_pool_bytes", "kv_tokens", "max_concurrency", "starts")


def report(text: str, folder: Path) -> Report:
    path = folder / "served.yaml"
    path.write_text(text, encoding="utf-8")
    return sweep(path, offline=True)


def alone(row: Any, *fields: str, **others: Any) -> Any:
    """The answer to the scenario of one row."""
    return plan(Scenario(model=row.model, **{name: getattr(row, name) for name in fields}, **others), offline=True)


def test_every_row_is_the_start_up_asked_alone(tmp_path: Path) -> None:
    found = report(SCENARIO, tmp_path)
    assert found.rows == 2**8
    fields = ("engine", "gpu", "tp", "kv_cache_dtype", "quantization", "max_model_len", "max_num_seqs")
    row: Any
    for row in found.to_pandas().iloc[::7].itertuples():
        answer = alone(row, *fields).serving
        assert answer is not None
        serving = answer.serving
        assert row.gpus == row.tp
        assert row.device_bytes == int(answer.device_bytes)
        assert row.kv_pool_bytes == int(max(serving.kv_pool_bytes, 0))
        assert row.kv_tokens == serving.kv_tokens
        assert row.max_concurrency == pytest.approx(serving.concurrency, rel=1e-12)
        assert row.starts == row.fits == bool(serving.starts)


def test_dimensions_of_a_model_are_columns_too(tmp_path: Path) -> None:
    text = (
        "model: Qwen/Qwen3-0.6B\nengine: vllm 0.19\ngpu: L4\nmax_model_len: 4096\n"
        "set: {num_hidden_layers: [2, 7, 28], hidden_size: [512, 1024]}\n"
    )
    found = report(text, tmp_path)
    assert found.rows == 6
    for row in found.to_pandas().to_dict("records"):
        overrides = {name: row[f"set.{name}"] for name in ("num_hidden_layers", "hidden_size")}
        asked = Scenario(model="Qwen/Qwen3-0.6B", engine="vllm 0.19", gpu="L4", max_model_len=4096, overrides=overrides)
        answer = plan(asked, offline=True).serving
        assert answer is not None
        assert answer.serving is not None
        # the graphs of two layers are not those of 28
        assert row["device_bytes"] == int(answer.device_bytes)
        assert row["kv_tokens"] == answer.serving.kv_tokens


def test_other_engines_have_columns_of_their_own(tmp_path: Path) -> None:
    text = (
        "model: Qwen/Qwen3-0.6B\nengine: [llama.cpp, transformers]\ngpu: L4\nmax_model_len: [2048, 8192]\n"
        "tp: [1, 2]\nn_gpu_layers: [10, 29]\nsequence_length: [256, 1024]\nset: {num_hidden_layers: [14, 28]}\n"
    )
    frame = report(text, tmp_path).to_pandas()
    assert len(frame) == 2**6
    for row in frame.to_dict("records"):
        assert all(row[name] is None or row[name] != row[name] for name in SERVED)
        fields = ("engine", "gpu", "max_model_len", "tp", "n_gpu_layers", "sequence_length")
        overrides = {"num_hidden_layers": row["set.num_hidden_layers"]}
        asked = Scenario(model="Qwen/Qwen3-0.6B", overrides=overrides, **{name: row[name] for name in fields})
        answer = plan(asked, offline=True).serving
        assert answer is not None
        assert row["device_bytes"] == int(answer.device_bytes)
        assert row["gpus"] == (row["tp"] if row["engine"] == "llama.cpp" else 1)
    by_context = frame[frame.engine == "llama.cpp"].groupby("max_model_len")["device_bytes"].max()
    assert by_context[8192] > by_context[2048]


def test_what_an_engine_does_not_read_is_said(tmp_path: Path) -> None:
    text = "model: gpt2\nengine: [vllm, transformers]\ngpu: L4\nmax_num_seqs: [1, 2]\n"
    assert "max_num_seqs is not read by transformers" in report(text, tmp_path).notes


def test_weights_stand_for_quantization(tmp_path: Path) -> None:
    text = "model: Qwen/Qwen3-0.6B\nengine: vllm 0.19\ngpu: L4\nmax_model_len: 1024\n{}: [bf16, fp8]\n"
    by_word, by_weights = (report(text.format(key), tmp_path).to_pandas() for key in ("quantization", "weights"))
    assert list(by_word["kv_tokens"]) == list(by_weights["kv_tokens"])
    assert by_word["kv_tokens"][0] < by_word["kv_tokens"][1]


def test_columns_are_there_only_where_an_engine_is_asked(tmp_path: Path) -> None:
    plain = report("model: gpt2\ngpu: L4\n", tmp_path).to_pandas()
    assert not {*SERVED, "device_bytes", "refused"} & set(plain.columns)
    served = report("model: gpt2\ngpu: L4\nengine: vllm\n", tmp_path).to_pandas()
    assert set(plain.columns) | {*SERVED, "gpus", "device_bytes", "refused", "engine"} == set(served.columns)


def test_ranks_that_do_not_divide_the_heads_are_refused_alone(tmp_path: Path) -> None:
    # Qwen3-0.6B has 16 heads
    text = "model: Qwen/Qwen3-0.6B\nengine: vllm\ngpu: L4\ntp: [1, 3, 8]\nmax_model_len: [512, 1024]\n"
    found = report(text, tmp_path)
    frame = found.to_pandas()
    for row in frame.itertuples():
        if row.tp == 3:
            with pytest.raises(PlannerError) as refused:
                alone(row, "tp", "max_model_len", engine="vllm", gpu="L4")
            assert row.refused == str(refused.value)
            assert not row.fits
        else:
            assert not isinstance(row.refused, str)
            assert row.starts
    assert any("2 rows cannot exist: tp: 16 attention heads" in note for note in found.notes)


def test_more_stages_than_layers_are_refused(tmp_path: Path) -> None:
    frame = report("model: Qwen/Qwen3-0.6B\nengine: vllm\ngpu: L4\npp: [2, 32]\n", tmp_path).to_pandas()
    assert frame["refused"].isna().tolist() == [True, False]
    assert frame["refused"][1] == "pp: 28 layers cannot be divided over 32 stages"


def test_a_length_beyond_the_positions_does_not_start(tmp_path: Path) -> None:
    # Llama-3.1-8B has 131,072 positions
    text = "model: meta-llama/Llama-3.1-8B\nengine: vllm\ngpu: B200\nmax_model_len: [131072, 131088]\n"
    assert report(text, tmp_path).to_pandas()["starts"].tolist() == [True, False]


def test_the_steps_length_is_not_held_against_a_start_up(tmp_path: Path) -> None:
    # gpt2 has 1,024 positions, and a step is of 2,048 tokens unless a scenario says otherwise
    found = report("model: gpt2\nengine: vllm\ngpu: L4\n", tmp_path)
    assert not [note for note in found.notes if "positions" in note]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: gpt2\nengine: vllm\n", r"served.yaml:2: engine: needs a gpu"),
        ("model: gpt2\nengine: [null, vllm]\n", r"served.yaml:2: engine\[1\]: needs a gpu"),
        ("model: gpt2\ngpu: L4\nmode: training\nengine: vllm\n", r":4: engine: is an inference engine, but mode is tr"),
        ("model: gpt2\ngpu: L4\nengine: vlm\n", r"served.yaml:3: engine: unknown engine 'vlm'.*'vllm'"),
        ("model: gpt2\ngpu: L4\nengine: [vllm 0.19, vllm 0.y]\n", r":3: engine\[1\]: '0.y' is no version of vllm"),
        ("model: gpt2\ngpu: L4\nengine: vllm\nkv_cache_dtype: [auto, fp9]\n", r":4: kv_cache_dtype\[1\]: unknown.*fp8"),
        ("model: gpt2\ngpu: L4\nengine: vllm\nquantization: awqq\n", r":4: quantization: unknown.*did you mean 'awq'"),
        ("model: gpt2\ngpu: L4\nengine: vllm\ngpu_memory_utilization: 1.5\n", r":4: gpu_memory_util.*at most 1.0, got"),
        (
            "model: gpt2\ngpu: L4\nengine: vllm\ngpu_memory_utilization: 0\n",
            r":4: gpu_memory_util.*must be above 0, got",
        ),
        ("model: gpt2\ngpu: L4\nengine: vllm\nmax_model_len: 0\n", r":4: max_model_len: must be at least 1, got 0"),
        ("model: gpt2\ngpu: L4\nengine: vllm\nenforce_eager: often\n", r":4: enforce_eager: expected true or false"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        report(text, tmp_path)
