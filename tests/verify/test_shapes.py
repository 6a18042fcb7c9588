"""Every class of every family: the tensors of its tree are those of the real class, name by name and shape by shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from planner.counts import count
from planner.models import Model, load_model
from planner.nodes import Experts, walk
from planner.verify.choices import Implementation
from planner.verify.compare import actual_shapes, expected_shapes, shape_differences
from planner.verify.real import build

TinyModel = Callable[..., Model]

pytestmark = pytest.mark.slow

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True}),
    ("llama", {"mlp_bias": True}),
    ("llama", {"head_dim": None}),
    ("llama", {"head_dim": 34}),
    ("llama", {"num_key_value_heads": 1}),
    ("llama", {"num_key_value_heads": None}),
    ("qwen3", {"attention_bias": True, "num_key_value_heads": 6}),
    ("gemma", {"attention_bias": True, "num_key_value_heads": 6}),
    ("gemma2", {"attention_bias": True}),
    ("gpt_oss", {"attention_bias": False}),
    ("gpt_oss", {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
    ("qwen2_moe", {"qkv_bias": False}),
    ("qwen2_moe", {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1}),
    ("qwen2_moe", {"decoder_sparse_step": 2, "mlp_only_layers": []}),
    ("qwen3_moe", {"mlp_only_layers": [3], "decoder_sparse_step": 1, "attention_bias": True}),
    ("qwen3_moe", {"decoder_sparse_step": 3}),
    ("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 3, "num_key_value_heads": 6}),
    ("deepseek_v3", {"q_lora_rank": None}),
    ("deepseek_v3", {"attention_bias": True}),
    ("deepseek_v3", {"attention_bias": True, "q_lora_rank": None}),
    ("deepseek_v3", {"n_shared_experts": 3}),
    ("deepseek_v3", {"first_k_dense_replace": 0}),
    ("deepseek_v3", {"first_k_dense_replace": 3}),
    ("deepseek_v2", {"mlp_bias": False, "q_lora_rank": None, "first_k_dense_replace": 0}),
    ("glm_moe_dsa", {"indexer_types": None, "index_topk_freq": 2, "attention_bias": True}),
    ("deepseek_v4", {"layer_types": None}),
    ("deepseek_v4", {"layer_types": None, "compress_ratios": [128, 4, 0, 0], "compress_rates": None}),
    ("deepseek_v4", {"mlp_bias": True, "o_groups": 4}),
    ("glm4_moe", {"use_qk_norm": False, "attention_bias": True, "first_k_dense_replace": 0}),
    ("ernie4_5_moe", {"moe_num_shared_experts": 0, "moe_layer_interval": 2, "use_bias": False}),
    ("ernie4_5_moe", {"moe_layer_end_index": 1, "tie_word_embeddings": False}),
    ("exaone_moe", {"first_k_dense_replace": 2, "num_shared_experts": 1}),
    ("mimo_v2_flash", {"attention_bias": True, "layer_types": ["full_attention"] * 3}),
    ("afmoe", {"attention_bias": True, "num_dense_layers": 0}),
    ("hunyuan_v1_moe", {"moe_topk": 2, "attention_bias": True}),
    ("longcat_flash", {"router_bias": True, "attention_bias": True}),
    ("minimax_m3_vl_text", {"sparse_attention_config": None, "moe_layer_freq": None}),
    ("minimax_m3_vl_text", {"layer_types": ["minimax_m3_sparse"] * 3, "mlp_layer_types": ["dense"] * 3}),
    ("minicpm3", {"v_head_dim": None, "mlp_bias": True, "attention_bias": True}),
    ("phimoe", {"attention_bias": True, "lm_head_bias": False}),
    ("solar_open", {"attention_bias": True}),
    ("t5", {"feed_forward_proj": "gated-gelu"}),
    ("t5", {"num_decoder_layers": 1}),
    ("t5", {"num_decoder_layers": None}),
    ("mt5", {"feed_forward_proj": "gelu"}),
    ("bert", {"is_decoder": True}),
    ("gpt2", {"n_inner": None}),
    ("gpt2", {"summary_use_proj": False}),
    ("gpt2", {"summary_proj_to_labels": False}),
    ("vit", {"qkv_bias": False}),
    ("vit", {"pooler_output_size": 24}),
    ("vit", {"image_size": 35}),
    ("vit", {"num_channels": 1}),
]
"""Keys that add, drop or reshape tensors."""


def assert_same_tensors(model: Model) -> None:
    routed = [row.leaf for row in walk(model.tree) if isinstance(row.leaf, Experts)]
    experts = "grouped_mm" if any(not leaf.visits_all for leaf in routed) else None
    real = build(model, Implementation("eager", experts), dtype=torch.bfloat16, device="meta")
    expected = expected_shapes(model.tree)
    actual = actual_shapes(real, [name for name, _ in expected])
    assert [str(difference) for difference in shape_differences(expected, actual)] == []
    assert count(model.tree).total == sum(parameter.numel() for parameter in real.parameters())


def test_every_class_has_the_tensors_of_its_tree(tiny_model: TinyModel, tiny_class: tuple[str, str]) -> None:
    assert_same_tensors(tiny_model(*tiny_class))


NEVER_TIED = ("NemotronHForCausalLM", "DbrxModel", "DbrxForCausalLM")
"""Classes that keep a matrix for the head whatever their config says, or refuse it; the planner believes the config."""


@pytest.mark.parametrize("tied", [True, False])
def test_tied_or_not_as_the_config_says(tiny_model: TinyModel, tiny_class: tuple[str, str], tied: bool) -> None:
    if tied and tiny_class[1] in NEVER_TIED:
        pytest.skip("the class ignores the key")
    assert_same_tensors(tiny_model(*tiny_class, tie_word_embeddings=tied))


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS, ids=str)
def test_keys_change_the_tensors_as_in_the_real_class(
    tiny_model: TinyModel, model_type: str, changes: dict[str, Any]
) -> None:
    for class_name in tiny_model(model_type).family.classes:
        assert_same_tensors(tiny_model(model_type, class_name, **changes))


@pytest.mark.parametrize(("name", "total"), [("google/flan-t5-base", 247_577_856), ("google/byt5-small", 299_637_760)])
def test_an_untied_t5_has_a_second_matrix(name: str, total: int) -> None:
    model = load_model(name, offline=True)
    assert_same_tensors(model)
    assert count(model.tree).total == total


def test_a_tied_parameter_is_found_under_any_of_its_names() -> None:
    table = torch.nn.Embedding(5, 3)
    head = torch.nn.Linear(3, 5, bias=False)
    head.weight = table.weight
    model = torch.nn.ModuleDict({"head": head, "table": table})
    assert actual_shapes(model) == {"head.weight": (5, 3)}
    assert actual_shapes(model, ["table.weight"]) == {"table.weight": (5, 3)}


def test_every_kind_of_difference_is_reported_with_its_path() -> None:
    expected = [("same", (2, 3)), ("other_shape", (4,)), ("only_expected", (1,)), ("twice", (7,)), ("twice", (7,))]
    actual = {"same": (2, 3), "other_shape": (5,), "only_actual": (6,), "twice": (7,)}
    assert [str(difference) for difference in shape_differences(expected, actual)] == [
        "twice: times stated 2 expected, 1 in the real model",
        "other_shape: shape [4] expected, [5] in the real model",
        "only_expected: shape [1] expected, missing in the real model",
        "only_actual: shape missing expected, [6] in the real model",
    ]
