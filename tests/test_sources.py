"""Where configs are found, and what is refused there."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from planner.errors import ConfigError, UnknownNameError
from planner.models import load_model
from planner.sources import LARGEST_CONFIG_BYTES, find_config, parse_config, read_config_file

TINY = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 16}


def _write(path: Path, config: dict[str, Any] = TINY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _no_places_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PLANNER_MODELS", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    path = _write(tmp_path / "mine" / "config.json")
    assert find_config(str(path)).raw == TINY
    assert find_config(str(path.parent)).raw == TINY


@pytest.mark.parametrize("place", ["org--name.json", "org/name/config.json"])
def test_a_folder_of_configs_comes_before_the_catalog(tmp_path: Path, place: str) -> None:
    _write(tmp_path / place)
    assert find_config("org/name", models_dir=tmp_path).raw == TINY
    shadow = {**TINY, "vocab_size": 99}
    _write(tmp_path / "bert-base-uncased.json", shadow)
    assert find_config("bert-base-uncased", models_dir=tmp_path).raw == shadow


def test_the_environment_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "org--name.json")
    monkeypatch.setenv("PLANNER_MODELS", str(tmp_path))
    assert find_config("org/name").raw == TINY


def test_the_catalog_knows_ids_and_aliases() -> None:
    assert find_config("bert-base-uncased").raw == find_config("google-bert/bert-base-uncased").raw
    assert find_config("meta-llama/Llama-3.1-8B").origin.startswith("catalog: ")


def test_the_local_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--org--cached" / "snapshots" / "abc"
    _write(snapshot / "config.json")
    refs = tmp_path / "hub" / "models--org--cached" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert find_config("org/cached").raw == TINY


class _Hub(BaseHTTPRequestHandler):
    """The two answers of a hub that a config download needs."""

    body = json.dumps(TINY).encode()

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        known = self.path.startswith("/org/remote/")
        gated = self.path.startswith("/org/gated/")
        self.send_response(200 if known else 403 if gated else 404)
        if known:
            self.send_header("ETag", '"1234"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(len(self.body)))
        elif gated:
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
        else:
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
        self.end_headers()
        if known and with_body:
            self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of a process for which a server on this machine is the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    yield {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    server.shutdown()
    server.server_close()
    thread.join()


def _planner(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # huggingface_hub reads its environment once, so each case is a process of its own.
    command = [sys.executable, "-m", "planner", "params", "--format", "json", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def test_the_hub_is_asked_last_and_its_answer_is_kept(hub: dict[str, str]) -> None:
    online = _planner(hub, "org/remote")
    assert online.returncode == 0, online.stderr
    (record,) = json.loads(online.stdout)
    assert record["class"] == "LlamaForCausalLM"
    offline = _planner({**hub, "HF_HUB_OFFLINE": "1"}, "org/remote")
    assert json.loads(offline.stdout) == [record]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["org/missing"], "unknown model 'org/missing'"),
        (["org/gated"], "the hub needs a login or an accepted licence"),
        (["org/remote", "--offline"], "the hub is off"),
    ],
)
def test_what_the_hub_does_not_give_is_one_clear_error(hub: dict[str, str], arguments: list[str], reason: str) -> None:
    refused = _planner(hub, *arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert reason in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_an_unknown_name_offers_the_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bert-base-uncased'"):
        find_config("bert-base-uncassed")


@pytest.mark.parametrize("name", ["./missing/config.json", "/nowhere/config.json", "a/b/c"])
def test_a_missing_path_is_no_name(name: str) -> None:
    with pytest.raises(UnknownNameError, match="no such file"):
        find_config(name)


def test_a_missing_file_offers_its_neighbour(tmp_path: Path) -> None:
    _write(tmp_path / "config.json")
    with pytest.raises(UnknownNameError, match="did you mean 'config.json'"):
        find_config(str(tmp_path / "confg.json"))


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="a folder without a config.json"):
        find_config(str(tmp_path))


def test_a_models_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no such folder"):
        find_config("org/name", models_dir=tmp_path / "missing")


def test_a_name_cannot_leave_the_models_folder(tmp_path: Path) -> None:
    _write(tmp_path / "secret" / "config.json")
    models = tmp_path / "models"
    models.mkdir()
    with pytest.raises(UnknownNameError):
        find_config("x/../../secret", models_dir=models)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "llama",', "config.json:1: is not JSON"),
        ('{\n"a": 1,\n"b": tru}', "config.json:3: is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", "expected an object with keys, got a list"),
        ('{"hidden_size": NaN}', "NaN is not a number that a config may hold"),
        ('{"a": 1, "a": 2}', "a: is given twice"),
        ("[" * 100_000, "is nested deeper than 32 levels"),
        ('{"a":' * 40 + "1" + "}" * 40, "is nested deeper than 32 levels"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "holds a value that cannot be read"),
    ],
)
def test_a_broken_config_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(text, "config.json")


@pytest.mark.parametrize("word", ["Infinity", "-Infinity", "1e999"])
def test_infinity_bounds_a_time_step_and_is_no_dimension(tmp_path: Path, word: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"model_type": "llama", "time_step_limit": [0, {word}]}}')
    assert read_config_file(path)["model_type"] == "llama"
    path.write_text(f'{{"model_type": "llama", "hidden_size": {word}}}')
    with pytest.raises(ConfigError, match="hidden_size: expected a whole number, got -?inf"):
        load_model(str(path))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_CONFIG_BYTES + 1)
    with pytest.raises(ConfigError, match="expected a config of at most"):
        read_config_file(path)


def test_a_binary_file_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\x80\x81\xff")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        read_config_file(path)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "config.json", {**TINY, "hidden_size": "8"})
    with pytest.raises(ConfigError, match=f"{path}: hidden_size: expected a whole number"):
        load_model(str(path))
