"""Training jobs of a sweep: each row equals the same job asked alone."""

from pathlib import Path
from typing import Any

import pytest

from planner.errors import ScenarioError
from planner.plan import plan
from planner.scenario import Scenario
from planner.sweep.run import sweep
from planner.sweep.table import Report

SCENARIO = """\
model: [Qwen/Qwen3-0.6B, gpt2]
mode: training
recipe: [huggingface, torchtitan]
precision: bf16
recompute: [none, full]
batch_size: {start: 1, stop: 4, factor: 2}
sequence_length: [128, 512]
dp: [1, 4]
gpu: L4
"""


def report(text: str, folder: Path) -> Report:
    path = folder / "jobs.yaml"
    path.write_text(text, encoding="utf-8")
    return sweep(path, offline=True)


def test_every_row_is_the_job_asked_alone(tmp_path: Path) -> None:
    found = report(SCENARIO, tmp_path)
    frame = found.to_pandas()
    assert found.rows == 2 * 2 * 2 * 3 * 2 * 2
    row: Any
    for row in frame.iloc[::5].itertuples():
        alone = plan(
            Scenario(
                model=row.model,
                mode="training",
                recipe=row.recipe,
                precision="bf16",
                recompute=row.recompute,
                batch_size=row.batch_size,
                sequence_length=row.sequence_length,
                dp=row.dp,
                gpu="L4",
            ),
            offline=True,
        )
        assert alone.training is not None
        assert alone.fit is not None
        assert row.peak_bytes == pytest.approx(float(alone.training.peak_bytes), abs=1)
        assert row.steady_bytes == pytest.approx(float(alone.training.steady_bytes), abs=1)
        assert row.fits == bool(alone.fit.fits)


def test_inference_rows_know_no_recipe(tmp_path: Path) -> None:
    found = report("model: gpt2\nmode: [inference, training]\nrecipe: huggingface\nbatch_size: [1, 2]\n", tmp_path)
    frame = found.to_pandas()
    by_mode = frame.groupby("mode")["peak_bytes"]
    assert by_mode.count()["inference"] == 0
    assert by_mode.count()["training"] == 2


def test_a_layout_that_cannot_exist_takes_no_other_with_it(tmp_path: Path) -> None:
    # Qwen3-0.6B has 28 layers and 16 heads: 28 stages exist, 64 do not
    found = report(
        "model: Qwen/Qwen3-0.6B\nmode: training\nrecipe: torchtitan\npp: [2, 64]\ngradient_accumulation: 64\n", tmp_path
    )
    frame: Any = found.to_pandas().set_index("pp")
    assert frame.loc[2, "peak_bytes"] > 0
    assert not isinstance(frame.loc[2, "refused"], str)
    assert "64" in frame.loc[64, "refused"]
    assert frame["peak_bytes"].isna().to_dict() == {2: False, 64: True}


def test_an_unknown_recipe_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"jobs.yaml:3: recipe: unknown recipe 'hugingface'.*huggingface"):
        report("model: gpt2\nmode: training\nrecipe: hugingface\n", tmp_path)


def test_a_recipe_without_training_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is inference"):
        Scenario(model="gpt2", recipe="huggingface")
