"""OPT, BioGPT and XGLM."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.counts import Counts, count
from planner.errors import ConfigError
from planner.families import family
from planner.families.opt import OPTConfig

TINY: dict[str, Any] = {
    "ffn_dim": 80,
    "hidden_size": 48,
    "max_position_embeddings": 70,
    "num_attention_heads": 6,
    "num_hidden_layers": 1,
    "vocab_size": 99,
}


@pytest.mark.parametrize(
    ("model_type", "keys", "total"),
    [
        # tensors of the checkpoint of facebook/opt-125m; the class's defaults
        ("opt", {}, 125_239_296),
        # facebook/opt-350m: a table of 512 channels, projected in and out, and no last norm
        (
            "opt",
            {
                "do_layer_norm_before": False,
                "ffn_dim": 4096,
                "hidden_size": 1024,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "word_embed_proj_dim": 512,
            },
            331_196_416,
        ),
        # KerasHub's preset opt_1.3b_en: 1,315,753,984 with 2,048 rows of positions instead of 2,050
        (
            "opt",
            {"ffn_dim": 8192, "hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 24},
            1_315_753_984 + 2 * 2048,
        ),
        # tensors of the checkpoints of microsoft/biogpt and facebook/xglm-564M; the classes' defaults
        ("biogpt", {}, 346_763_264),
        ("xglm", {}, 564_463_616),
    ],
)
def test_published_totals(counts: Callable[..., Counts], model_type: str, keys: dict[str, Any], total: int) -> None:
    assert counts(model_type, **keys).total == total


def test_projections_belong_to_the_table(counts: Callable[..., Counts]) -> None:
    # 99 rows and two projections
    assert counts("opt", **TINY, word_embed_proj_dim=20).breakdown["embeddings.token"] == 99 * 20 + 2 * 20 * 48
    assert counts("opt", **TINY, word_embed_proj_dim=48).breakdown["embeddings.token"] == 99 * 48
    # the output matrix is as narrow as the table
    assert counts("opt", **TINY, word_embed_proj_dim=20).total_with_untied_head == 99 * 20 + (
        counts("opt", **TINY, word_embed_proj_dim=20).total
    )


@pytest.mark.parametrize(
    ("flags", "less"),
    [
        # q, k, v, o and both MLP matrices
        ({"enable_bias": False}, 4 * 48 + 80 + 48),
        # gain and bias of two norms and the last one
        ({"layer_norm_elementwise_affine": False}, 6 * 48),
        ({"do_layer_norm_before": False}, 2 * 48),
        ({"_remove_final_layer_norm": True}, 2 * 48),
    ],
)
def test_flags_by_hand(counts: Callable[..., Counts], flags: dict[str, Any], less: int) -> None:
    assert counts("opt", **TINY).total - counts("opt", **TINY, **flags).total == less


def test_a_column_of_widths_projects_where_they_differ() -> None:
    build = family("opt").classes["OPTForCausalLM"]
    config = OPTConfig(**TINY, word_embed_proj_dim=48)
    column = count(build(config.replaced({"hidden_size": np.array([24.0, 48.0, 96.0])}))).total
    alone = [count(build(config.replaced({"hidden_size": width}))).total for width in (24, 48, 96)]
    assert list(column) == alone  # type: ignore[arg-type]


def test_xglm_refuses_cross_attention(counts: Callable[..., Counts]) -> None:
    with pytest.raises(ConfigError, match="add_cross_attention: cross-attention layers are not supported"):
        counts("xglm", add_cross_attention=True)
