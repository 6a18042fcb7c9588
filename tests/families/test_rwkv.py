"""RWKV-4: the card's total by hand, flags, and its recurrence."""

from typing import Any

from planner.compute import compute
from planner.counts import count
from planner.models import Model, build_model
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(**keys: Any) -> Model:
    raw = {"model_type": "rwkv", "hidden_size": 768, "num_hidden_layers": 12, **keys}
    return build_model(ConfigSource(name="test", raw=raw, origin="config.json"))


def test_rwkv_4_169m() -> None:
    # Appendix of arXiv:2305.13048: 2 V D + 13 D^2 L + D (11 L + 4), for 50277 tokens, 12 layers of 768
    assert count(model_of().tree).total == 2 * 50277 * 768 + 13 * 768**2 * 12 + 768 * (11 * 12 + 4) == 169_342_464


def test_the_first_layer_norms_the_embeddings() -> None:
    # two norms a layer, one before the first and one at the end, each with a bias
    assert count(model_of().tree).breakdown["norms"] == (2 * 12 + 2) * 2 * 768
    one, two = (count(model_of(num_hidden_layers=layers).tree) for layers in (1, 2))
    assert two.breakdown["norms"] - one.breakdown["norms"] == 2 * 2 * 768


def test_widths_of_its_own() -> None:
    base, wide = count(model_of().tree), count(model_of(attention_hidden_size=1024, intermediate_size=1000).tree)
    # four projections, and two numbers a channel
    assert wide.breakdown["ssm"] - base.breakdown["ssm"] == 12 * 256 * (4 * 768 + 2)
    assert wide.breakdown["mlp"] - base.breakdown["mlp"] == 12 * 2 * 768 * (1000 - 3072)


def test_twelve_flops_a_channel() -> None:
    assert compute(model_of().tree, Step(sequence_length=5)).scans == 5 * 12 * 768 * 12


def test_a_head_that_runs_with_the_table() -> None:
    tied = count(model_of(tie_word_embeddings=True).tree)
    assert tied.total == 169_342_464 - 50277 * 768
    assert tied.total_with_untied_head == 169_342_464
