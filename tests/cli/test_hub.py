"""Facts about uploading a model, to a server of one's own that answers as the Hub does."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.hub import push
from trimtab.errors import UserError
from trimtab.models import save_tiny_llama

ROWS = [
    {
        "prompt": " ".join("ask" if n >> bit & 1 else "tell" for bit in range(5)),
        "response": "yes no",
    }
    for n in range(32)
]


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.token = ""


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer({"id": "me/model", "sha": "0" * 40, "private": True, "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.token = self.headers.get("Authorization", "")
        if self.path.endswith("/repos/create"):
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self._root}/me/model"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        elif "/commit/" not in self.path:
            self._answer({"errors": [], "warnings": []})
        else:
            for line in body.decode().splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    value = record["value"]
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{self._root}/me/model/commit/{'0' * 40}"
            self._answer({"success": True, "commitUrl": url, "commitOid": "0" * 40})

    @property
    def _root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def _answer(self, record: dict[str, Any]) -> None:
        text = json.dumps(record).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def trained(folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    if not (folder / "model").exists():
        save_tiny_llama(["ask", "tell", "yes", "no"], folder / "model", seed=0)
        for name in ("task", "safety"):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = "train --model model --task task.jsonl --safety safety.jsonl --out run --lora-rank 2"
    settings = ["--steps", "1", "--batch-size", "2"]
    unset = ("HF_TOKEN", "TRANSFORMERS_OFFLINE")
    base = {name: value for name, value in os.environ.items() if name not in unset}
    base |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-m", "trimtab", *command.split(), *settings, *more],
        cwd=folder,
        env=base | {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_trained_model_and_its_card_are_uploaded_and_private(hub: Hub, tmp_path: Path) -> None:
    place = f"http://127.0.0.1:{hub.server_port}"
    result = trained(tmp_path, "--push-to-hub", "me/model", HF_ENDPOINT=place, HF_TOKEN="hf_secret")
    assert result.returncode == 0, result.stderr
    (model,) = (tmp_path / "run/models").iterdir()
    assert hub.files == {path.name: path.read_bytes() for path in model.iterdir()}
    assert b"## What was not measured" in hub.files["README.md"]
    (created,) = hub.created
    assert created.get("visibility") == "private" or created.get("private") is True
    assert hub.token == "Bearer hf_secret"
    assert f"It is at {place}/me/model." in result.stdout
    assert "hf_secret" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("repository", "token", "why"),
    [("me/model", "", "no token is set"), ("a/b/c", "hf_x", "Write USER/NAME")],
)
def test_what_cannot_be_uploaded_is_told_before_a_training(
    repository: str, token: str, why: str, tmp_path: Path
) -> None:
    environment = {"HF_TOKEN": token} if token else {}
    result = trained(tmp_path, "--push-to-hub", repository, **environment)
    assert result.returncode != 0
    assert why in result.stderr
    assert not (tmp_path / "run/points.jsonl").exists()


def test_a_hub_that_cannot_be_reached_leaves_the_model_and_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    result = trained(
        tmp_path,
        *("--push-to-hub", "me/model"),
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_TOKEN="hf_secret",
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "hf upload me/model run/models/" in result.stderr
    assert any((tmp_path / "run/models").iterdir())


def test_the_command_that_uploads_later_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    with pytest.raises(UserError) as caught:
        push(Path("my runs/model"), "me/model")
    command = str(caught.value).partition("later with: ")[2]
    assert shlex.split(command) == ["hf", "upload", "me/model", "my runs/model"]
