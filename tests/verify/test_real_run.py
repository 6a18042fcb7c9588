"""Tiny models run for real on the CPU: no difference by either witness, module by module, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from planner.compute import compute
from planner.errors import UnsupportedError
from planner.families import family
from planner.models import Model
from planner.verify import Verification, verify
from planner.workload import Step

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

STEP = Step(batch_size=2, sequence_length=12)


def step_of(model: Model) -> Step:
    """A model that compares texts with images runs with none of the two."""
    return replace(STEP, images=1) if model.family.model_type in ("clip", "siglip") else STEP


def labels_of(class_name: str) -> dict[str, int]:
    """The classes that find spans split their output into start and end, so any other number of labels fails."""
    return {"num_labels": 2} if "ForQuestionAnswering" in class_name else {}


def assert_exact(results: list[Verification]) -> None:
    for result in results:
        assert [str(difference) for difference in result.differences] == []
        assert [figure.difference for figure in (result.parameters, result.flops, *result.witness.figures)] == [0] * (
            2 + len(result.witness.figures)
        )
        assert result.exact
        assert result.witness.forward is not None, result.witness.reason


def test_the_usual_class_in_every_implementation_and_its_backward(tiny_model: TinyModel, tiny_type: str) -> None:
    model = tiny_model(tiny_type)
    results = verify(model, step=step_of(model), device="cpu", attention="all", experts="all", backward=True)
    assert_exact(results)
    for result in results:
        assert result.witness.tensors == "real"
        # what recurrences multiply is not compared, and cannot be set apart in backward
        assert (result.witness.backward is None) == bool(result.apart)
        assert result.modules > 0


def test_every_other_class_forward(tiny_model: TinyModel, tiny_class: tuple[str, str]) -> None:
    model = tiny_model(*tiny_class, **labels_of(tiny_class[1]))
    if model.class_name == model.family.default_class:
        return  # runs above, in every implementation
    assert_exact(verify(model, step=step_of(model), device="cpu", attention="eager"))


@pytest.mark.parametrize(
    ("model_type", "class_name"),
    [
        ("bert", "BertForPreTraining"),
        ("bert", "BertForSequenceClassification"),
        ("bert", "BertForTokenClassification"),
        ("bert", "BertModel"),
        ("gpt2", "GPT2DoubleHeadsModel"),
        ("gpt2", "GPT2ForSequenceClassification"),
        ("gpt2", "GPT2ForTokenClassification"),
        ("roberta", "RobertaForSequenceClassification"),
        ("t5", "T5EncoderModel"),
        ("t5", "T5ForSequenceClassification"),
        ("vit", "ViTModel"),
        ("vit", "ViTForMaskedImageModeling"),
    ],
)
def test_backward_through_every_kind_of_head(tiny_model: TinyModel, model_type: str, class_name: str) -> None:
    assert_exact(verify(tiny_model(model_type, class_name), step=STEP, device="cpu", backward=True))


def test_eager_backward_is_the_convention_and_fused_backward_computes_scores_again(tiny_model: TinyModel) -> None:
    model = tiny_model("llama")
    eager, fused = verify(model, step=STEP, device="cpu", backward=True)
    counted = compute(model.tree, STEP)
    assert (eager.attention, eager.witness.fused_attention) == ("eager", 0)
    assert (fused.attention, fused.witness.fused_attention) == ("sdpa", 3)
    assert eager.witness.backward is not None
    assert fused.witness.backward is not None
    assert eager.witness.backward.actual == counted.conventions["matmul"].backward
    assert fused.witness.backward.actual == counted.fused_backward
    # 3 layers, 2 samples, 6 heads, 12 x 12 pairs, one more product of width 10, 2 FLOPs a multiply-add
    assert fused.witness.backward.actual - eager.witness.backward.actual == 2 * 3 * 2 * 6 * 144 * 10


def test_sdpa_falls_back_to_products_where_the_kernel_cannot_run(tiny_model: TinyModel) -> None:
    # Latent attention has values of another width than its keys, which no kernel of the CPU takes.
    results = verify(tiny_model("deepseek_v3"), step=STEP, device="cpu", attention="sdpa", backward=True)
    assert_exact(results)
    assert results[0].witness.fused_attention == 0


@pytest.mark.parametrize("source_length", [7, 20])
def test_an_encoder_of_another_length(tiny_model: TinyModel, source_length: int) -> None:
    step = Step(batch_size=2, sequence_length=12, source_length=source_length)
    assert_exact(verify(tiny_model("t5"), step=step, device="cpu", backward=True))
    with pytest.raises(UnsupportedError, match="both must be equally long"):
        verify(tiny_model("t5", "T5ForSequenceClassification"), step=step, device="cpu")


@pytest.mark.parametrize("experts", ["batched_mm", "grouped_mm"])
def test_meta_and_cpu_count_the_same(tiny_model: TinyModel, experts: str) -> None:
    model = tiny_model("mixtral")
    on_meta, on_cpu = (verify(model, step=STEP, device=device, experts=experts) for device in ("meta", "cpu"))
    assert_exact([*on_meta, *on_cpu])
    assert [result.flops for result in on_meta] == [result.flops for result in on_cpu]
    assert {result.witness.tensors for result in on_meta} == {"fake"}
    assert {result.dtype for result in on_meta} == {"bfloat16"}


def test_a_class_that_asks_for_values_says_that_meta_has_none(tiny_model: TinyModel) -> None:
    model = tiny_model("t5", "T5ForSequenceClassification")
    with pytest.raises(UnsupportedError, match=r"cannot run so on meta.*--device cpu"):
        verify(model, step=STEP)


@pytest.mark.parametrize(("model_type", "sequence_length"), [("bert", 71), ("roberta", 70), ("gpt2", 71)])
def test_more_tokens_than_positions_are_refused(tiny_model: TinyModel, model_type: str, sequence_length: int) -> None:
    step = Step(sequence_length=sequence_length)
    with pytest.raises(UnsupportedError, match="cannot run so on cpu"):
        verify(tiny_model(model_type), step=step, device="cpu")


def test_the_same_request_gives_the_same_answer(tiny_model: TinyModel) -> None:
    first, second = (verify(tiny_model("gpt_oss"), step=STEP, device="cpu")[0] for _ in range(2))
    assert (first.flops, first.parameters, first.witness) == (second.flops, second.parameters, second.witness)
    state = torch.random.get_rng_state()
    verify(tiny_model("gpt2"), step=STEP, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_usual_class_on_a_gpu(tiny_model: TinyModel, tiny_type: str) -> None:
    default = family(tiny_type).default_class
    assert_exact(verify(tiny_model(tiny_type, default), step=STEP, device="cuda", experts="all", backward=True))
