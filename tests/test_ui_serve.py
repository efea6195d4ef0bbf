from __future__ import annotations

import json
import shlex
from typing import Any

from peft_nb.serving.server import Server
from peft_nb.ui import serve

NUMBERS = {
    "answered": 3,
    "failed": 1,
    "per_second": 0.05,
    "tokens_per_second": 1.234,
    "p50_s": 0.2,
    "p95_s": 1.5,
    "by_version": {},
}
SHARED = [{"version": "<b>@v1", "run": "r", "share": 0.9}, {"version": "<b>@v2", "run": "s", "share": 0.1}]
EMPTY = {**NUMBERS, "answered": 0, "failed": 0, "p50_s": None, "p95_s": None, "versions": []}
STATUS: dict[str, Any] = {
    "state": "ready",
    "inside": 2,
    "troubles": ["<i>: no"],
    "notes": ["<i>@v2 answers from a merged model"],
    "all": NUMBERS,
    "models": {"<b>@production": {**NUMBERS, "versions": SHARED}, "base": EMPTY},
}


def test_a_page_shows_state_traffic_and_shares_and_escapes_names() -> None:
    html = serve.html("http://127.0.0.1:8000", STATUS)
    assert "<b>@" not in html
    assert "<i>" not in html
    assert "<b>http://127.0.0.1:8000: ready</b>" in html
    assert "&lt;b&gt;@v1 90 %, &lt;b&gt;@v2 10 %" in html
    for said in ("200 ms", "1.50 s", "0.05", "1.23", "–", "2 being answered or waiting"):
        assert said in html
    told = serve.text("http://127.0.0.1:8000", STATUS)
    assert "<b>@production (<b>@v1 90 %, <b>@v2 10 %): 3 requests, p95 1.50 s" in told
    assert "  base: 0 requests" in told
    assert "&lt;i&gt;@v2 answers from a merged model" in html
    assert "\nnote: <i>@v2 answers from a merged model\n" in told


def test_a_server_that_was_killed_is_an_alert() -> None:
    status = STATUS | {"state": "ended", "why": "its process was killed by signal 9", "troubles": []}
    html = serve.html("http://127.0.0.1:8000", status)
    assert 'role="alert"><b>http://127.0.0.1:8000: ended: its process was killed by signal 9' in html
    assert "being answered" not in html


def test_snippets_can_be_pasted_and_hold_no_key() -> None:
    told = serve.snippets("http://127.0.0.1:8000", "tickets@production", "MY_KEY")
    words = shlex.split(told["curl"].replace("\\\n", ""))
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"
    assert "Authorization: Bearer $MY_KEY" in words
    assert json.loads(words[-1])["model"] == "tickets@production"
    compile(told["openai"], "openai", "exec")
    assert "api_key=os.environ['MY_KEY']" in told["openai"]
    assert "Authorization" not in serve.snippets("http://127.0.0.1:8000", "m", None)["curl"]


def test_what_goes_on_with_texts_is_asked_for_completions() -> None:
    told = serve.snippets("http://127.0.0.1:8000", "m", None, chat=False)
    words = shlex.split(told["curl"].replace("\\\n", ""))
    assert words[1] == "http://127.0.0.1:8000/v1/completions"
    assert json.loads(words[-1]) == {"model": "m", "prompt": "Hello"}
    compile(told["openai"], "openai", "exec")
    assert "client.completions.create(" in told["openai"]
    server = Server("1-1.00-here", "http://127.0.0.1:8000", ["a plain one"], None)
    plain = {"models": {"a plain one": {**EMPTY, "chat": False}}}
    assert "/v1/completions" in serve.page(server, STATUS | plain)
    assert "/v1/chat/completions" in serve.page(server, STATUS)


def test_a_server_that_is_gone_says_so(tmp_path: object) -> None:
    shown = serve.Serving(Server("999999-1.00-nowhere", "http://127.0.0.1:9", ["tickets"], None))
    assert repr(shown) == "server at http://127.0.0.1:9: ended: its process has ended"
    assert "curl" not in shown._repr_html_()
