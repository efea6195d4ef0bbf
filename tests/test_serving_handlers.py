"""What clients see: answers of the right adapter, and refusals that say why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from peft_nb.evaluation.generate import generate
from peft_nb.runs.run import Run
from peft_nb.serving.front import Front, Limits
from peft_nb.serving.handlers import application
from peft_nb.serving.server import Server
from peft_nb.serving.targets import Target
from peft_nb.store.votes import feedback
from tests.serving import PROMPTS, TOKENS, post, said
from tests.test_serving_targets import ONE

MODELS = ["tickets@v1", "tickets@v2", "manners@v1", "base"]


@pytest.fixture(scope="module")
def expected(desk: dict[str, Run], base: Path) -> dict[str, list[str]]:
    """What transformers answers, greedily."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    told = {word: desk[word].generate(PROMPTS, max_new_tokens=TOKENS) for word in MODELS[:3]}
    return told | {"base": generate(plain, AutoTokenizer.from_pretrained(base), PROMPTS, max_new_tokens=TOKENS)}


def test_greedy_answers_are_those_of_transformers_with_that_adapter(
    served: Server, expected: dict[str, list[str]]
) -> None:
    assert len({tuple(answers) for answers in expected.values()}) == len(MODELS)
    assert {model: [said(served, model, prompt) for prompt in PROMPTS] for model in MODELS} == expected


def test_no_request_among_many_gets_the_wrong_adapter(served: Server, expected: dict[str, list[str]]) -> None:
    asked = [(model, row) for _ in range(4) for row in range(len(PROMPTS)) for model in MODELS]
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda one: said(served, one[0], PROMPTS[one[1]]), asked))
    assert told == [expected[model][row] for model, row in asked]


def test_an_answer_says_which_version_it_is_of(served: Server) -> None:
    answer = post(served, "manners@v1")
    assert (answer.json()["model"], answer.headers["x-model-version"]) == ("manners@v1", "manners@v1")
    assert post(served, "base").json()["model"] == "base"
    listed = httpx.get(f"{served.address}/v1/models").json()["data"]
    assert [one["id"] for one in listed] == MODELS


def test_a_stream_is_the_same_answer_in_events(served: Server) -> None:
    whole = said(served, "tickets@v2")
    for usage in (False, True):
        answer = post(
            served, "tickets@v2", stream=True, **({"stream_options": {"include_usage": True}} if usage else {})
        )
        assert answer.headers["content-type"] == "text/event-stream"
        *events, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert done == "[DONE]"
        chunks = list(map(json.loads, events))
        assert {chunk["model"] for chunk in chunks} == {"tickets@v2"}
        parts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
        assert "".join(parts).strip() == whole
        assert any("usage" in chunk for chunk in chunks) is usage


def test_a_plain_prompt_is_continued_as_it_stands(served: Server) -> None:
    text = "<|im_start|>user\nWhere is my parcel?<|im_end|>\n<|im_start|>assistant\n"
    body = {"model": "tickets@v1", "prompt": text, "max_tokens": TOKENS}
    answer = httpx.post(f"{served.address}/v1/completions", json=body).json()
    assert answer["choices"][0]["text"].strip() == said(served, "tickets@v1", "Where is my parcel?")


def test_a_prompt_that_is_too_long_is_refused(served: Server) -> None:
    answer = post(served, "base", "word " * 2000)
    assert answer.status_code == 400
    assert "exceeds the available context size" in answer.json()["error"]["message"]
    assert post(served, "base", "word " * 2000, stream=True).status_code == 400


def test_a_client_says_what_it_thinks_of_an_answer(served: Server, desk: dict[str, Run]) -> None:
    def tell(**body: Any) -> httpx.Response:
        return httpx.post(f"{served.address}/v1/feedback", json=body)

    answer = post(served, "tickets@v1", "May I ask?").json()
    streamed = post(served, "tickets@v2", "May I ask?", stream=True).text
    ids = {json.loads(line[6:])["id"] for line in streamed.splitlines() if line.startswith("data: {")}
    assert len(ids) == 1
    assert tell(id=answer["id"], thumb="up").json() == {"id": answer["id"], "object": "feedback"}
    assert tell(id=ids.pop(), edit="You may.").status_code == 200
    rows = {row["run"]: row for row in feedback(desk["tickets@v1"].store.votes()) if row["prompt"] == "May I ask?"}
    first, second = (rows[desk[word].id] for word in ("tickets@v1", "tickets@v2"))
    assert (first["answer"], first["thumb"]) == (answer["choices"][0]["message"]["content"].strip(), True)
    assert (second["thumb"], second["edited"]) == (None, "You may.")
    assert (unknown := tell(id="nothing", thumb="up")).status_code == 404
    assert "there is no answer 'nothing'" in unknown.json()["error"]["message"]
    assert tell(id=post(served, "base").json()["id"], thumb="up").status_code == 400
    plain = httpx.post(f"{served.address}/v1/feedback", content=b"{}")
    assert plain.status_code == 415


Ask = Callable[..., Awaitable[httpx.Response]]


def in_front(front: Front, asking: Callable[[Ask], Awaitable[None]]) -> None:
    """Ask a front that has no engine."""

    async def work() -> None:
        sock, port = bind_unused_port()
        http = HTTPServer(application(front), max_body_size=10_000)
        http.add_sockets([sock])
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def ask(path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
                return await client.request("GET" if path[1:2] != "v" else "POST", path, **options)

            await asking(ask)
        http.stop()

    asyncio.run(work())


BODY = {"model": "tickets", "messages": [{"role": "user", "content": "Hello"}]}


def front(**options: Any) -> Front:
    usual: dict[str, Any] = {"limits": Limits(1, 1, 1000), "key": None, "hosts": {"127.0.0.1"}}
    made = Front(**usual | options)
    made.targets = {"tickets": Target("tickets", ONE)}
    return made


def test_what_is_wrong_with_a_request_is_said_in_the_form_of_openai() -> None:
    async def asking(ask: Ask) -> None:
        for status, why, options in (
            (404, "there is no model 'nope' here; write one of tickets, base", {"json": BODY | {"model": "nope"}}),
            (400, "the request is no JSON: ", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
            (415, "send JSON with Content-Type: application/json", {"content": b"{}"}),
            (413, "the request is larger than 0.001 MB; shorten it", {"json": BODY | {"user": "x" * 1000}}),
            (403, "no host 'evil.example' is served here", {"json": BODY, "headers": {"Host": "evil.example"}}),
            (404, "/v1/nothing: not served", {"path": "/v1/nothing"}),
        ):
            answer = await ask(**options)  # type: ignore[arg-type]
            error = answer.json()["error"]
            assert answer.status_code == status
            assert error["message"].startswith(why)
            assert error.keys() == {"message", "type", "param", "code"}

    in_front(front(), asking)


def test_a_key_is_asked_for_where_one_is_required() -> None:
    async def asking(ask: Ask) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}):
            for path in ("/v1/chat/completions", "/status"):
                answer = await ask(path, headers=headers, **({"json": BODY} if "v1" in path else {}))
                assert answer.status_code == 401
                assert "secret" not in answer.text
        assert (await ask("/health")).status_code == 503  # for whoever looks after processes
        assert (await ask("/status", headers={"Authorization": "Bearer secret"})).json()["state"] == "loading"

    in_front(front(key="secret"), asking)


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    busy = front()

    async def asking(ask: Ask) -> None:
        waiting = [asyncio.create_task(ask(json=BODY)) for _ in range(2)]  # there is no engine yet
        while busy.inside < 2:
            await asyncio.sleep(0.01)
        answer = await ask(json=BODY)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["error"]["message"] == "2 requests are being answered or wait; try again"
        for task in waiting:
            task.cancel()

    in_front(busy, asking)
