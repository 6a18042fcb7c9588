"""FLOPs against counts by hand: one multiply-add is 2."""

from typing import Any

import numpy as np
import pytest

from planner.compute import CONVENTIONS, compute, step_warnings
from planner.counts import count
from planner.errors import PlannerError, UnsupportedError
from planner.models import Model, load_model
from planner.workload import Step


def _model(name: str, class_name: str | None = None, **overrides: Any) -> Model:
    return load_model(name, class_name=class_name, overrides=overrides, offline=True)


def _forward(model: Model, convention: str = "matmul", **step: Any) -> Any:
    return compute(model.tree, Step(**step)).conventions[convention].forward


def test_bert_base_with_its_pooler() -> None:
    # 12 layers * (256 tokens * (4 * 768**2 + 2 * 768 * 3072) + 2 * 12 heads * 128**2 * (64 + 64)) + 2 * 768**2
    assert _forward(_model("bert-base-uncased", "BertModel"), batch_size=2, sequence_length=128) == 2 * 22_348_431_360


def test_gpt2_with_its_tied_head() -> None:
    assert _forward(_model("openai-community/gpt2"), batch_size=2, sequence_length=128) == 2 * 32_228_179_968


def test_vit_counts_patches_and_the_class_token() -> None:
    # 196 patches through the convolution, 197 positions through the layers, one through the classifier
    layers = 12 * (197 * (4 * 768**2 + 2 * 768 * 3072) + 12 * 197**2 * 128)
    expected = 2 * (196 * 3 * 16 * 16 * 768 + layers + 768 * 1000)
    model = _model("google/vit-base-patch16-224")
    assert _forward(model) == expected
    assert compute(model.tree, Step(batch_size=3)).tokens == 3 * 197


def test_an_image_model_needs_no_gradient_of_its_pixels() -> None:
    result = compute(_model("google/vit-base-patch16-224").tree, Step())
    patches = 2 * 196 * 3 * 16 * 16 * 768
    flops = result.conventions["matmul"]
    assert flops.backward == 2 * flops.forward - patches


def test_t5_has_two_lengths() -> None:
    # small: d 512, 8 heads of 64, f 2048, 6 + 6 layers, V 32128; source 128, target 64, one sample
    d, f, s, t = 512, 2048, 128, 64
    encoder = 6 * (s * (4 * d * d + 2 * d * f) + s * s * 2 * d)
    decoder = 6 * (t * (6 * d * d + 2 * d * f) + s * 2 * d * d + (t * t + t * s) * 2 * d)
    head = t * d * 32128
    model = _model("google-t5/t5-small")
    assert _forward(model, sequence_length=t, source_length=s) == 2 * (encoder + decoder + head)


def test_while_t5_decodes_its_encoder_rests() -> None:
    # one token: six projections, MLP, 10 + 1 keys of itself and 128 of the source; no encoder, no cross keys and values
    d, f = 512, 2048
    decoder = 6 * (4 * d * d + 2 * d * d + 2 * d * f + (11 + 128) * 2 * d)
    model = _model("google-t5/t5-small")
    assert _forward(model, sequence_length=1, past=10, source_length=128) == 2 * (decoder + d * 32128)


def test_a_token_meets_only_its_experts() -> None:
    result = compute(_model("mistralai/Mixtral-8x7B-v0.1").tree, Step(sequence_length=10))
    # 32 layers, 2 experts of 3 matrices
    assert result.components["experts.routed"].forward == 2 * 10 * 32 * 2 * 3 * 4096 * 14336


def test_latent_attention_has_keys_wider_than_values() -> None:
    result = compute(_model("deepseek-ai/DeepSeek-V3").tree, Step(sequence_length=7))
    # 61 layers, 128 heads, 128 + 64 for queries and keys, 128 for values
    assert result.components["attention.scores"].forward == 2 * 61 * 128 * 7 * 7 * (192 + 128)


def test_logits_of_the_last_position_alone() -> None:
    model = _model("meta-llama/Llama-3.1-8B")
    every, last = (_forward(model, sequence_length=100, logits=which) for which in ("all", "last"))
    assert every - last == 2 * 99 * 4096 * 128256


def test_decoding_multiplies_the_cache() -> None:
    model = _model("meta-llama/Llama-3.1-8B")
    result = compute(model.tree, Step(sequence_length=1, past=1000))
    # 32 layers, 32 heads of 128, 1001 keys
    assert result.components["attention.scores"].forward == 2 * 32 * 32 * 1001 * 256


def test_a_window_limits_the_cache_and_the_mask_but_not_an_executed_prefill() -> None:
    model = _model("google/gemma-2-9b")
    config = model.config
    width = 2 * 16 * 256 * 2  # scores and values, 16 heads of 256
    layers = config.num_hidden_layers // 2  # type: ignore[attr-defined]
    prefill = compute(model.tree, Step(sequence_length=8192)).components["attention.scores"].forward
    assert prefill == width * 2 * layers * 8192**2
    decode = compute(model.tree, Step(sequence_length=1, past=8192)).components["attention.scores"].forward
    assert decode == width * layers * (8193 + 4096)
    masked = _forward(model, "masked", sequence_length=8192) - _forward(model, sequence_length=8192)
    full, windowed = 8192 * 8193 // 2, 4096 * 4097 // 2 + 4096 * 4096
    assert masked == width * layers * (full + windowed - 2 * 8192**2)


def test_causal_is_half_of_the_scores_of_a_decoder_and_all_of_an_encoder() -> None:
    decoder = compute(_model("openai-community/gpt2").tree, Step(sequence_length=64))
    scores = decoder.components["attention.scores"].forward
    assert decoder.conventions["matmul"].forward - decoder.conventions["causal"].forward == scores // 2
    encoder = compute(_model("bert-base-uncased").tree, Step(sequence_length=64)).conventions
    assert encoder["causal"] == encoder["masked"] == encoder["matmul"]


def test_backward_is_twice_forward_and_more_in_a_fused_kernel() -> None:
    result = compute(_model("openai-community/gpt2").tree, Step(sequence_length=64))
    flops = result.conventions["matmul"]
    assert flops.backward == 2 * flops.forward
    # five products instead of four
    assert result.fused_backward - flops.backward == result.components["attention.scores"].forward // 2


def test_rules_of_thumb() -> None:
    model = _model("meta-llama/Llama-3.1-8B")
    conventions = compute(model.tree, Step(batch_size=2, sequence_length=1024)).conventions
    assert conventions["6N"].training == 6 * 8_030_261_248 * 2048
    # Chowdhery et al. 2022: 12 L H Q T a token more
    assert conventions["palm"].training == conventions["6N"].training + 12 * 32 * 32 * 128 * 1024 * 2048
    assert conventions["palm"].forward == conventions["palm"].training // 3


def test_a_token_meets_half_of_an_encoder_decoder() -> None:
    model = _model("google-t5/t5-base")
    flops = compute(model.tree, Step(sequence_length=512, source_length=512)).conventions["6N"]
    # Brown et al. 2020, table D.1: 3 N a token
    assert flops.training == 3 * count(model.tree).total * 1024


def test_components_sum_to_matmul() -> None:
    for name in ("google-t5/t5-small", "deepseek-ai/DeepSeek-V3", "google/gemma-3-4b-it"):
        result = compute(_model(name).tree, Step(batch_size=2, sequence_length=33, images=1))
        total = result.conventions["matmul"]
        assert sum(flops.forward for flops in result.components.values()) == total.forward
        assert sum(flops.backward for flops in result.components.values()) == total.backward


def test_images_beside_text_pass_the_tower() -> None:
    model = _model("google/gemma-3-4b-it")
    without = compute(model.tree, Step(sequence_length=300)).components
    with_images = compute(model.tree, Step(sequence_length=300, images=2)).components
    assert without["vision.mlp"].forward == 0
    # 27 layers, 4096 patches an image, 1152 x 4304 twice
    assert with_images["vision.mlp"].forward == 2 * 2 * 27 * 4096 * 2 * 1152 * 4304
    assert with_images["projector"].forward == 2 * 2 * 256 * 1152 * 2560


def test_the_past_of_an_encoder_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no past"):
        compute(_model("bert-base-uncased").tree, Step(past=3))


@pytest.mark.parametrize("field", ["batch_size", "sequence_length", "past", "images", "source_length"])
def test_a_step_of_nothing_is_refused(field: str) -> None:
    broken: dict[str, Any] = {field: -1}
    with pytest.raises(PlannerError, match=f"{field}: must be at least"):
        Step(**broken)


def test_more_tokens_than_positions_is_said() -> None:
    model = _model("bert-base-uncased")
    assert step_warnings(model.tree, Step(sequence_length=512)) == []
    (line,) = step_warnings(model.tree, Step(sequence_length=513))
    assert "512 positions" in line


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "google/gemma-3-1b-it", "google-t5/t5-small"])
def test_a_column_of_steps_equals_each_step_alone(name: str) -> None:
    model = _model(name)
    batch, length, past = np.array([1.0, 8.0, 3.0]), np.array([128.0, 1.0, 700.0]), np.array([0.0, 999.0, 5.0])
    column = compute(model.tree, Step(batch_size=batch, sequence_length=length, past=past))
    for index in range(len(batch)):
        alone = compute(
            model.tree,
            Step(batch_size=int(batch[index]), sequence_length=int(length[index]), past=int(past[index])),
        )
        for convention in CONVENTIONS:
            in_column, single = column.conventions[convention], alone.conventions[convention]
            assert np.broadcast_to(in_column.forward, 3)[index] == single.forward
            assert np.broadcast_to(in_column.training, 3)[index] == single.training
        assert np.broadcast_to(column.fused_backward, 3)[index] == alone.fused_backward
