"""GGUF files whose tensors have the names that llama.cpp gives them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from planner.counts import count
from planner.headers import Comparison, compare, read_checkpoint, summarise
from planner.models import Model
from planner.nodes import Linear, walk

TinyModel = Callable[..., Model]

F32, F16, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0


def _compare(
    model: Model, architecture: str, path: Path, held: Mapping[str, tuple[GGMLQuantizationType, tuple[int, ...]]]
) -> Comparison:
    writer = GGUFWriter(path, architecture)
    for name, (kind, shape) in held.items():
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if kind in (F32, F16):
            writer.add_tensor(name, np.zeros(shape, np.float32 if kind == F32 else np.float16))
        else:
            row_bytes = shape[-1] // block * block_bytes
            writer.add_tensor(name, np.zeros((*shape[:-1], row_bytes), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return compare(model, read_checkpoint(path))


def _check(model: Model, found: Comparison) -> None:
    assert found.missing == ()
    assert found.differing == ()
    rows = summarise(found.stored, found)
    assert sum(row.size_bytes for row in rows) == found.stored.size_bytes
    held = {row.component: row.stored for row in rows if row.parameters is not None}
    assert held == count(model.tree).breakdown


def _decoder(config: Any, layers: int) -> dict[str, tuple[GGMLQuantizationType, tuple[int, ...]]]:
    """Llama's attention and norms, by the names of gguf-py's MODEL_TENSORS."""
    hidden, head = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    held = {
        "token_embd.weight": (F16, (config.vocab_size, hidden)),
        "output_norm.weight": (F32, (hidden,)),
        "output.weight": (F16, (config.vocab_size, hidden)),
    }
    for layer in range(layers):
        block = f"blk.{layer}."
        held |= {
            f"{block}attn_norm.weight": (F32, (hidden,)),
            f"{block}ffn_norm.weight": (F32, (hidden,)),
            f"{block}attn_q.weight": (F16, (queries, hidden)),
            f"{block}attn_k.weight": (F16, (keys, hidden)),
            f"{block}attn_v.weight": (F16, (keys, hidden)),
            f"{block}attn_output.weight": (F16, (hidden, queries)),
        }
    return held


def test_a_llama_with_frequencies_beside_it(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=96)
    config: Any = model.config
    held = _decoder(config, 3) | {"rope_freqs.weight": (F32, (config.head_dim // 2,))}
    for layer in range(3):
        for name in ("ffn_gate", "ffn_up"):
            held[f"blk.{layer}.{name}.weight"] = (Q8_0, (96, 64))
        held[f"blk.{layer}.ffn_down.weight"] = (Q8_0, (64, 96))
    found = _compare(model, "llama", tmp_path / "m.gguf", held)
    _check(model, found)
    assert [(other.weight, other.kind) for other in found.beyond] == [("rope_freqs.weight", "rotary_frequencies")]
    mlp = found.held["model.layers.1.mlp.up_proj.weight"]
    # 34 B for each block of 32
    assert (mlp.dtype, mlp.size_bytes) == ("Q8_0", 96 * 64 // 32 * 34)


def test_experts_of_a_layer_are_three_tensors(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    config: Any = model.config
    hidden, inner, experts = config.hidden_size, config.intermediate_size, config.num_local_experts
    held = _decoder(config, config.num_hidden_layers)
    for layer in range(config.num_hidden_layers):
        held |= {
            f"blk.{layer}.ffn_gate_inp.weight": (F32, (experts, hidden)),
            f"blk.{layer}.ffn_gate_exps.weight": (F16, (experts, inner, hidden)),
            f"blk.{layer}.ffn_up_exps.weight": (F16, (experts, inner, hidden)),
            f"blk.{layer}.ffn_down_exps.weight": (F16, (experts, hidden, inner)),
        }
    found = _compare(model, "llama", tmp_path / "m.gguf", held)
    _check(model, found)
    assert found.beyond == ()


def test_a_head_that_is_tied_and_stored_is_beyond(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    config: Any = model.config
    held = _decoder(config, 3)
    for layer in range(3):
        for name in ("ffn_gate", "ffn_up"):
            held[f"blk.{layer}.{name}.weight"] = (F16, (config.intermediate_size, config.hidden_size))
        held[f"blk.{layer}.ffn_down.weight"] = (F16, (config.hidden_size, config.intermediate_size))
    found = _compare(model, "llama", tmp_path / "m.gguf", held)
    _check(model, found)
    assert [(other.weight, other.kind) for other in found.beyond] == [("output.weight", "tied_head_twice")]


def test_an_encoder_whose_class_has_a_prefix(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("bert", "BertForMaskedLM")
    found = _compare(
        model,
        "bert",
        tmp_path / "m.gguf",
        {
            "token_embd.weight": (F16, (99, 48)),
            "blk.0.attn_q.weight": (F16, (48, 48)),
            "blk.0.attn_q.bias": (F32, (48,)),
        },
    )
    assert list(found.held) == [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.self.query.bias",
    ]


def test_a_tower_is_not_taken_for_the_layers_of_the_text(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gemma3")
    width = next(row.leaf for row in walk(model.tree) if row.path.endswith("language_model.layers.*.self_attn.q_proj"))
    assert isinstance(width, Linear)
    shape = (int(width.out_features), int(width.in_features))
    found = _compare(model, "gemma3", tmp_path / "m.gguf", {"blk.0.attn_q.weight": (F16, shape)})
    assert list(found.held) == ["model.language_model.layers.0.self_attn.q_proj.weight"]
    assert found.differing == ()


def test_latents_are_split_into_keys_and_values(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("deepseek_v3")
    config: Any = model.config
    heads, rank = config.num_attention_heads, config.kv_lora_rank
    found = _compare(
        model,
        "deepseek2",
        tmp_path / "m.gguf",
        {
            "blk.0.attn_k_b.weight": (F16, (heads, rank, config.qk_nope_head_dim)),
            "blk.0.attn_v_b.weight": (F16, (heads, config.v_head_dim, rank)),
        },
    )
    (held,) = found.held.values()
    assert held.slot.name == "model.layers.0.self_attn.kv_b_proj.weight"
    assert held.elements == held.slot.numel == heads * rank * (config.qk_nope_head_dim + config.v_head_dim)


def test_layers_behind_the_last_one_predict_further_tokens(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("deepseek_v3", num_nextn_predict_layers=1)
    config: Any = model.config
    last = config.num_hidden_layers
    held = {f"blk.{last}.attn_norm.weight": (F32, (48,)), f"blk.{last}.nextn.eh_proj.weight": (F16, (48, 96))}
    found = _compare(model, "deepseek2", tmp_path / "m.gguf", held)
    assert {other.weight: other.kind for other in found.beyond} == dict.fromkeys(held, "mtp")


def test_an_architecture_that_the_library_does_not_know_is_all_unknown(tiny_model: TinyModel, tmp_path: Path) -> None:
    found = _compare(tiny_model("llama"), "no-such-model", tmp_path / "m.gguf", {"token_embd.weight": (F16, (99, 48))})
    assert not found.held
    assert [other.kind for other in found.beyond] == ["unknown"]
