"""A prefill and a decode step of real models: their caches against the fold, and what is held in all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planner.errors import UnknownNameError, UnsupportedError
from planner.models import Model
from planner.verify.cache_run import MeasuredCache
from planner.verify.inference import UNFORESEEN, layer_kinds, verify_inference
from planner.verify.result import Figure
from planner.workload import Step

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_keys_and_values_behind_each_call(tiny_model: TinyModel, cache: str, device: str) -> None:
    step = Step(batch_size=2, past=12, sequence_length=3)
    results = verify_inference(tiny_model("llama"), step=step, cache=cache, device=device)
    assert [result.attention for result in results] == ["eager", "sdpa"]
    for result in results:
        assert result.exact
        assert result.has_head
        prefill, decode = result.phases
        # 3 layers, keys and values of 2 heads of 10 in bf16, 2 samples
        token = 3 * 2 * 2 * 10 * 2 * 2
        seen = (12, 15) if cache == "dynamic" else (15, 15)
        assert [phase.total for phase in (prefill, decode)] == [Figure(token * n, token * n) for n in seen]
        assert [(kind.name, kind.layers) for kind in prefill.kinds] == [("full", 3)]
        assert (prefill.tokens, decode.tokens) == (12, 3)


def test_without_a_past_one_token_goes_on(tiny_model: TinyModel) -> None:
    (result,) = verify_inference(tiny_model("llama"), step=Step(sequence_length=12), attention="sdpa")
    assert [phase.tokens for phase in result.phases] == [12, 1]


@pytest.mark.parametrize(
    "model_type",
    [
        "deepseek_v3",
        "gemma3_text",
        "gpt2",
        "gpt_oss",
        "jamba",
        "mamba2",
        "mixtral",
        "qwen3_next",
        "rwkv",
        "t5",
        "whisper",
    ],
)
def test_caches_of_many_kinds(tiny_model: TinyModel, model_type: str) -> None:
    # the class multiplies rwkv's state with the width of the model
    changes = {"attention_hidden_size": 48} if model_type == "rwkv" else {}
    step = Step(batch_size=2, past=22, sequence_length=2, source_length=9)
    for result in verify_inference(tiny_model(model_type, **changes), step=step, device="cpu", dtype="fp32"):
        assert result.exact
        assert all(phase.total.actual > 0 for phase in result.phases)


def test_layers_are_told_apart_by_what_they_keep(tiny_model: TinyModel) -> None:
    step = Step(past=22, sequence_length=1)
    (result,) = verify_inference(tiny_model("gemma3_text"), step=step, device="cpu", attention="sdpa")
    names = [kind.name for kind in result.phases[0].kinds]
    assert sorted(names) == ["full", "sliding"]
    (hybrid,) = verify_inference(tiny_model("qwen3_next"), step=step, device="cpu", attention="sdpa")
    assert "full" in {kind.name for kind in hybrid.phases[0].kinds}
    assert any(set(kind.name.split(" + ")) == {"state", "convolution"} for kind in hybrid.phases[0].kinds)


def test_weights_and_cache_are_what_is_held_between_calls(tiny_model: TinyModel) -> None:
    step = Step(batch_size=2, past=40, sequence_length=1)
    (result,) = verify_inference(tiny_model("llama"), step=step, attention="sdpa")
    for phase in result.phases:
        # The one buffer: 5 inverse frequencies of rotary positions, and their copy, in fp32.
        assert phase.held.difference == 2 * 5 * 4
        assert phase.peak.actual >= phase.held.actual
        assert phase.peak.expected == phase.held.expected
        assert phase.storages_bytes == phase.total.actual
    prefill, decode = result.phases
    # a prompt has larger temporaries than a single token
    assert prefill.peak.difference > decode.peak.difference


def test_a_slice_of_a_prompt_holds_on_to_it(tiny_model: TinyModel) -> None:
    step = Step(past=40, sequence_length=1)
    (result,) = verify_inference(tiny_model("gemma3_text"), step=step, device="cpu", attention="sdpa")
    prefill, decode = result.phases
    # keys and values of 2 heads of 10 in bf16: 2 layers keep 7 of 40 tokens, and then 7 of the 8 that were joined
    token = 2 * 2 * 10 * 2
    assert prefill.storages_bytes - prefill.total.actual == 2 * 33 * token
    assert decode.storages_bytes - decode.total.actual == 2 * token


def test_an_encoder_runs_once(tiny_model: TinyModel) -> None:
    """What it yields is handed on, so that a long source costs a decode step its keys and values only."""
    long, short = (
        verify_inference(
            tiny_model("t5"), step=Step(past=2, sequence_length=1, source_length=length), attention="eager"
        )[0].phases[1]
        for length in (4000, 8)
    )
    # scores of the encoder: 6 heads of 4,000 x 4,000 in bf16
    assert long.peak.difference - short.peak.difference < 6 * 4000 * 4000 * 2


def test_kinds_stand_side_by_side_with_what_is_measured() -> None:
    measured = MeasuredCache(layers={("self", 0): 10, ("self", 1): 6, ("cross", 0): 3}, held_bytes=19)
    kinds = list(layer_kinds({("self", 0): {"full": 8}, ("self", 1): {"full": 8}, ("self", 2): {"state": 1}}, measured))
    # differences of +2 and -2 hide each other in the sum, but not in the number of layers
    assert [(kind.name, kind.layers, kind.kept, kind.different) for kind in kinds] == [
        ("full", 2, Figure(16, 16), 2),
        ("state", 1, Figure(1, 0), 1),
        (UNFORESEEN, 1, Figure(0, 3), 1),
    ]


def test_what_cannot_be_asked(tiny_model: TinyModel) -> None:
    step = Step(sequence_length=4)
    with pytest.raises(UnknownNameError, match="unknown cache 'statik'.*dynamic, static"):
        verify_inference(tiny_model("llama"), step=step, cache="statik")
    with pytest.raises(UnknownNameError, match="unknown dtype 'autocast'"):
        verify_inference(tiny_model("llama"), step=step, dtype="autocast")
    with pytest.raises(UnsupportedError, match="keeps no cache"):
        verify_inference(tiny_model("bert"), step=step)


def test_a_model_that_does_not_fit_is_refused(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.verify.free_memory.free_bytes", lambda _: 1000)
    monkeypatch.setattr("planner.verify.inference.build", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(UnsupportedError, match="1,000 bytes are free"):
        verify_inference(tiny_model("llama"), step=Step(sequence_length=4), device="cpu")
