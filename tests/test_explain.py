import pytest

from planner.catalog.models import catalog_models
from planner.counts import count
from planner.explain import block_formulas, module_lines, tied_lines
from planner.models import load_model

NAMES = [model.id for model in catalog_models()]


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_listed_and_they_sum_to_the_total(name: str) -> None:
    model = load_model(name)
    assert sum(line.parameters for line in module_lines(model)) == count(model.tree).total


@pytest.mark.parametrize(
    "name",
    [
        "bert-base-uncased",
        "openai-community/gpt2",
        "mistralai/Mixtral-8x7B-v0.1",
        "deepseek-ai/DeepSeek-V3",
        "openai/gpt-oss-20b",
        "google/gemma-3-4b-it",
        "google/flan-t5-base",
        "google/vit-base-patch16-224",
        "Qwen/Qwen3-30B-A3B",
    ],
)
def test_the_symbolic_formula_equals_the_number(name: str) -> None:
    model = load_model(name)
    repeated = sum(line.parameters for line in module_lines(model) if "*" in line.path)
    assert sum(block.copies * block.parameters for block in block_formulas(model)) == repeated


def test_the_layer_of_bert() -> None:
    (block,) = block_formulas(load_model("bert-base-uncased"))
    assert block.components["attention"] == "4*hidden_size**2 + 4*hidden_size"
    assert block.values == {"hidden_size": 768, "intermediate_size": 3072}
    assert block.parameters == 7_087_872


def test_a_tied_head_says_whose_weight_it_runs_with() -> None:
    assert tied_lines(load_model("openai-community/gpt2")) == [("lm_head", "transformer.wte")]
