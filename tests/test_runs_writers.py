"""Models that write: a tiny one of this machine, and a server on loopback that answers as OpenAI's does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from peft_nb.documents.chunks import Chunk
from peft_nb.documents.templates import Drafted
from peft_nb.errors import DataError
from peft_nb.runs.writers import KEY, local, pairs, remote

CHUNK = Chunk("desk.md", "Returns", "Goods are taken back within 30 days.", "Returns")


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[dict[str, str], dict[str, Any]]]]]:
    """The address of a server, and what it was asked; it answers with the text that it gets."""
    heard: list[tuple[dict[str, str], dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append((dict(self.headers), body))
            if body["model"] == "moved":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()
                return
            text = f"Q: What is said here?\nA: {body['messages'][0]['content'].splitlines()[3]}"
            reply = (
                b"<html>"
                if body["model"] == "odd"
                else json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            )
            self.send_response(401 if body["model"] == "locked" else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/v1", heard
        serving.shutdown()


def test_a_server_writes_and_gets_the_key_of_the_environment(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, heard = server
    monkeypatch.setenv(KEY, "sk-of-nobody")
    made = remote(address, "writer")([CHUNK, CHUNK])
    assert made == [[Drafted("What is said here?", CHUNK.text)]] * 2
    headers, body = heard[0]
    assert headers["Authorization"] == "Bearer sk-of-nobody"
    assert (body["model"], body["temperature"]) == ("writer", 0)
    assert CHUNK.text in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("locked", rf"^127\.0\.0\.1 answers 401 Unauthorized; set {KEY} in the environment$"),
        ("odd", r"^127\.0\.0\.1 answers with what is no chat completion; check the address$"),
        ("moved", r"^127\.0\.0\.1 answers 302 Found$"),
    ],
)
def test_what_a_server_refuses_is_one_line(server: Any, model: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        remote(server[0], model)([CHUNK])


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1 cannot be reached \(.*refused.*\); check the address"):
        remote("http://127.0.0.1:9/v1", "x")([CHUNK])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("api.example.org", "is none; write one such as"),
        ("file:///etc/passwd", "is none; write one such as"),
        ("http://api.example.org/v1", "not sent unencrypted to api.example.org; use https"),
        ("https://me:secret@api.example.org/v1", f"it holds a password; set the key as {KEY}"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(address: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        remote(address, "x")


def test_pairs_are_read_as_models_write_them() -> None:
    text = "Sure!\n**Q1:** When?\n**A1:** Within\n30 days.\n\nQ2: Who pays?\nA2: We do.\nQ: A third?\nA: Too much."
    assert pairs(text) == [Drafted("When?", "Within 30 days."), Drafted("Who pays?", "We do.")]
    assert pairs("I cannot help with that.") == []


def test_a_model_of_this_machine_writes(base: Path) -> None:
    write, parameters = local(str(base))
    assert parameters > 0
    assert write([CHUNK]) == [[]]  # a random one writes nothing that could be read
