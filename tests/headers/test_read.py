import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import save_file

from planner.errors import CheckpointError, ConfigError, PlannerError, UnknownNameError
from planner.headers import has_weights, read_checkpoint

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def _shards(folder: Path) -> dict[str, str]:
    """Two shards with an index, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.zeros(3, np.float32), "b": np.zeros(5, np.float16)}, folder / SHARDS[0])
    save_file({"c": np.zeros((2, 2), np.float32)}, folder / SHARDS[1])
    return {"a": SHARDS[0], "b": SHARDS[0], "c": SHARDS[1]}


def _index(folder: Path, weight_map: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}), encoding="utf-8")
    return path


def _gguf(path: Path, names: tuple[str, ...], **facts: int) -> None:
    writer = GGUFWriter(path, "llama")
    for key, value in facts.items():
        writer.add_uint16(key.replace("_", "."), value)
    for name in names:
        writer.add_tensor(name, np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_single_file_and_its_folder_are_one_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    alone, folder = read_checkpoint(path), read_checkpoint(str(tmp_path))
    assert alone.tensors == folder.tensors
    assert alone.size_bytes == path.stat().st_size
    assert alone.config is None


def test_shards_with_an_index_are_read_by_folder_index_or_shard(tmp_path: Path) -> None:
    index = _index(tmp_path, _shards(tmp_path))
    found = [read_checkpoint(path) for path in (tmp_path, index, tmp_path / SHARDS[0])]
    for stored in found:
        assert {tensor.name: tensor.file for tensor in stored.tensors} == {
            "a": SHARDS[0],
            "b": SHARDS[0],
            "c": SHARDS[1],
        }
        # 3 * 4 B, 5 * 2 B, 4 * 4 B
        assert stored.tensor_bytes == 12 + 10 + 16
        assert stored.size_bytes == sum((tmp_path / name).stat().st_size for name in SHARDS)
        assert stored.notes == ()


def test_shards_without_an_index_are_a_checkpoint_if_all_are_there(tmp_path: Path) -> None:
    _shards(tmp_path)
    assert len(read_checkpoint(tmp_path).tensors) == 3
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(CheckpointError, match="is one of 2 parts, but part 2 is not there"):
        read_checkpoint(tmp_path)


def test_tensors_that_the_index_leaves_out_are_said(tmp_path: Path) -> None:
    weight_map = _shards(tmp_path)
    del weight_map["b"]
    _index(tmp_path, weight_map)
    assert read_checkpoint(tmp_path).notes == ("1 tensors of the files are not in the index, the first one 'b'",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": "model-00003-of-00003.safetensors"}, "which is not there"),
        ({"c": "../secret.safetensors"}, "expected a .safetensors file beside the index"),
        ({"c": "/etc/secret.safetensors"}, "expected a .safetensors file beside the index"),
        ({"c": "..\\secret.safetensors"}, "expected a .safetensors file beside the index"),
        ({"c": "config.json"}, "expected a .safetensors file beside the index"),
        ({"c": 3}, "expected the name of a file, got 3"),
        ({"c": SHARDS[0]}, f"c: is said to stand in '{SHARDS[0]}', but stands in '{SHARDS[1]}'"),
        ({"d": SHARDS[0]}, f"d: is said to stand in '{SHARDS[0]}', but stands in none of the files"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = tmp_path / "model"
    weight_map = _shards(folder) | change
    index = _index(folder, weight_map)
    save_file({"c": np.zeros(1, np.float32)}, tmp_path / "secret.safetensors")
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(folder)
    assert message in str(refused.value)
    assert str(refused.value).startswith(f"{index}: ")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"a": "a", "a": "b"}}']
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    _shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        read_checkpoint(tmp_path)


def test_a_cut_off_shard_is_refused_by_its_name(tmp_path: Path) -> None:
    _index(tmp_path, _shards(tmp_path))
    shard = tmp_path / SHARDS[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{SHARDS[1]}: is .* cut off"):
        read_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    _shards(tmp_path)
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / SHARDS[1])
    with pytest.raises(CheckpointError, match=f"a: stands in '{SHARDS[0]}' as well"):
        read_checkpoint(tmp_path)


def test_parts_of_a_gguf_are_one_checkpoint(tmp_path: Path) -> None:
    names = [f"m-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, name in enumerate(names):
        _gguf(tmp_path / name, (f"t{number}",), split_no=number, split_count=2)
    assert [tensor.name for tensor in read_checkpoint(tmp_path / names[0]).tensors] == ["t0", "t1"]
    _gguf(tmp_path / names[1], ("t1",), split_no=0, split_count=2)
    with pytest.raises(CheckpointError, match="split.no: states 0, but is part 2 of 2"):
        read_checkpoint(tmp_path)
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match="part 2 is not there"):
        read_checkpoint(tmp_path / names[0])


def test_several_checkpoints_are_told_apart_by_name(tmp_path: Path) -> None:
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf"):
        _gguf(tmp_path / name, (name,))
    with pytest.raises(UnknownNameError, match="holds 2 checkpoints, expected one of m-Q4_K_M.gguf, m-Q8_0.gguf"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path / "m-Q8_0.gguf").tensors[0].name == "m-Q8_0.gguf"


def test_the_usual_name_wins_over_others(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    save_file({"b": np.zeros(3, np.float32)}, tmp_path / "adapter_model.safetensors")
    assert [tensor.name for tensor in read_checkpoint(tmp_path).tensors] == ["a"]


def test_a_folder_without_weights_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnknownNameError, match="pytorch_model.bin is pickled"):
        read_checkpoint(tmp_path)
    assert not has_weights(tmp_path)


def test_a_missing_file_names_the_near_miss(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UnknownNameError, match="did you mean 'model.safetensors'"):
        read_checkpoint(tmp_path / "modle.safetensors")


def test_the_config_beside_comes_with_them(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    stored = read_checkpoint(tmp_path)
    assert stored.config == {"model_type": "llama"}
    assert stored.config_origin == str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="config.json"):
        read_checkpoint(tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Repository in an empty cache, with one commit; files are links to blobs, as huggingface_hub lays them."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    folder = tmp_path / "home" / "hub" / "models--some--model"
    snapshot = folder / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123", encoding="utf-8")
    return snapshot


def _link_blobs(snapshot: Path) -> None:
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))


def test_the_cache_is_read_without_a_network(cache: Path) -> None:
    _index(cache, _shards(cache))
    _link_blobs(cache)
    stored = read_checkpoint("some/model", offline=True)
    assert sorted(tensor.name for tensor in stored.tensors) == ["a", "b", "c"]
    assert stored.origin == str(cache)


def test_a_half_filled_cache_says_what_is_missing(cache: Path) -> None:
    _index(cache, _shards(cache))
    (cache / SHARDS[1]).unlink()
    with pytest.raises(CheckpointError, match=f"names '{SHARDS[1]}', which is not there"):
        read_checkpoint("some/model", offline=True)


def test_a_name_that_the_cache_lacks_is_refused_offline(cache: Path) -> None:
    with pytest.raises(UnknownNameError, match="not in the cache, and the hub is off"):
        read_checkpoint("other/model", offline=True)
    assert cache.is_dir()


def test_a_reference_that_leads_out_of_the_cache_is_not_followed(cache: Path, tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    (cache.parents[1] / "refs" / "main").write_text("../../../..", encoding="utf-8")
    with pytest.raises(PlannerError, match="holds neither safetensors nor GGUF"):
        read_checkpoint("some/model", offline=True)
