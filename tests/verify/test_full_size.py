"""Full-size models on meta tensors, where nothing is allocated: no difference at any path."""

from __future__ import annotations

import pytest

from planner.models import load_model
from planner.verify import verify
from planner.workload import Step

pytestmark = pytest.mark.slow

MODELS = [
    ("google-bert/bert-base-uncased", 512),
    ("FacebookAI/roberta-large", 512),
    ("openai-community/gpt2-xl", 1024),
    ("meta-llama/Llama-3.1-70B", 2048),
    ("mistralai/Mistral-Small-24B-Base-2501", 2048),
    ("Qwen/Qwen2.5-7B", 2048),
    ("Qwen/Qwen3-0.6B", 2048),
    ("mistralai/Mixtral-8x7B-v0.1", 2048),
    ("Qwen/Qwen1.5-MoE-A2.7B", 2048),
    ("Qwen/Qwen3-30B-A3B", 2048),
    ("deepseek-ai/DeepSeek-V3", 2048),
    ("openai/gpt-oss-20b", 2048),
    ("google/gemma-7b", 2048),
    ("google/gemma-2-9b", 2048),
    ("google/gemma-3-1b-it", 2048),
    ("google/gemma-3-4b-it", 2048),
    ("google/flan-t5-xxl", 512),
    ("google/mt5-base", 512),
    ("google/vit-large-patch16-224", 1),
]
"""One of each family of the catalog, and tokens of its forward pass."""

NO_SDPA = ("gpt-oss", "gemma-2-")


@pytest.mark.parametrize(("name", "tokens"), MODELS, ids=[name for name, _ in MODELS])
def test_no_difference_at_any_path(name: str, tokens: int) -> None:
    model = load_model(name, offline=True)
    attention = "eager" if any(word in name for word in NO_SDPA) else "sdpa"
    (result,) = verify(model, step=Step(sequence_length=tokens), attention=attention)
    assert [str(difference) for difference in result.differences] == []
    assert result.exact
    assert result.witness.tensors == "fake"
    assert result.witness.forward is not None
    # Generous: with two cores to itself, the slowest needs 7 s.
    assert result.seconds < 60


def test_backward_of_a_full_size_model() -> None:
    for result in verify(load_model("meta-llama/Llama-3.1-8B", offline=True), backward=True):
        assert result.exact
        assert result.witness.backward is not None
