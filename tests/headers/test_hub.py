"""The hub, played by a server of this machine: its listing of a repository, and files that are served by ranges."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from planner.errors import CheckpointError, UnknownNameError
from planner.headers import read_checkpoint
from planner.headers.source import FIRST_CHUNK_BYTES

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Files of the one repository, and what was asked of them."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    sent_bytes: int = 0
    knows_ranges: bool = True
    claims: dict[str, int] = field(default_factory=dict)
    status: int = 200
    endpoint: str = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if hub.status != 200:
                self._send(hub.status, b"{}")
            elif self.path.startswith("/api/models/some/model"):
                siblings = [
                    {"rfilename": name, "size": hub.claims.get(name, len(held))} for name, held in hub.files.items()
                ]
                body = {"id": "some/model", "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
                self._send(200, json.dumps(body).encode())
            elif self.path.startswith(f"/some/model/resolve/{COMMIT}/"):
                self._file(self.path.rpartition(f"/{COMMIT}/")[2])
            else:
                self._send(404, b"{}")

        def _file(self, name: str) -> None:
            held = hub.files[name]
            start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())  # type: ignore[union-attr]
            hub.ranges.append((name, start, end))
            self._send(206, held[start : end + 1]) if hub.knows_ranges else self._send(200, held)

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                for start in range(0, len(body), 2**16):
                    self.wfile.write(body[start : start + 2**16])
                    hub.sent_bytes += len(body[start : start + 2**16])
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.endpoint = endpoint = f"http://127.0.0.1:{server.server_port}"
    # HF_ENDPOINT is read once, when huggingface_hub is imported
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", endpoint, raising=False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def _safetensors(folder: Path, name: str, elements: int) -> bytes:
    path = folder / "made.safetensors"
    save_file({name: np.zeros(elements, np.float32)}, path)
    return path.read_bytes()


def test_only_headers_are_fetched(hub: Hub, tmp_path: Path) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    # 10**6 elements in F32 are 4 MB
    hub.files = {shard: _safetensors(tmp_path, shard[:11], 10**6) for shard in shards}
    index = {"weight_map": {shard[:11]: shard for shard in shards}}
    hub.files |= {"model.safetensors.index.json": json.dumps(index).encode(), "config.json": b'{"model_type": "x"}'}
    stored = read_checkpoint("some/model")
    assert {tensor.name: tensor.size_bytes for tensor in stored.tensors} == {shard[:11]: 4 * 10**6 for shard in shards}
    assert stored.config == {"model_type": "x"}
    assert stored.origin == "hub: some/model"
    assert sorted(name for name, _, _ in hub.ranges if name in shards) == shards
    assert hub.sent_bytes < 2 * FIRST_CHUNK_BYTES + 4096


def test_the_command_asks_the_hub_that_the_environment_names(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": _safetensors(tmp_path, "a", 10)}
    variables = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-m", "planner", "params", "some/model", "--from-files", "--format", "json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)  # noqa: S603
    assert json.loads(run.stdout)[0]["stored"]["bytes_by_dtype"] == {"F32": 40}
    offline = subprocess.run([*command, "--offline"], capture_output=True, text=True, check=False, env=variables)  # noqa: S603
    assert offline.returncode == 2
    assert "the hub is off" in offline.stderr


def test_a_gguf_is_read_in_growing_ranges(hub: Hub, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "m-Q8_0.gguf"
    writer = GGUFWriter(path, "llama")
    # 60,000 texts of 8 bytes of length and 9 letters are 1 MB of header
    writer.add_token_list([f"tok{number:06}" for number in range(60_000)])
    writer.add_tensor("token_embd.weight", np.zeros((500, 1000), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    hub.files = {"m-Q8_0.gguf": path.read_bytes(), "q4/m-Q4_0.gguf": b"", "text/model.safetensors": b""}
    stored = read_checkpoint("some/model:q8_0")
    assert [tensor.size_bytes for tensor in stored.tensors] == [2 * 10**6]
    starts = [start for _, start, _ in hub.ranges]
    assert starts == [0, *(FIRST_CHUNK_BYTES * 2**number for number in range(len(starts) - 1))]
    assert hub.sent_bytes < 2.1 * 10**6
    with pytest.raises(UnknownNameError, match="holds 2 checkpoints"):
        read_checkpoint("some/model")


def test_a_server_without_ranges_sends_no_more_than_what_is_read(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": _safetensors(tmp_path, "a", 16 * 10**6)}
    hub.knows_ranges = False
    assert read_checkpoint("some/model").tensor_bytes == 64 * 10**6
    # what fits between the two ends of the connection is sent before it is closed
    assert hub.sent_bytes < 16 * 10**6


def test_a_listing_that_lies_about_a_size_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": _safetensors(tmp_path, "a", 10)}
    hub.claims = {"model.safetensors": 10**15}
    with pytest.raises(CheckpointError, match="hub: some/model/model.safetensors: yields .* bytes"):
        read_checkpoint("some/model")


def test_a_header_that_lies_about_its_length_is_refused(hub: Hub) -> None:
    hub.files = {"model.safetensors": (2**40).to_bytes(8, "little") + bytes(100)}
    with pytest.raises(CheckpointError, match="hub: some/model/model.safetensors: states a header of"):
        read_checkpoint("some/model")
    assert len(hub.ranges) == 1


@pytest.mark.parametrize(("status", "reason"), [(401, "needs a login"), (404, "answered 404")])
def test_a_refusal_of_the_hub_is_said(hub: Hub, status: int, reason: str) -> None:
    hub.status = status
    with pytest.raises(UnknownNameError, match=f"'some/model': the hub {reason}"):
        read_checkpoint("some/model")


def test_offline_asks_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="the hub is off"):
        read_checkpoint("some/model", offline=True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownNameError, match="the hub is off"):
        read_checkpoint("some/model")
    assert hub.sent_bytes == 0


def test_a_hub_that_does_not_answer_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnknownNameError, match="the hub cannot be reached"):
        read_checkpoint("some/model")
    assert hub.sent_bytes == 0
