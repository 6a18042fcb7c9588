"""Nemotron-H and Nemotron-3: published totals, patterns and lists of layers, experts in a latent."""

from typing import Any

import pytest

from planner.compute import compute
from planner.counts import count
from planner.errors import ConfigError
from planner.models import Model, build_model
from planner.sources import ConfigSource
from planner.workload import Step


def model_of(**keys: Any) -> Model:
    return build_model(ConfigSource(name="test", raw={"model_type": "nemotron_h", **keys}, origin="config.json"))


NANO: dict[str, Any] = {
    "head_dim": 128,
    "hidden_size": 2688,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "mamba_num_heads": 64,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 52,
    "num_key_value_heads": 2,
}
SUPER: dict[str, Any] = {
    "hybrid_override_pattern": "MEMEMEM*" + "EMEMEMEM*" * 2 + "EMEMEMEMEM*" * 4 + "EMEMEMEM*EMEMEMEME",
    "moe_intermediate_size": 2688,
    "moe_latent_size": 1024,
    "moe_shared_expert_intermediate_size": 5376,
    "n_routed_experts": 512,
    "num_experts_per_tok": 22,
    "num_hidden_layers": 88,
    "num_key_value_heads": 2,
}
DENSE = {"hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"}


@pytest.mark.parametrize(
    ("keys", "published"),
    [
        # safetensors totals on the hub: nvidia/Nemotron-H-8B-Base-8K, NVIDIA-Nemotron-3-Nano-30B-A3B-BF16
        (DENSE, 8_100_852_736),
        (NANO, 31_577_937_344),
        # NVIDIA-Nemotron-3-Super-120B-A12B: the checkpoint has an MTP module more, which is an attention layer, a layer
        # of experts, their norms, a norm at the end of each and one of both inputs, and a matrix of both inputs
        (SUPER, 123_611_012_096 - 35_651_584 - 2_873_098_240 - 2 * 4096**2 - 5 * 4096),
    ],
)
def test_published_totals(keys: dict[str, Any], published: int) -> None:
    assert count(model_of(**keys).tree).total == published


def test_a_list_of_kinds_is_the_pattern_spelled_out() -> None:
    names = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
    pattern = NANO["hybrid_override_pattern"]
    listed = {key: value for key, value in NANO.items() if key != "hybrid_override_pattern"}
    listed["layers_block_type"] = [names[letter] for letter in pattern]
    assert count(model_of(**listed).tree) == count(model_of(**NANO).tree)
    # the list wins
    assert count(model_of(**listed, hybrid_override_pattern="M").tree) == count(model_of(**NANO).tree)


def test_experts_in_a_latent() -> None:
    counts = count(model_of(**SUPER).tree)
    # 40 layers of 512 experts of two matrices, between a latent of 1024 and 2688
    assert counts.breakdown["experts.routed"] == 40 * 512 * 2 * 1024 * 2688
    assert counts.breakdown["experts.latent_proj"] == 40 * 2 * 4096 * 1024
    # the router and the shared expert see the model's width
    assert counts.breakdown["router"] == 40 * 4096 * 512
    assert counts.breakdown["experts.shared"] == 40 * 2 * 4096 * 5376
    # 22 of 512 experts a token
    assert counts.active == counts.total - 40 * 490 * 2 * 1024 * 2688


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        # what no class reads
        ({"attention_bias": True, "expand": 3, "mamba_proj_bias": True, "n_shared_experts": 3}, 0),
        # 24 mixers: in_proj (gate, channels, two matrices for 8 groups, steps) and out_proj
        ({"use_bias": True}, 24 * (2 * 8192 + 2 * 8 * 128 + 128 + 4096)),
        ({"use_conv_bias": False}, -24 * (8192 + 2 * 8 * 128)),
        # 24 MLPs
        ({"mlp_bias": True}, 24 * (21504 + 4096)),
        ({"tie_word_embeddings": True}, -131072 * 4096),
    ],
)
def test_flags(changes: dict[str, Any], difference: int) -> None:
    assert count(model_of(**DENSE, **changes).tree).total - count(model_of(**DENSE).tree).total == difference


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**NANO, "num_hidden_layers": 51}, "num_hidden_layers: 51, but hybrid_override_pattern lists 52 layers"),
        ({"hybrid_override_pattern": "MX"}, r"hybrid_override_pattern: expected one of M, \*, -, E, got 'X'"),
        ({"layers_block_type": ["mamba", "conv"]}, "layers_block_type: expected one of linear_attention, .*'conv'"),
        ({**NANO, "num_experts_per_tok": 129}, "num_experts_per_tok: 129 experts a token, but there are 128"),
        ({"n_groups": 7}, "n_groups: must divide mamba_num_heads"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_of(**keys)


def test_scans_of_the_mamba_layers() -> None:
    # 23 of 52 layers; 64 heads of 64 channels with a state of 128 each
    assert compute(model_of(**NANO).tree, Step(sequence_length=3)).scans == 3 * 23 * 64 * 64 * 128 * 5
