"""Dropout that a class applies in training, from its config or from the class's own defaults."""

import pytest

from planner.catalog import read_text
from planner.models import load_model
from planner.plan import plan
from planner.scenario import Scenario
from planner.training import training_memory_of
from planner.training.dropout import FILENAME, stated_dropout
from planner.training.setup import training_job
from planner.workload import Step


@pytest.mark.parametrize(
    ("raw", "model_type", "hidden", "attention"),
    [
        ({}, "llama", 0.0, 0.0),
        ({}, "bert", 0.1, 0.1),
        ({}, "opt", 0.1, 0.0),
        ({"dropout_rate": 0.0}, "t5", 0.0, 0.0),
        ({"resid_pdrop": 0.2}, "gpt2", 0.2, 0.1),
        ({"hidden_dropout_prob": "much"}, "bert", 0.1, 0.1),
    ],
)
def test_the_config_counts_before_the_class(
    raw: dict[str, object], model_type: str, hidden: float, attention: float
) -> None:
    assert stated_dropout(raw, model_type) == {"hidden_dropout": hidden, "attention_dropout": attention}


@pytest.mark.slow
def test_defaults_are_those_of_the_classes() -> None:
    from transformers import AutoConfig

    for line in read_text(FILENAME).splitlines()[1:]:
        model_type, hidden, attention, _ = line.split(",")
        raw = AutoConfig.for_model(model_type).to_dict()
        assert stated_dropout(raw) == {"hidden_dropout": float(hidden), "attention_dropout": float(attention)}


def test_masks_take_a_byte_an_element() -> None:
    tree, step = load_model("gpt2", offline=True).tree, Step(batch_size=8, sequence_length=512)
    without, with_masks = (
        training_memory_of(tree, training_job(step, "huggingface", options=options))
        for options in ({}, stated_dropout({}, "gpt2"))
    )
    # 12 blocks with two masks each, and one behind the embeddings: 25 x 8 x 512 x 768 B; none in a fused kernel
    assert with_masks.peak_bytes - without.peak_bytes == 25 * 8 * 512 * 768


def test_a_plan_has_the_dropout_of_its_model() -> None:
    answers = {
        name: plan(Scenario(model=name, mode="training", recipe="huggingface"), offline=True)
        for name in ("gpt2", "meta-llama/Llama-3.1-8B")
    }
    jobs = [answer.job for answer in answers.values()]
    assert [job and job.option("hidden_dropout", 0.0) for job in jobs] == [0.1, 0.0]
    megatron = plan(Scenario(model="gpt2", mode="training", recipe="megatron"), offline=True).job
    assert megatron is not None
    assert not megatron.options
