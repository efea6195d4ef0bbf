"""A server follows the store."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from peft_nb.errors import MethodError, RunError
from peft_nb.runs.run import Run
from peft_nb.serving import adapter_gguf, targets
from peft_nb.serving.server import Server
from peft_nb.serving.service import PORTS, Service, key_of, listen
from peft_nb.store import Store
from tests.serving import TOKENS, post, said, serve


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def store(desk: dict[str, Run]) -> Store:
    return Store(desk["manners@v2"].folder.parents[1])


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "answers.jsonl"


@pytest.fixture(scope="module")
def following(desk: dict[str, Run], log: Path) -> Iterator[Server]:
    """A server of aliases that tests move."""
    store = Store(desk["manners@v2"].folder.parents[1])
    store.promote("tickets@v1", "production", why="passed")
    store.promote("manners@v1", "candidate", why="try")
    server = serve(store, "tickets@production", "manners@candidate", log=str(log))
    yield server
    server.stop()


PRODUCTION = "tickets@production"


def test_a_promotion_and_a_rollback_need_no_restart_and_lose_no_request(
    following: Server, store: Store, desk: dict[str, Run]
) -> None:
    process = following.owner
    first = said(following, PRODUCTION)
    store.promote("tickets@v2", "production", why="better")
    asked: list[str] = []

    def now() -> str:
        answer = post(following, PRODUCTION)
        assert answer.status_code == 200
        asked.append(answer.json()["model"])
        return asked[-1]

    until(lambda: now() == "tickets@v2")
    assert asked == sorted(asked)  # the old one until the new one, and never again
    second = said(following, PRODUCTION)
    assert second == desk["tickets@v2"].generate("Where is my parcel?", max_new_tokens=TOKENS) != first
    store.rollback(PRODUCTION)
    until(lambda: now() == "tickets@v1")
    assert said(following, PRODUCTION) == first
    assert (following.owner, following.alive) == (process, True)


def test_two_versions_answer_by_share_of_users_until_it_is_rolled_back(
    following: Server, store: Store, log: Path
) -> None:
    store.promote("tickets@v2", "production", why="try", share=0.3)
    until(lambda: len(following.status()["models"][PRODUCTION]["versions"]) == 2)
    target = targets.read(store, PRODUCTION, PRODUCTION)
    users = [f"user {n}" for n in range(24)]
    told = {user: post(following, PRODUCTION, user=user).json()["model"] for user in users}
    assert told == {user: target.choose(user).label for user in users}
    assert set(told.values()) == {"tickets@v1", "tickets@v2"}
    assert told == {user: post(following, PRODUCTION, user=user).headers["x-model-version"] for user in users}
    lines = [json.loads(line) for line in log.read_text().splitlines()][-24:]
    assert [line["version"] for line in lines] == list(told.values())
    assert "parcel" not in log.read_text()
    assert "user 1" not in log.read_text()
    store.rollback("production")
    until(lambda: len(following.status()["models"][PRODUCTION]["versions"]) == 1)
    assert {post(following, PRODUCTION, user=user).json()["model"] for user in users} == {"tickets@v1"}


def test_what_cannot_be_served_changes_nothing_and_is_told(following: Server, store: Store) -> None:
    before = said(following, "manners@candidate")
    store.promote("manners@v3", "candidate", why="newest")
    until(lambda: following.status()["troubles"])
    (told,) = following.status()["troubles"]
    assert told.startswith("manners@candidate: manners@v3: llama.cpp loads no adapter of PEFT's type PROMPT_TUNING, ")
    assert told.endswith("; manners@v1 goes on answering")
    assert said(following, "manners@candidate") == before
    store.rollback("manners@candidate")
    until(lambda: not following.status()["troubles"])
    assert said(following, "manners@candidate") == before


def test_a_file_that_the_engine_cannot_load_changes_nothing(following: Server, store: Store) -> None:
    before = said(following, "manners@candidate")
    broken = adapter_gguf.merged_path(targets.read(store, "heavy", "manners@v2").main, "f32")
    broken.write_text("no model")
    try:
        store.promote("manners@v2", "candidate", why="newest")
        until(lambda: following.status()["troubles"])
        (told,) = following.status()["troubles"]
        assert "llama.cpp cannot load" in told
        assert said(following, "manners@candidate") == before
        assert post(following, PRODUCTION).status_code == 200
        assert len(engines(following)) == 1
    finally:
        broken.unlink()
        store.rollback("manners@candidate")
    until(lambda: not following.status()["troubles"])


def engines(server: Server) -> list[psutil.Process]:
    return psutil.Process(int(server.owner.partition("-")[0])).children()


def merging(server: Server) -> list[psutil.Process]:
    return [one for one in engines(server) if "export" in one.cmdline()]


def test_a_dora_is_merged_and_answers_from_a_model_of_its_own_until_it_is_rolled_back(
    following: Server, store: Store, desk: dict[str, Run]
) -> None:
    before, (base,) = said(following, PRODUCTION), engines(following)
    store.promote("manners@v2", "candidate", why="newest")
    until(lambda: merging(following))
    (merge,) = merging(following)
    merge.suspend()  # it takes as long as one likes
    base.kill()
    assert said(following, PRODUCTION) == before  # by the engine that took its place meanwhile
    base = next(one for one in engines(following) if one != merge)
    merge.resume()
    until(lambda: post(following, "manners@candidate").json()["model"] == "manners@v2", 120)
    assert said(following, "manners@candidate") == desk["manners@v2"].generate(
        "Where is my parcel?", max_new_tokens=TOKENS
    )
    assert said(following, PRODUCTION) == before
    (note,) = following.status()["notes"]
    assert note.startswith("manners@v2 answers from a merged model of its own (llama.cpp loads no DoRA), ")
    assert note.endswith(" MB beside the base")
    proof = adapter_gguf.merged_path(targets.read(store, "heavy", "manners@v2").main, "f32").with_suffix(".proof.json")
    checks = {row["check"]: row["found"] for row in json.loads(proof.read_text())["checks"]}
    assert float(checks["KL divergence, nats per token"]) <= 1e-3
    assert store.verify("manners@v2") == {}
    assert base in engines(following)  # the LoRAs were not loaded again
    (own,) = [one for one in engines(following) if one != base]
    own.kill()
    assert post(following, "manners@candidate").json()["model"] == "manners@v2"  # by the engine that took its place
    store.rollback("manners@candidate")
    until(lambda: engines(following) == [base])
    assert following.status()["notes"] == []
    assert post(following, "manners@candidate").json()["model"] == "manners@v1"


def test_a_server_that_is_stopped_does_not_wait_for_a_merge(store: Store, desk: dict[str, Run]) -> None:
    store.promote("manners@v1", "stopped", why="try")
    server = serve(store, "manners@stopped")
    adapter_gguf.merged_path(targets.read(store, "heavy", "manners@v2").main, "f32").unlink(missing_ok=True)
    store.promote("manners@v2", "stopped", why="newest")
    until(lambda: merging(server))
    (merge,) = merging(server)
    merge.suspend()
    server.stop(wait_s=8)
    assert server.process
    assert server.process.returncode == 0  # not killed
    assert not merge.is_running()


def test_an_engine_that_dies_is_replaced_and_no_request_is_lost(following: Server) -> None:
    before = said(following, PRODUCTION)
    (engine,) = engines(following)
    engine.kill()
    assert said(following, PRODUCTION) == before  # by the engine that took its place
    assert following.status()["state"] == "ready"


def test_what_is_neither_a_lora_nor_merges_is_refused_with_what_works(store: Store) -> None:
    with pytest.raises(MethodError, match="^manners@v3: llama.cpp loads no .* cannot be merged; generate"):
        serve(store, "manners")


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port} can be used on|port {port} .*choose another with --port"):
            listen("127.0.0.1", port)
    free = listen("127.0.0.1", 0)
    assert free.getsockname()[1] in PORTS
    free.close()


def test_a_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    assert key_of(None) is None
    with pytest.raises(RunError, match="--key-from MY_KEY: this environment variable is not set"):
        key_of("MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret")
    assert key_of("MY_KEY") == "secret"


def test_a_service_is_written_down_without_its_key() -> None:
    service = Service({"a": "b"}, "store", "folder", "file", key_from="HOME")
    assert Service.from_json(service.to_json()) == service
    assert os.environ["HOME"] not in service.to_json()
