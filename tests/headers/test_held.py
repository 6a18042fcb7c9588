"""Files of every family as its own class writes them, and quantised layouts as their libraries do."""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from planner.checkpoint import reconcile
from planner.counts import count
from planner.headers import Comparison, StoredCheckpoint, compare, read_checkpoint, stored_bytes_by_tensor, summarise
from planner.headers.safetensors import DTYPE_BITS
from planner.models import Model

TinyConfig = Callable[..., dict[str, Any]]
TinyModel = Callable[..., Model]
Layout = dict[str, tuple[str, tuple[int, ...]]]


def _write(path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> StoredCheckpoint:
    """File of zeros with such tensors, written without the library: numpy knows neither BF16 nor FP8."""
    header, end = {}, 0
    for name, (dtype, shape) in layout.items():
        size = math.prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return read_checkpoint(path)


def _plain(model: Model) -> Layout:
    """The model's own tensors in BF16, by the names of its class."""
    from planner.headers.slots import targets_of

    return {
        slot.name: ("BF16", slot.shape)
        for target in targets_of(model.tree).values()
        if target.share == 1 and not target.experts
        for slot in target.slots.values()
        if slot.tied_to is None
    }


def _matrices(layout: Layout) -> list[str]:
    return [name for name, (_, shape) in layout.items() if ".layers." in name and len(shape) == 2]


def _check(model: Model, found: Comparison) -> None:
    """Nothing is missing, and the bytes sum to those of the files, the parameters to those of the model."""
    assert found.missing == ()
    assert found.differing == ()
    assert found.held_bytes + found.beyond_bytes == found.stored.tensor_bytes
    rows = summarise(found.stored, found)
    assert sum(row.size_bytes for row in rows) == found.stored.size_bytes
    held = {row.component: row.parameters for row in rows if row.parameters is not None}
    assert held == count(model.tree).breakdown
    assert {row.component: row.stored for row in rows if row.parameters is not None} == held


# transformers computes these positions and saves none
NOT_SAVED = {"marian": {"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"}}


@pytest.mark.slow
def test_what_the_real_class_saves_is_found(tiny_type: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    """`save_pretrained` writes the names that checkpoints of the hub have, which differ from the class's."""
    import torch

    from planner.real.build import build

    model = tiny_model(tiny_type)
    real: Any = build(model.raw, model.class_name, tiny_type, dtype=torch.float32, device="cpu")
    real.save_pretrained(tmp_path, max_shard_size="200KB")
    found = compare(model, read_checkpoint(tmp_path))
    assert {slot.name for slot in found.missing} == NOT_SAVED.get(tiny_type, set())
    if tiny_type not in NOT_SAVED:
        _check(model, found)
    assert [other.weight for other in found.beyond if other.kind == "unknown"] == []
    buffers = {name for name, _ in real.named_buffers()}
    assert len(found.beyond) <= len(buffers) + len(real.all_tied_weights_keys)


def test_a_pair_of_names_that_nothing_tells_apart_is_left_unknown(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama")
    layout = _plain(model)
    shape = layout.pop("model.layers.0.self_attn.k_proj.weight")
    layout |= {"strange.one": shape, "strange.two": shape}
    found = compare(model, _write(tmp_path / "model.safetensors", layout))
    assert [slot.name for slot in found.missing] == ["model.layers.0.self_attn.k_proj.weight"]
    assert [(other.weight, other.kind) for other in found.beyond] == [
        ("strange.one", "unknown"),
        ("strange.two", "unknown"),
    ]


def test_another_number_of_elements_is_said(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama")
    layout = _plain(model)
    dtype, (rows, width) = layout["model.embed_tokens.weight"]
    layout["model.embed_tokens.weight"] = (dtype, (rows + 5, width))
    found = compare(model, _write(tmp_path / "model.safetensors", layout))
    (differing,) = found.differing
    assert (differing.slot.name, differing.elements - differing.slot.numel) == ("model.embed_tokens.weight", 5 * width)


def test_a_tied_head_that_is_stored_twice_is_beyond(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    table = _plain(model)["model.embed_tokens.weight"]
    found = compare(model, _write(tmp_path / "a.safetensors", _plain(model) | {"lm_head.weight": table}))
    _check(model, found)
    assert [(other.weight, other.kind) for other in found.beyond] == [("lm_head.weight", "tied_head_twice")]
    # 2 B for each of 99 * 48
    assert found.beyond_bytes == 2 * 99 * 48


def test_a_tied_head_that_is_stored_alone_is_the_table(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    layout = _plain(model)
    layout["lm_head.weight"] = layout.pop("model.embed_tokens.weight")
    found = compare(model, _write(tmp_path / "a.safetensors", layout))
    _check(model, found)
    assert found.beyond == ()


def test_buffers_of_older_files_are_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama")
    extra: Layout = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", (5,)),
        "model.layers.1.self_attn.k_scale": ("F32", (1,)),
    }
    found = compare(model, _write(tmp_path / "a.safetensors", _plain(model) | extra))
    _check(model, found)
    assert {other.weight: other.kind for other in found.beyond} == {
        "model.layers.0.self_attn.rotary_emb.inv_freq": "rotary_frequencies",
        "model.layers.1.self_attn.k_scale": "kv_cache_scales",
    }


def test_a_head_of_another_class_is_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("bert", "BertForMaskedLM")
    other = tiny_model("bert", "BertForPreTraining")
    found = compare(model, _write(tmp_path / "a.safetensors", _plain(model) | _plain(other)))
    _check(model, found)
    assert {one.weight: (one.kind, one.why) for one in found.beyond}["cls.seq_relationship.weight"] == (
        "other_class",
        "parameters of BertForPreTraining, which BertForMaskedLM does not have",
    )


def test_modules_of_multi_token_prediction_are_counted_as_the_family_does(
    tiny_model: TinyModel, tmp_path: Path
) -> None:
    model = tiny_model("deepseek_v3", num_nextn_predict_layers=1)
    config: Any = model.config
    layers, hidden, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    last = f"model.layers.{layers - 1}."
    block = {
        name.replace(last, f"model.layers.{layers}."): held for name, held in _plain(model).items() if last in name
    }
    start = f"model.layers.{layers}."
    block |= {
        f"{start}embed_tokens.weight": ("BF16", (vocabulary, hidden)),
        f"{start}shared_head.head.weight": ("BF16", (vocabulary, hidden)),
        f"{start}shared_head.norm.weight": ("BF16", (hidden,)),
        f"{start}enorm.weight": ("BF16", (hidden,)),
        f"{start}hnorm.weight": ("BF16", (hidden,)),
        f"{start}eh_proj.weight": ("BF16", (hidden, 2 * hidden)),
    }
    biases: Layout = {
        f"model.layers.{layer}.mlp.gate.e_score_correction_bias": ("F32", (config.n_routed_experts,))
        for layer in range(config.first_k_dense_replace, layers + 1)
    }
    found = compare(model, _write(tmp_path / "a.safetensors", _plain(model) | block | biases))
    _check(model, found)
    elements: dict[str, int] = {}
    for other in found.beyond:
        elements[other.kind] = elements.get(other.kind, 0) + other.elements
    terms = {term.kind: term.parameters for term in reconcile(model).others}
    assert elements == {kind: terms[kind] for kind in ("mtp", "mtp_tables", "router_biases")}


def _gptq(name: str, rows: int, width: int) -> Layout:
    # eight codes of 4 bits in an int32; one group
    stem = name.removesuffix(".weight")
    return {
        f"{stem}.qweight": ("I32", (width // 8, rows)),
        f"{stem}.qzeros": ("I32", (1, rows // 8)),
        f"{stem}.scales": ("F16", (1, rows)),
        f"{stem}.g_idx": ("I32", (width,)),
    }


def _awq(name: str, rows: int, width: int) -> Layout:
    made = _gptq(name, rows, width)
    del made[name.removesuffix(".weight") + ".g_idx"]
    return made


def _nf4(name: str, rows: int, width: int) -> Layout:
    blocks = -(-rows * width // 64)
    return {
        name: ("U8", (rows * width // 2, 1)),
        f"{name}.absmax": ("U8", (blocks,)),
        f"{name}.nested_absmax": ("F32", (-(-blocks // 256),)),
        f"{name}.quant_map": ("F32", (16,)),
        f"{name}.nested_quant_map": ("F32", (256,)),
        f"{name}.quant_state.bitsandbytes__nf4": ("U8", (91,)),
    }


def _int8(name: str, rows: int, width: int) -> Layout:
    stem = name.removesuffix(".weight")
    return {name: ("I8", (rows, width)), f"{stem}.SCB": ("F32", (rows,)), f"{stem}.weight_format": ("U8", ())}


def _fp8_blocks(name: str, rows: int, width: int) -> Layout:
    return {name: ("F8_E4M3", (rows, width)), f"{name}_scale_inv": ("F32", (-(-rows // 128), -(-width // 128)))}


def _fp8_static(name: str, rows: int, width: int) -> Layout:
    stem = name.removesuffix(".weight")
    return {name: ("F8_E4M3", (rows, width)), f"{name}_scale": ("F32", (1,)), f"{stem}.input_scale": ("F32", (1,))}


def _packed(name: str, rows: int, width: int) -> Layout:
    return {
        f"{name}_packed": ("I32", (rows, width // 8)),
        f"{name}_scale": ("BF16", (rows, 1)),
        f"{name}_shape": ("I64", (2,)),
    }


def _nvfp4(name: str, rows: int, width: int) -> Layout:
    stem = name.removesuffix(".weight")
    return {
        f"{name}_packed": ("U8", (rows, width // 2)),
        f"{name}_scale": ("F8_E4M3", (rows, width // 16)),
        f"{name}_global_scale": ("F32", (1,)),
        f"{stem}.input_global_scale": ("F32", (1,)),
    }


LAYOUTS = {
    "gptq": (_gptq, 4),
    "awq": (_awq, 4),
    "nf4": (_nf4, 4),
    "int8": (_int8, 8),
    "fp8 blocks": (_fp8_blocks, 8),
    "fp8 static": (_fp8_static, 8),
    "pack-quantized": (_packed, 4),
    "nvfp4": (_nvfp4, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_quantised_weight_is_its_codes_and_what_stands_beside_them(
    layout: str, tiny_model: TinyModel, tmp_path: Path
) -> None:
    quantise, bits = LAYOUTS[layout]
    model = tiny_model("llama", head_dim=16)
    plain = _plain(model)
    made: Layout = {}
    for name, (dtype, shape) in plain.items():
        made |= quantise(name, *shape) if name in _matrices(plain) else {name: (dtype, shape)}
    found = compare(model, _write(tmp_path / "model.safetensors", made))
    _check(model, found)
    assert found.beyond == ()
    sizes = stored_bytes_by_tensor(found)
    assert sizes.keys() == plain.keys()
    for name in _matrices(plain):
        rows, width = plain[name][1]
        assert sizes[name].weight_bytes == rows * width * bits // 8
        parts = quantise(name, rows, width).values()
        assert sizes[name].size_bytes == sum(math.prod(shape) * DTYPE_BITS[dtype] // 8 for dtype, shape in parts)
        assert sizes[name].path.startswith("model.layers.*.")
    assert sizes["lm_head.weight"].dtype == "BF16"


def test_biases_that_a_quantiser_adds_are_beyond(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama", head_dim=16)
    plain = _plain(model)
    made: Layout = {}
    for name, (dtype, shape) in plain.items():
        quantised = name in _matrices(plain)
        made |= _gptq(name, *shape) if quantised else {name: (dtype, shape)}
        made |= {name.removesuffix("weight") + "bias": ("F16", shape[:1])} if quantised else {}
    found = compare(model, _write(tmp_path / "model.safetensors", made))
    _check(model, found)
    assert {other.kind for other in found.beyond} == {"quantiser_biases"}
    assert len(found.beyond) == len(_matrices(plain))


def test_quantised_experts_one_by_one_are_the_fused_tensor(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    made: Layout = {}
    for name, (dtype, shape) in _plain(model).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            made[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = (dtype, shape)
            continue
        experts, rows, width = shape
        start = name.rpartition(".experts")[0].replace(".mlp", ".block_sparse_moe")
        matrices = {"w1": rows // 2, "w3": rows // 2} if name.endswith("gate_up_proj") else {"w2": rows}
        for expert in range(experts):
            for matrix, own in matrices.items():
                made |= _gptq(f"{start}.experts.{expert}.{matrix}.weight", own, width)
    found = compare(model, _write(tmp_path / "model.safetensors", made))
    _check(model, found)
    assert found.beyond == ()


def test_blocks_of_mxfp4_are_the_experts(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("gpt_oss")
    made: Layout = {}
    experts_bytes = 0
    for name, (dtype, shape) in _plain(model).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            made[name] = (dtype, shape)
            continue
        # blocks of 32 elements in 16 B with an exponent of 1 B; widths here are no multiples of 32, so 16 elements
        experts, rows, width = shape
        made[f"{name}_blocks"] = ("U8", (experts, width, rows // 16, 8))
        made[f"{name}_scales"] = ("U8", (experts, width, rows // 16))
        experts_bytes += experts * width * (rows // 16) * 9
    found = compare(model, _write(tmp_path / "model.safetensors", made))
    _check(model, found)
    fused = [held for name, held in found.held.items() if name.endswith(("gate_up_proj", "down_proj"))]
    assert sum(held.size_bytes for held in fused) == experts_bytes
    assert {held.dtype for held in fused} == {"U8"}
