"""Kimi-K2.5: an image tower in front of DeepSeek-V3's decoder."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.compute import compute
from planner.counts import Counts
from planner.errors import ConfigError
from planner.models import build_model
from planner.sources import ConfigSource
from planner.workload import Step

TEXT: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "hidden_size": 64,
    "intermediate_size": 96,
    "kv_lora_rank": 16,
    "model_type": "kimi_k2",
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
    "vocab_size": 100,
}
# as the released config names them
VISION: dict[str, Any] = {
    "init_pos_emb_height": 6,
    "init_pos_emb_width": 4,
    "merge_kernel_size": [2, 2],
    "patch_size": 14,
    "vt_hidden_size": 48,
    "vt_intermediate_size": 40,
    "vt_num_attention_heads": 4,
    "vt_num_hidden_layers": 1,
}
TINY: dict[str, Any] = {
    "projection_hidden_size": 48,
    "text_config": TEXT,
    "tie_word_embeddings": False,
    "vision_config": VISION,
}
# patches with a bias, 24 positions, four products and two matrices with biases, three norms
TOWER = 3 * 14**2 * 48 + 48 + 24 * 48 + 4 * (48**2 + 48) + 2 * 48 * 40 + 40 + 48 + 3 * 2 * 48
# a norm of a patch; four patches to as many to the decoder's width
PROJECTOR = 2 * 48 + 192**2 + 192 + 192 * 64 + 64


def test_tower_and_projector_by_hand(counts: Callable[..., Counts]) -> None:
    alone = counts("kimi_k2", **{key: value for key, value in TEXT.items() if key != "model_type"})
    assert counts("kimi_k25", **TINY).total == alone.total + TOWER + PROJECTOR
    # this class ties unless told otherwise, whatever the decoder's config says
    tied = counts("kimi_k25", **{key: value for key, value in TINY.items() if key != "tie_word_embeddings"})
    assert tied.total == alone.total + TOWER + PROJECTOR - 100 * 64


def test_the_names_of_transformers(counts: Callable[..., Counts]) -> None:
    names = {key: key.removeprefix("vt_").removeprefix("init_") for key in VISION}
    renamed = {names[key]: value for key, value in VISION.items()}
    assert counts("kimi_k25", **{**TINY, "vision_config": renamed}) == counts("kimi_k25", **TINY)


def test_an_image_is_24_patches_and_6_tokens() -> None:
    model = build_model(ConfigSource(name="tiny", raw={"model_type": "kimi_k25", **TINY}, origin="config.json"))
    none, one = (
        compute(model.tree, Step(sequence_length=7, images=images)).conventions["matmul"].forward for images in (0, 1)
    )
    tower = 24 * (3 * 14**2 * 48 + 4 * 48**2 + 2 * 48 * 40) + 24**2 * 2 * 48
    assert one - none == 2 * (tower + 6 * (192**2 + 192 * 64))


@pytest.mark.parametrize(
    ("part", "flags", "message"),
    [
        ("vision_config", {"merge_kernel_size": [4, 2]}, "vision_config.merge_kernel_size: 4 x 2 patches a token"),
        ("vision_config", {"merge_kernel_size": [2]}, "vision_config.merge_kernel_size"),
        ("vision_config", {"vt_num_attention_heads": 5}, "vision_config.num_attention_heads: must divide hidden_size"),
        ("text_config", {"first_k_dense_replace": 3}, "text_config.first_k_dense_replace: 3 dense layers"),
    ],
)
def test_contradictions(counts: Callable[..., Counts], part: str, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        counts("kimi_k25", **{**TINY, part: {**TINY[part], **flags}})
