"""Mamba, Falcon-Mamba and Mamba-2: published totals, and what each key adds."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(model_type: str, **keys: Any) -> Model:
    return build_model(ConfigSource(name="test", raw={"model_type": model_type, **keys}, origin="config.json"))


def total(model_type: str, **keys: Any) -> int:
    return int(count(model_of(model_type, **keys).tree).total)


MAMBA_130M = {"hidden_size": 768, "num_hidden_layers": 24}
FALCON = {
    "hidden_size": 4096,
    "intermediate_size": 8192,
    "num_hidden_layers": 64,
    "tie_word_embeddings": False,
    "vocab_size": 65024,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "published"),
    [
        # safetensors totals on the hub: state-spaces/mamba-130m-hf, mamba-1.4b-hf, mamba-2.8b-hf
        ("mamba", MAMBA_130M, 129_135_360),
        ("mamba", {"hidden_size": 2048, "num_hidden_layers": 48}, 1_372_178_432),
        ("mamba", {"hidden_size": 2560, "num_hidden_layers": 64}, 2_768_345_600),
        # tiiuae/falcon-mamba-7b, whose expand of 16 is overruled by intermediate_size
        ("falcon_mamba", {**FALCON, "expand": 16}, 7_272_665_088),
        # mistralai/Mamba-Codestral-7B-v0.1, on its card
        ("mamba2", {}, 7_285_403_648),
    ],
)
def test_published_totals(model_type: str, keys: dict[str, Any], published: int) -> None:
    assert total(model_type, **keys) == published


def test_a_layer_by_hand() -> None:
    # in and out projections, convolution with bias, step and matrices of the input, step with bias, A, D, norm
    layer = 768 * 3072 + 1536 * 768 + 1536 * 5 + 1536 * (48 + 2 * 16) + 48 * 1536 + 1536 + 1536 * 16 + 1536 + 768
    assert total("mamba", **MAMBA_130M) == 50280 * 768 + 24 * layer + 768


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"tie_word_embeddings": False}, 50280 * 768),
        # in_proj and out_proj
        ({"use_bias": True}, 24 * (2 * 1536 + 768)),
        ({"use_conv_bias": False}, -24 * 1536),
        ({"conv_kernel": 3}, -24 * 1536),
        # x_proj in, dt_proj out
        ({"time_step_rank": 50}, 24 * 2 * 2 * 1536),
        # a sixteenth of the width is what null and the word stand for
        ({"time_step_rank": "auto"}, 0),
        ({"time_step_rank": None}, 0),
        ({"d_model": 1, "d_inner": 1, "n_layer": 1}, 0),
    ],
)
def test_keys_of_mamba(changes: dict[str, Any], difference: int) -> None:
    assert total("mamba", **MAMBA_130M, **changes) - total("mamba", **MAMBA_130M) == difference


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"tie_word_embeddings": True}, -32768 * 4096),
        # in_proj: gate, channels, two matrices for 8 groups, a step for each of 128 heads; out_proj
        ({"use_bias": True}, 64 * (2 * 8192 + 2 * 8 * 128 + 128 + 4096)),
        # a group costs two matrices: rows of in_proj, and channels of the convolution with kernel 4 and bias
        ({"n_groups": 16}, 64 * 8 * 2 * 128 * (4096 + 5)),
        ({"intermediate_size": 1, "chunk_size": 1, "time_step_rank": 1}, 0),
    ],
)
def test_keys_of_mamba2(changes: dict[str, Any], difference: int) -> None:
    assert total("mamba2", **changes) - total("mamba2") == difference


def test_heads_must_fill_the_expanded_width() -> None:
    with pytest.raises(
        ConfigError, match=r"num_heads: num_heads \* head_dim is 4096, but expand \* hidden_size is 8192"
    ):
        model_of("mamba2", num_heads=64)


def test_groups_must_share_the_heads_evenly() -> None:
    with pytest.raises(ConfigError, match="n_groups: must divide num_heads"):
        model_of("mamba2", n_groups=9)


def test_a_rank_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="time_step_rank: expected a whole number, got 'automatic'"):
        model_of("mamba", time_step_rank="automatic")


def test_scans_are_counted_apart_and_grow_with_the_tokens() -> None:
    mamba, mamba2 = model_of("mamba", **MAMBA_130M).tree, model_of("mamba2").tree
    step = Step(batch_size=2, sequence_length=100)
    # 9 and 5 FLOPs for each token, channel and number of its state
    assert compute(mamba, step).scans == 200 * 24 * 1536 * 16 * 9
    assert compute(mamba2, step).scans == 200 * 64 * 8192 * 128 * 5
    assert compute(mamba, Step(past=1000)).scans == 24 * 1536 * 16 * 9


def test_the_products_of_a_token() -> None:
    step = Step(sequence_length=1)
    # 2 a weight of every projection, of the convolution and of the head; the table is looked up
    projections = 768 * 3072 + 1536 * 768 + 1536 * 4 + 1536 * 80 + 48 * 1536
    expected = 2 * (24 * projections + 768 * 50280)
    assert compute(model_of("mamba", **MAMBA_130M).tree, step).conventions["matmul"].forward == expected
