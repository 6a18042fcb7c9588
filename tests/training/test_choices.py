"""Words that a recipe cannot follow are refused, and what figures leave out is said."""

import pytest

from planner.adapters import Adapter
from planner.errors import UnknownNameError, UnsupportedError
from planner.models import load_model
from planner.parallelism import Parallelism
from planner.training import training_memory_of
from planner.training.choices import left_out, recomputations_of
from planner.training.job import Recompute, parse_recompute
from planner.training.setup import training_job
from planner.validate.architecture import tree_of
from planner.workload import Step

MODEL = {"layers": 4, "hidden": 64, "heads": 4, "ffn": 128, "vocab": 100, "gated_mlp": True}
STEP = Step(sequence_length=32)


@pytest.mark.parametrize(
    ("recipe", "word", "message"),
    [
        ("huggingface", "per_op", "recompute: recipe 'huggingface' has no 'per_op', expected none or full"),
        ("trl-lora", "selective", "recompute: recipe 'trl-lora' has no 'selective', expected none or full"),
        ("megatron", "per_op", "recompute: recipe 'megatron' has no 'per_op', expected none or selective or full"),
    ],
)
def test_a_recomputation_that_a_framework_has_not_is_refused(recipe: str, word: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        training_memory_of(tree_of(MODEL), training_job(STEP, recipe, recompute=word))


@pytest.mark.parametrize(
    ("recipe", "recompute", "word"),
    [
        ("nanotron", "none", "eager"),
        ("litgpt", "none", "eager"),
        ("torchtitan", "per_op", "eager"),
        ("textbook", "none", "flash"),
    ],
)
def test_an_attention_that_a_framework_has_not_is_refused(recipe: str, recompute: str, word: str) -> None:
    with pytest.raises(UnsupportedError, match=f"attention: recipe '{recipe}' has no '{word}'"):
        training_memory_of(tree_of(MODEL), training_job(STEP, recipe, recompute=recompute, attention=word))


def test_scores_that_are_kept_take_more() -> None:
    step = Step(batch_size=8, sequence_length=512)
    eager, fused = (
        training_memory_of(tree_of(MODEL), training_job(step, "fsdp2", attention=word)).peak_bytes
        for word in ("eager", "sdpa")
    )
    assert eager > fused


def test_every_recomputation_that_is_known_is_followed() -> None:
    for recipe in ("huggingface", "torchtitan", "megatron", "nanotron", "textbook", "litgpt"):
        known = recomputations_of(training_job(STEP, recipe))
        assert known[0] == "none"
        assert known[-1] == "full"
        for word in known:
            assert training_memory_of(tree_of(MODEL), training_job(STEP, recipe, recompute=word)).peak_bytes > 0


@pytest.mark.parametrize(
    "text",
    ["", "fll", "none:2", "per_op:2", "full:", "full:0", "full:x", "full:1234567", "selective:", "selective:mpl"],
)
def test_words_that_name_no_recomputation(text: str) -> None:
    with pytest.raises(UnknownNameError, match="^recompute: "):
        parse_recompute(text)


def test_words_that_do() -> None:
    assert parse_recompute("full:2") == Recompute(kind="full", every=2)
    assert parse_recompute("selective:mlp,norm").parts == {"mlp", "norm"}
    assert parse_recompute("per_op").kind == "per_op"


def test_what_is_left_out_is_said() -> None:
    lora = Adapter(method="lora", rank=8, target_modules=("q_proj",))
    tree = tree_of(MODEL)
    assert left_out(tree, training_job(STEP, "trl-lora", adapter=lora)) == []
    (line,) = left_out(tree, training_job(STEP, "torchtune", adapter=lora))
    assert "upper bound" in line
    spread = training_job(STEP, "trl-lora", adapter=lora, parallelism=Parallelism(tp=2))
    assert left_out(tree, spread) == ["adapters are not divided by tp"]
    sees = load_model("llava-hf/llava-1.5-7b-hf", offline=True).tree
    assert "without images" in left_out(sees, training_job(STEP))[0]
    assert not left_out(sees, training_job(Step(sequence_length=32, images=1)))
