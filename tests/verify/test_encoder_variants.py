"""Encoders and encoder-decoders whose flags add, drop or share products: no difference on the real class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from planner.models import Model
from planner.verify import verify
from planner.workload import Step

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

VARIANTS: list[tuple[str, str | None, dict[str, Any]]] = [
    ("albert", None, {"embedding_size": 48, "inner_group_num": 1, "num_hidden_groups": 1}),
    ("electra", None, {"embedding_size": 48}),
    ("electra", "ElectraForCausalLM", {"is_decoder": True}),
    ("electra", "ElectraForMultipleChoice", {"summary_use_proj": False}),
    ("deberta", None, {"pos_att_type": "c2p"}),
    ("deberta", None, {"pos_att_type": ["p2c"], "max_relative_positions": -1, "type_vocab_size": 3}),
    ("deberta", "DebertaForMaskedLM", {"embedding_size": 20, "position_biased_input": True}),
    ("deberta", "DebertaForMaskedLM", {"legacy": False, "relative_attention": False}),
    ("deberta-v2", None, {"share_att_key": False, "conv_groups": 3, "conv_kernel_size": 5}),
    ("deberta-v2", None, {"share_att_key": False, "pos_att_type": ["p2c"], "position_buckets": -1}),
    ("deberta-v2", None, {"position_buckets": -1, "conv_kernel_size": 0}),
    ("deberta-v2", None, {"pos_att_type": [], "share_att_key": False, "norm_rel_ebd": "none"}),
    ("deberta-v2", "DebertaV2ForMaskedLM", {"legacy": False, "relative_attention": False}),
    (
        "modernbert",
        None,
        {"attention_bias": True, "classifier_bias": True, "decoder_bias": False, "mlp_bias": True, "norm_bias": True},
    ),
    ("modernbert", None, {"layer_types": ["sliding_attention", *["full_attention"] * 4]}),
    ("xlnet", "XLNetForSequenceClassification", {"summary_use_proj": False}),
    ("marian", None, {"share_encoder_decoder_embeddings": True}),
    ("whisper", "WhisperForAudioClassification", {"use_weighted_layer_sum": True}),
    ("t5gemma", "T5GemmaForTokenClassification", {"is_encoder_decoder": False}),
]


# shorter and longer than the distances that the tiny models tell apart, and than their windows
@pytest.mark.parametrize(("batch", "length"), [(2, 3), (3, 30)])
@pytest.mark.parametrize(("model_type", "class_name", "changes"), VARIANTS, ids=str)
def test_a_variant_is_exact(
    tiny_model: TinyModel,
    model_type: str,
    class_name: str | None,
    changes: dict[str, Any],
    batch: int,
    length: int,
) -> None:
    step = Step(batch_size=batch, sequence_length=length)
    model = tiny_model(model_type, class_name, **changes)
    # FlopCounterMode forgets the groups of a convolution in the gradient of its weight.
    backward = "conv_groups" not in changes
    (result,) = verify(model, step=step, device="cpu", attention="eager", backward=backward)
    assert [str(difference) for difference in result.differences] == []
    assert result.exact


@pytest.mark.parametrize("model_type", ["bart", "mbart", "marian", "pegasus", "t5gemma"])
def test_a_source_of_another_length(tiny_model: TinyModel, model_type: str) -> None:
    step = Step(batch_size=2, sequence_length=5, source_length=17)
    assert all(result.exact for result in verify(tiny_model(model_type), step=step, device="cpu", backward=True))
