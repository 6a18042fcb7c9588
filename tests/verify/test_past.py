"""Decoding: new tokens against a cache, which windows and encoders shorten or replace."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.errors import UnsupportedError
from planner.models import Model
from planner.nodes import Attention, walk
from planner.verify import verify
from planner.verify.compare import expected_flops
from planner.verify.scans import has_scans
from planner.workload import Step

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

KEEP_NONE = (
    *("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta"),
    *("vit", "xlnet"),
)
"""Encoders."""

LATENT = ("deepseek_v3", "kimi_k2")
"""Their cache holds latents, out of which keys and values are made again."""


# one token and several; to the edge of the window of 8, and beyond it
@pytest.mark.parametrize(("new", "past"), [(1, 7), (3, 20)])
def test_products_of_new_tokens_with_a_past(tiny_model: TinyModel, tiny_type: str, new: int, past: int) -> None:
    step = Step(batch_size=2, sequence_length=new, past=past, source_length=9)
    model = tiny_model(tiny_type)
    if has_scans(model.tree):
        with pytest.raises(UnsupportedError, match="past of recurrent layers"):
            verify(model, step=step, device="cpu")
        return
    attentions = [row.leaf for row in walk(model.tree) if isinstance(row.leaf, Attention)]
    if any(leaf.selected is not None or leaf.keys == "pooled" for leaf in attentions):
        with pytest.raises(UnsupportedError, match="past of an indexer"):
            verify(model, step=step, device="cpu")
        return
    if not any(leaf.causal and leaf.caches for leaf in attentions):
        with pytest.raises(UnsupportedError, match="no past"):
            verify(model, step=step, device="cpu")
        return
    (result,) = verify(model, step=step, device="cpu", attention="eager")
    assert [str(difference) for difference in result.differences] == []
    assert result.exact


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "t5"])
def test_a_past_on_meta(tiny_model: TinyModel, model_type: str) -> None:
    step = Step(batch_size=2, sequence_length=2, past=11, source_length=9)
    results = verify(tiny_model(model_type), step=step)
    assert all(result.exact for result in results)
    assert all(result.witness.tensors == "fake" for result in results)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 8}),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("mixtral", {"sliding_window": 8}),
        ("mistral", {"sliding_window": None}),
        ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}),
    ],
)
def test_windows_that_only_some_layers_have(tiny_model: TinyModel, model_type: str, changes: dict[str, object]) -> None:
    (result,) = verify(
        tiny_model(model_type, **changes), step=Step(sequence_length=2, past=20), device="cpu", attention="eager"
    )
    assert [str(difference) for difference in result.differences] == []
    assert result.exact


@pytest.mark.parametrize(
    ("model_type", "class_name", "changes"),
    [
        ("bert", "BertLMHeadModel", {"is_decoder": True}),
        ("roberta", "RobertaForCausalLM", {"is_decoder": True}),
        ("llama", "LlamaForSequenceClassification", {}),
        ("gemma3", "Gemma3ForConditionalGeneration", {}),
        ("gpt2", "GPT2LMHeadModel", {}),
        ("mt5", "MT5Model", {}),
    ],
)
def test_other_classes_that_keep_a_cache(
    tiny_model: TinyModel, model_type: str, class_name: str, changes: dict[str, object]
) -> None:
    step = Step(batch_size=2, sequence_length=2, past=6, source_length=9)
    assert all(
        result.exact for result in verify(tiny_model(model_type, class_name, **changes), step=step, device="cpu")
    )


def test_a_class_without_a_cache_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("t5", "T5ForSequenceClassification")
    with pytest.raises(UnsupportedError, match="takes no cache"):
        verify(model, step=Step(sequence_length=2, past=3), device="cpu")


def test_a_past_has_no_backward(tiny_model: TinyModel) -> None:
    with pytest.raises(UnsupportedError, match="no backward"):
        verify(tiny_model("llama"), step=Step(past=3), device="cpu", backward=True)


@pytest.mark.parametrize("model_type", LATENT)
def test_latents_become_keys_and_values_again_in_every_step(tiny_model: TinyModel, model_type: str) -> None:
    new, past = 2, 6
    model, step = tiny_model(model_type), Step(sequence_length=new, past=past)
    (result,) = verify(model, step=step, device="cpu", attention="eager")
    # rank 16 to 6 heads of (10 + 12), for what is cached as well as for what is new
    flops = 2 * (past + new) * 16 * 6 * (10 + 12)
    assert expected_flops(model.tree, step)["model.layers.2.self_attn.kv_b_proj"] == flops
    assert result.exact
