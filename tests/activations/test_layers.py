"""Sublayers are read off a tree by what they are, not by what a class calls them."""

from __future__ import annotations

import pytest

from planner.activations.layers import Layer, layers_of
from planner.models import load_model
from planner.nodes import walk


def _layers(name: str) -> list[Layer]:
    return layers_of(list(walk(load_model(name, offline=True).tree)))


def test_llama_has_one_kind_of_block() -> None:
    (layer,) = _layers("meta-llama/Llama-3.1-8B")
    (attention,) = layer.attentions
    (mlp,) = layer.mlps
    assert (layer.path, layer.copies, layer.hidden) == ("model.layers.*", 32, 4096)
    assert (attention.core.num_heads, attention.kv_heads, attention.latent) == (32, 8, None)
    # Gate and up side by side: 2 * 14336.
    assert (mlp.hidden, mlp.first, mlp.second) == (4096, 28672, 14336)
    assert not layer.routed


def test_deepseek_expands_its_latents_to_every_head() -> None:
    dense, sparse = _layers("deepseek-ai/DeepSeek-V2")
    (attention,) = sparse.attentions
    (routed,) = sparse.routed
    assert (dense.copies, sparse.copies) == (1, 59)
    assert (attention.query_latent, attention.latent, attention.rotated) == (1536, 512, 64)
    assert attention.kv_heads == attention.core.num_heads == 128
    assert (routed.experts.num_experts, routed.experts.top_k) == (160, 6)
    # Two shared experts of 1536 are one MLP: 2 * 3072 written by its first matrices.
    assert [(mlp.first, mlp.second) for mlp in routed.shared] == [(6144, 3072)]
    assert not sparse.mlps


def test_berts_two_matrices_are_one_mlp_though_modules_of_their_own_hold_them() -> None:
    (layer,) = _layers("bert-base-uncased")
    assert [(mlp.first, mlp.second) for mlp in layer.mlps] == [(3072, 3072)]
    assert len(layer.attentions) == 1


@pytest.mark.parametrize(("name", "kinds"), [("google/flan-t5-base", 4), ("nvidia/Nemotron-H-8B-Base-8K", 3)])
def test_stacks_and_kinds_are_told_apart(name: str, kinds: int) -> None:
    # T5 has a first block with a table of distances in each of its two stacks; Nemotron-H mixers of three kinds.
    assert len(_layers(name)) == kinds


def test_a_recurrence_is_read_with_its_projections() -> None:
    mamba = next(layer for layer in _layers("nvidia/Nemotron-H-8B-Base-8K") if layer.scans)
    (scan,) = mamba.scans
    # 128 heads of 64 channels; gate and input, 8 groups of two matrices of 128, and a step a head.
    assert scan.inner == 128 * 64
    assert scan.projected == 2 * 8192 + 2 * 8 * 128 + 128
    assert scan.convolved == 8192 + 2 * 8 * 128
