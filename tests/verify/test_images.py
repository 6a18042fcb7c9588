"""Images beside text: towers, projectors and the layers that look at images are proven on the real classes too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from planner.errors import UnsupportedError
from planner.models import Model
from planner.verify import Verification, verify
from planner.workload import Step

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

TWO_TOWERS = ("clip", "siglip")
BESIDE_TEXT = (
    *("gemma3", "gemma4", "idefics3", "kimi_k25", "llama4", "llava", "minimax_m3_vl", "mllama", "paligemma"),
    *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "smolvlm", "vipllava"),
)

ASKS_FOR_VALUES = ("gemma4", "idefics3", "kimi_k25", "minimax_m3_vl", "smolvlm")
"""Their shapes depend on where the tokens of images are, which images are not empty, or how large each one is."""

SMALL_IMAGES: dict[str, dict[str, Any]] = {
    "minimax_m3_vl": {"image_token_index": 92, "video_token_index": 93},
}
"""Keys that the tiny config of a model type lacks, where it is not made for images."""


def assert_exact(results: list[Verification]) -> None:
    for result in results:
        assert [str(difference) for difference in result.differences] == []
        assert result.exact


def with_images(tiny_model: TinyModel, model_type: str, **changes: object) -> Model:
    more = dict(SMALL_IMAGES.get(model_type, {}))
    if model_type == "kimi_k25":
        # rotary positions in two directions want heads whose width is a multiple of 4; an image need not be square
        tower = {**tiny_model(model_type).raw["vision_config"], "num_attention_heads": 5, "pos_emb_width": 6}
        more["vision_config"] = tower
    return tiny_model(model_type, **more, **changes)


@pytest.mark.parametrize("model_type", [*TWO_TOWERS, *BESIDE_TEXT])
def test_two_images_a_sample_forward_and_backward(tiny_model: TinyModel, model_type: str) -> None:
    step = Step(batch_size=2, sequence_length=40, images=2)
    results = verify(with_images(tiny_model, model_type), step=step, device="cpu", attention="all", backward=True)
    assert_exact(results)
    assert all(result.witness.backward is not None for result in results)


@pytest.mark.parametrize("model_type", [*TWO_TOWERS, *(name for name in BESIDE_TEXT if name not in ASKS_FOR_VALUES)])
def test_an_image_on_meta(tiny_model: TinyModel, model_type: str) -> None:
    assert_exact(verify(tiny_model(model_type), step=Step(sequence_length=24, images=1)))


@pytest.mark.parametrize("model_type", ASKS_FOR_VALUES)
def test_a_class_that_looks_for_the_places_of_images_says_that_meta_has_none(
    tiny_model: TinyModel, model_type: str
) -> None:
    model = with_images(tiny_model, model_type)
    with pytest.raises(UnsupportedError, match=r"cannot run so on meta.*--device cpu"):
        verify(model, step=Step(sequence_length=24, images=1))


@pytest.mark.parametrize("model_type", BESIDE_TEXT)
def test_a_tower_does_not_run_without_images(tiny_model: TinyModel, model_type: str) -> None:
    model, length = with_images(tiny_model, model_type), 24
    none, one = (verify(model, step=Step(sequence_length=length, images=count), device="cpu") for count in (0, 1))
    assert_exact([*none, *one])
    assert none[0].flops.actual < one[0].flops.actual


@pytest.mark.parametrize("model_type", [name for name in BESIDE_TEXT if name != "minimax_m3_vl"])
@pytest.mark.parametrize("images", [0, 2])
def test_while_decoding_images_are_at_hand(tiny_model: TinyModel, model_type: str, images: int) -> None:
    step = Step(batch_size=2, sequence_length=3, past=20, images=images)
    assert_exact(verify(with_images(tiny_model, model_type), step=step, device="cpu"))


def test_layers_that_look_at_images_still_see_them_while_decoding(tiny_model: TinyModel) -> None:
    model = tiny_model("mllama")
    none, one = (verify(model, step=Step(past=20, images=count), device="cpu")[0] for count in (0, 1))
    # Two layers, one token: queries and output of 48 x 48, scores with 4 tiles of 17 positions, and a gated MLP.
    projections = 2 * 2 * 48 * 48
    scores = 2 * 4 * 17 * 6 * (8 + 8)
    mlp = 3 * 2 * 48 * 72
    assert one.flops.actual - none.flops.actual == 2 * (projections + scores + mlp)


def test_pooling_with_a_learned_query(tiny_model: TinyModel) -> None:
    model = tiny_model("gemma3")
    raw = {**model.raw["vision_config"], "vision_use_head": True}
    pooled = tiny_model("gemma3", vision_config=raw)
    step = Step(batch_size=2, sequence_length=24, images=2)
    plain, with_head = (verify(kind, step=step, device="cpu", attention="eager")[0] for kind in (model, pooled))
    assert_exact([plain, with_head])
    # 4 images of 16 patches, 40 wide: query and output of the probe, keys and values of the patches, scores, MLP.
    head = 2 * 2 * 40 * 40 + 2 * 16 * 40 * 80 + 2 * 16 * 2 * 40 + 2 * 2 * 40 * 56
    assert with_head.flops.actual - plain.flops.actual == 4 * head


def test_experts_that_all_run_are_said(tiny_model: TinyModel) -> None:
    (result,) = verify(tiny_model("llama4"), step=Step(sequence_length=8), attention="eager")
    assert_exact([result])
    assert any("all 4 experts" in note and "all but 1" in note for note in result.notes)
    with pytest.raises(UnsupportedError, match="no experts that can run in several ways"):
        verify(tiny_model("llama4"), step=Step(sequence_length=8), experts="grouped_mm")


def test_windows_of_an_image_cost_less_than_the_whole(tiny_model: TinyModel) -> None:
    model = tiny_model("qwen2_5_vl")
    raw = {**model.raw["vision_config"], "fullatt_block_indexes": [0, 1, 2, 3]}
    step = Step(sequence_length=12, images=1)
    windows, whole = (
        verify(kind, step=step, device="cpu", attention="eager")[0]
        for kind in (model, tiny_model("qwen2_5_vl", vision_config=raw))
    )
    assert_exact([windows, whole])
    # Two of four layers: 16 patches in 4 windows of 4, 5 heads of 8.
    assert whole.flops.actual - windows.flops.actual == 2 * 2 * (16 * 16 - 4 * 4 * 4) * 5 * (8 + 8)


def test_a_text_too_short_for_its_images_is_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(UnsupportedError, match="2 images take 8 tokens of the text, but sequence_length is 7"):
        verify(tiny_model("llava"), step=Step(sequence_length=7, images=2))


@pytest.mark.parametrize("model_type", TWO_TOWERS)
def test_a_model_that_compares_texts_with_images_needs_an_image(tiny_model: TinyModel, model_type: str) -> None:
    with pytest.raises(UnsupportedError, match="needs an image"):
        verify(tiny_model(model_type), step=Step(sequence_length=7))


@pytest.mark.parametrize("model_type", ["mistral3", "qwen3_5"])
def test_one_image_through_a_tower_that_another_family_brings(tiny_model: TinyModel, model_type: str) -> None:
    """More than one image is more in Pixtral: its class masks them within one sequence, where the tree has several."""
    # rotary positions in two directions want heads whose width is a multiple of 4
    heads = {"num_attention_heads": 5} if model_type == "mistral3" else {"image_size": 32, "num_heads": 5}
    tower = {**tiny_model(model_type).raw["vision_config"], **heads}
    model = tiny_model(model_type, vision_config=tower, image_token_id=92, video_token_id=93)
    assert_exact(verify(model, step=Step(sequence_length=24, images=1), device="cpu", attention="eager"))
