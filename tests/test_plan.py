"""A plan composes the folds: what it says is what each of them says, and nothing more."""

import pytest
from pydantic import ValidationError

from planner.compute import compute
from planner.counts import count
from planner.devices import find_device
from planner.errors import ConfigError, PlannerError, UnknownNameError, UnsupportedError
from planner.formats import find_format
from planner.memory import inference_memory, training_memory
from planner.models import load_model
from planner.optimizers import find_optimizer
from planner.plan import NOT_INCLUDED, plan
from planner.precisions import find_precision
from planner.scenario import Scenario
from planner.workload import Step


def test_inference_is_the_folds() -> None:
    answer = plan(Scenario(model="meta-llama/Llama-3.1-8B", weights="int4", gpu="T4", past=100))
    tree = load_model("meta-llama/Llama-3.1-8B").tree
    work = compute(tree, Step(sequence_length=2048, past=100))
    assert answer.counts == count(tree)
    assert answer.memory == inference_memory(tree, find_format("int4"))
    assert answer.compute == work
    assert answer.device == find_device("T4")
    assert answer.flops_per_token.forward == work.conventions["matmul"].forward / 2048
    assert answer.flops_per_token.training == work.conventions["matmul"].training / 2048


def test_training_is_the_folds() -> None:
    scenario = Scenario(model="gpt2", mode="training", precision="bf16-master", optimizer="adafactor")
    answer = plan(scenario)
    tree = load_model("gpt2").tree
    assert answer.memory == training_memory(tree, find_precision("bf16-master"), find_optimizer("adafactor"))
    assert answer.device is None
    assert answer.fit is None


def test_does_not_fit_is_a_result() -> None:
    answer = plan(Scenario(model="meta-llama/Llama-3.1-405B", gpu="H100"))
    assert answer.fit is not None
    assert answer.device is not None
    # 405,853,388,800 parameters * 2 B = 811,706,777,600 B; an H100 shows 81089 MiB = 85,027,979,264 B: 9.55 of them
    assert answer.fit.headroom_bytes == 81089 * 2**20 - 2 * 405_853_388_800
    assert answer.fit.fits is False
    assert answer.fit.min_gpus == 10


def test_config_changes_and_class_arrive() -> None:
    answer = plan(Scenario(model="gpt2", overrides={"n_layer": 2}, class_name="GPT2Model"))
    assert answer.counts == count(load_model("gpt2", overrides={"n_layer": 2}, class_name="GPT2Model").tree)
    assert answer.model.class_name == "GPT2Model"


def test_assumptions_are_said() -> None:
    said = plan(Scenario(model="bert-base-uncased", sequence_length=1024, optimizer="sgd", gpu="Gaudi3")).assumptions
    assert "optimizer = sgd: not read in inference" in said
    assert any("1,024 tokens do not fit the table of 512 positions" in line for line in said)
    assert any(line.startswith("memory of Gaudi3: the size sold") for line in said)
    assert said[-1] == NOT_INCLUDED
    trained = plan(Scenario(model="gpt2", mode="training", weights="fp8", sequence_length=64)).assumptions
    assert "weights = fp8: not read in training" in trained


@pytest.mark.parametrize(
    ("scenario", "kind", "message"),
    [
        (Scenario(model="gpt-two"), UnknownNameError, "unknown model 'gpt-two'"),
        (Scenario(model="gpt2", gpu="H10000"), UnknownNameError, "unknown accelerator"),
        (Scenario(model="gpt2", weights="fp5"), UnknownNameError, "unknown weight format"),
        (Scenario(model="gpt2", class_name="GPT2"), UnknownNameError, "unknown class 'GPT2'"),
        (Scenario(model="gpt2", overrides={"n_head": 5}), ConfigError, "must divide n_embd"),
        (Scenario(model="bert-base-uncased", past=1), UnsupportedError, "no past"),
    ],
)
def test_what_cannot_be_answered_is_an_error(scenario: Scenario, kind: type[PlannerError], message: str) -> None:
    with pytest.raises(kind, match=message):
        plan(scenario, offline=True)


def test_a_scenario_is_strict_and_frozen() -> None:
    with pytest.raises(ValidationError):
        Scenario(model="gpt2", batch_size="4")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Scenario(model="gpt2", batchsize=4)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="must be 0 in training"):
        Scenario(model="gpt2", mode="training", past=4)
    one = Scenario(model="gpt2")
    with pytest.raises(ValidationError):
        one.model = "t5"  # type: ignore[misc]
