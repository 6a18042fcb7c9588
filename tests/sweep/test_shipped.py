"""The shipped scenarios run, and answer what their comments say they do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import planner
from planner.catalog.models import find_catalog_model
from planner.devices import load_devices
from planner.sweep import Report, sweep

SCENARIOS = Path(planner.__file__).parent.parent / "scenarios"


@pytest.fixture(scope="module")
def gpu() -> Report:
    return sweep(SCENARIOS / "gpu.yaml", offline=True)


@pytest.fixture(scope="module")
def bert() -> pd.DataFrame:
    return sweep(SCENARIOS / "bert.yaml", offline=True).to_pandas()


def test_gpu_covers_ten_models_and_every_gpu(gpu: Report) -> None:
    frame = gpu.to_pandas()
    assert len(frame) >= 500
    # 10 models x (3 formats + 2 precisions x 2 optimizers) x every GPU
    assert len(frame) == 10 * (3 + 4) * len(load_devices())
    assert frame["model"].nunique() == 10
    assert set(frame["gpu"]) == set(load_devices())
    assert not [note for note in gpu.notes if "positions" in note]


def test_gpu_counts_what_was_published(gpu: Report) -> None:
    frame = gpu.to_pandas().drop_duplicates("model")
    published = 0
    for model, total in zip(frame["model"], frame["total_parameters"], strict=True):
        entry = find_catalog_model(model)
        assert entry is not None
        as_built = entry.published_class is None and not entry.published_extras
        if entry.published_total is not None and as_built:
            assert total == entry.published_total
            published += 1
    assert published >= 5


def test_fit_follows_from_the_columns(gpu: Report) -> None:
    frame = gpu.to_pandas()
    assert ((frame["headroom_bytes"] >= 0) == frame["fits"]).all()
    assert ((frame["min_gpus"] == 1) == frame["fits"]).all()
    enough = frame["min_gpus"] * frame["gpu_memory_bytes"]
    assert (enough >= frame["total_bytes"]).all()
    assert (enough - frame["gpu_memory_bytes"] < frame["total_bytes"]).all()


def test_bert_is_as_large_as_its_comments_say(bert: pd.DataFrame) -> None:
    of_encoder = bert[bert["class"] == "BertModel"]
    totals = of_encoder.groupby("model")["total_parameters"].unique()
    assert totals["google-bert/bert-base-uncased"].tolist() == [109_482_240]
    assert totals["google-bert/bert-large-cased"].tolist() == [335_141_888]


@pytest.mark.parametrize(
    ("mode", "weights", "optimizer", "bytes_per_parameter"),
    [
        ("inference", "fp32", None, 4),
        ("inference", "bf16", None, 2),
        ("training", "fp32", "adamw", 16),
        ("training", "fp32", "sgd", 8),
        ("training", "bf16", "sgd", 4),
    ],
)
def test_bert_costs_what_its_comments_say(
    bert: pd.DataFrame, mode: str, weights: str, optimizer: str | None, bytes_per_parameter: int
) -> None:
    rows = bert[(bert["mode"] == mode) & (bert["weights"] == weights)]
    rows = rows[rows["optimizer"].isna() if optimizer is None else rows["optimizer"] == optimizer]
    rows = rows[rows["precision"].isna() | (rows["precision"] == weights)]
    assert len(rows) > 0
    assert np.array_equal(rows["total_bytes"], bytes_per_parameter * rows["total_parameters"])
