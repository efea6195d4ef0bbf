"""Uploads to the hub, of which a small server on this machine speaks the part that they need."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.adapters.exporters import Exported
from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from peft_nb.store import Store

SECRET = "hf_" + "q7Zw" * 9
FILES = {"README.md", "curves.png", "adapter_config.json", "adapter_model.safetensors", "spec.yaml"}


class Hub(ThreadingHTTPServer):
    """Holds repositories, each with whether it is private and its files; answers what it is told to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.seen: list[str] = []
        self.tokens: set[str] = set()
        self.refuse: dict[str, int] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The calls of one upload: create, preupload, LFS batch, upload, verify, commit, and information."""

    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def handle_call(self) -> None:
        hub, path, body = self.server, self.path.partition("?")[0], self.body()
        hub.seen.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization", ""))
        for part, status in hub.refuse.items():
            if part in path:
                return self.answer({"error": f"refused with {status}"}, status)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization') or 'anna'}/{asked['name']}"
            if repo in hub.repos:
                url = f"{hub.address}/{repo}"
                return self.answer({"error": "You already created this model repo", "url": url}, 409)
            hub.repos[repo] = {"private": asked.get("visibility") == "private" or asked.get("private"), "files": {}}
            return self.answer({"url": f"{hub.address}/{repo}", "name": repo, "id": "1"})
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path.startswith("/large/"):
            hub.large[path.removeprefix("/large/")] = body
            return self.answer({})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": objects})
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if repo not in hub.repos:
            return self.answer({"error": "Repository not found"}, 404)
        if path.endswith("/preupload/main"):
            modes = [
                {"path": one["path"], "shouldIgnore": False}
                | {"uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                for one in json.loads(body)["files"]
            ]
            return self.answer({"files": modes})
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                told = line["value"]
                if line["key"] == "file":
                    hub.repos[repo]["files"][told["path"]] = base64.b64decode(told["content"])
                elif line["key"] == "lfsFile":
                    held = hub.large[told["oid"]]
                    assert hashlib.sha256(held).hexdigest() == told["oid"]
                    hub.repos[repo]["files"][told["path"]] = held
                else:
                    hub.repos[repo]["message"] = told["summary"]
            url = f"{hub.address}/{repo}/commit/1"
            return self.answer({"commitUrl": url, "commitOid": "1", "success": True})
        return self.answer({"id": repo, "modelId": repo, "private": hub.repos[repo]["private"], "siblings": []})

    do_GET = do_POST = do_PUT = handle_call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, and a token in the environment."""
    server = Hub()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose servers nothing stands in for
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_arrives_is_the_folder_and_private(finished: Run, hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    found = finished.export("anna/tickets", "hub")
    assert isinstance(found, Exported)
    (repo,) = hub.repos.values()
    assert (list(hub.repos), repo["private"]) == (["anna/tickets"], True)
    assert set(repo["files"]) == FILES
    for name in FILES - {"README.md", "adapter_config.json", "curves.png"}:
        assert repo["files"][name] == (finished.adapter_dir / name).read_bytes()
    assert repo["message"] == f"{finished.id}, by peft_nb"
    assert repr(found).startswith(f"{finished.id} is uploaded to {hub.address}/anna/tickets: private, 5 files, ")
    assert found.table is not None
    assert dict(zip(found.table["file"], found.table["bytes"], strict=True)) == {
        name: len(held) for name, held in repo["files"].items()
    }
    assert hub.tokens == {f"Bearer {SECRET}"} | ({""} & hub.tokens)
    assert SECRET not in repr(found) + "".join(capfd.readouterr())


def test_nothing_of_this_machine_arrives(
    finished: Run, hub: Hub, base: Path, rows: list[dict[str, str]], spec: Callable[..., RunSpec]
) -> None:
    finished.export("tickets", "hub", public=True)  # without a user: that of the token
    (repo,) = hub.repos.values()
    assert (list(hub.repos), bool(repo["private"])) == (["anna/tickets"], False)
    assert json.loads(repo["files"]["adapter_config.json"])["base_model_name_or_path"] == base.name
    for name in FILES - {"curves.png", "adapter_model.safetensors"}:
        text = repo["files"][name].decode()
        assert str(base) not in text
        assert str(Path.home()) not in text
        assert not [one["answer"] for one in rows if one["answer"] in text]
    card = ModelCard(repo["files"]["README.md"].decode()).data
    assert (card.library_name, card.pipeline_tag) == ("peft", "text-generation")
    assert {result.metric_type for result in card.eval_results} == {"loss", "perplexity"}


def test_a_dry_run_shows_the_files_and_touches_no_network(
    finished: Run, hub: Hub, shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.user_ns["run"] = finished
    monkeypatch.delenv("HF_TOKEN")
    found = shell.run_line_magic("peft", "export run --as hub --to anna/tickets --dry-run")
    assert repr(found).startswith("dry run, nothing is uploaded: to anna/tickets, private, 5 files, ")
    assert set(found.table["file"]) == FILES
    assert hub.seen == []
    told = repr(shell.run_line_magic("peft", "export run --as hub --to anna/tickets --dry-run --public"))
    assert "to anna/tickets, public, 5 files" in told


def test_what_exists_is_changed_only_where_that_is_asked_for(finished: Run, hub: Hub) -> None:
    hub.repos = {"anna/mine": {"private": True, "files": {}}, "anna/shown": {"private": False, "files": {}}}
    told = r"^cannot upload to anna/mine: it exists already; --update adds a commit to it, --to takes another name$"
    with pytest.raises(RunError, match=told):
        finished.export("anna/mine", "hub")
    with pytest.raises(RunError, match=r"^anna/shown is public on the hub; write --public with --update, or another"):
        finished.export("anna/shown", "hub", update=True)
    assert not any(repo["files"] for repo in hub.repos.values())
    finished.export("anna/mine", "hub", update=True)
    finished.export("anna/shown", "hub", update=True, public=True)
    assert all(set(repo["files"]) == FILES for repo in hub.repos.values())


@pytest.mark.parametrize(
    ("part", "status", "told"),
    [
        ("create", 401, "the hub does not accept the token; set HF_TOKEN before the kernel starts, or run hugg"),
        ("create", 403, "the token may not write there; make one with write access"),
        ("create", 404, "the hub has no such user or repository"),
        ("create", 400, "the hub answers 400: refused with 400"),
        ("commit", 403, "the token may not write there"),
        ("large", 403, "the token may not write there"),
    ],
)
def test_refusals_are_one_line(finished: Run, hub: Hub, part: str, status: int, told: str) -> None:
    hub.refuse = {part: status}
    with pytest.raises(RunError) as raised:
        finished.export("anna/tickets", "hub")
    assert str(raised.value).startswith(f"cannot upload to anna/tickets: {told}")
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_without_a_token_and_without_a_network(finished: Run, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    told = rf"^cannot upload to anna/tickets: 127.0.0.1:{port} cannot be reached \(.*\); try again when"
    with pytest.raises(RunError, match=told):
        finished.export("anna/tickets", "hub")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RunError, match=r"^there is no token for the hub; set HF_TOKEN before the kernel starts"):
        finished.export("anna/tickets", "hub")
    assert hub.seen == []


@pytest.mark.parametrize("name", ["/home/anna/tickets", "a/b/c", "anna/ti ckets", "../tickets", "anna/.."])
def test_names_that_the_hub_does_not_take(finished: Run, name: str) -> None:
    with pytest.raises(RunError, match="is no name on the hub; write --to USER/NAME"):
        finished.export(name, "hub", dry_run=True)


def test_a_secret_in_the_settings_stays_here(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store, hub: Hub
) -> None:
    from peft_nb.runs.run import begin

    key = "sk-proj-Zq8vT3nB6xWm2LpR9cYd4KfH7sJg"
    run = begin(spec(system=f"Use the key {key}.", max_steps=1), data=rows, store=store).wait()
    with pytest.raises(RunError, match=r"^spec.yaml holds what looks like a secret; take it out of the run's settings"):
        run.export("anna/tickets", "hub")
    assert hub.seen == []
