from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest
from IPython.core.interactiveshell import InteractiveShell

import peft_nb
from peft_nb.errors import CommandError, RunError, StoreError
from peft_nb.runs.run import Run
from peft_nb.store import Store
from tests.conftest import Python
from tests.serving import PROMPTS, TOKENS, post, said
from tests.shell import refused, run
from tests.test_ui_router import never_for_guests

SMALL = "--threads 1 --context 512"


@pytest.fixture
def store(shell: InteractiveShell, desk: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> Store:
    folder = desk["manners@v2"].folder.parents[1]
    monkeypatch.setenv("PEFT_NB_STORE", str(folder))
    return Store()


def test_runs_of_variables_and_of_the_store_are_served_shown_and_stopped(
    shell: InteractiveShell, store: Store, desk: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns["mine"] = desk["tickets@v2"]
    shown = run(shell, f"%peft serve mine manners@v1 {SMALL}")
    server = shown.server
    try:
        assert server.names == ("tickets", "manners@v1")
        assert said(server, "tickets") == desk["tickets@v2"].generate(PROMPTS[0], max_new_tokens=TOKENS)
        assert f"server at {server.address}: ready" in repr(shown)
        assert "  tickets (tickets@v2): 1 request" in repr(shown)
        again = run(shell, "%peft serve")
        assert (again.server.address, again.server.names) == (server.address, server.names)
        assert "no server of manners@v2 runs" in refused(shell, "%peft serve manners@v2 --stop", RunError)
        capsys.readouterr()
        run(shell, "%peft serve --stop tickets")
        assert capsys.readouterr().out == f"stopped: tickets, manners@v1 at {server.address}\n"
        assert not server.alive
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("nobody", StoreError, "there is no run 'nobody'"),
        ("manners@v1 --port x", CommandError, "--port x: not a number"),
        (
            "manners@v1 --log-texts",
            CommandError,
            "--log-texts: there is no log of answers",
        ),
        ("manners@v1 --engine vlm", CommandError, "--engine vlm: "),
        ("manners@v1 --engine vllm", RunError, "--engine vllm: vLLM is not installed: pip install vllm"),
        ("manners@v1 --slots 0", CommandError, "--slots 0: write at least 1"),
        ("manners@v1 --key-from NO_SUCH_KEY", RunError, "this environment variable is not set"),
        ("manners@v1 --host 0.0.0.0", RunError, "require a key with --key-from"),
        ("manners@v1 tickets@production2", StoreError, "there is no run 'tickets@production2'"),
    ],
)
def test_a_mistake_is_one_line(
    shell: InteractiveShell, store: Store, line: str, kind: type[CommandError], told: str
) -> None:
    assert told in refused(shell, f"%peft serve {line}", kind)


def test_a_terminal_serves_until_it_is_interrupted(store: Store, python: Python) -> None:
    process = python("-m", "peft_nb", "serve", "manners@v1", *SMALL.split(), cwd=Path(__file__).parents[1])
    assert process.stdout
    told = process.stdout.readline()
    assert told.startswith("serving manners@v1 at http://127.0.0.1:")
    assert httpx.get(f"{told.split()[-1]}/health").json() == {"status": "ok"}
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


def test_a_router_is_served_as_a_model_that_says_who_answered(
    shell: InteractiveShell, kinds: dict[str, Run], encoder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(kinds["fruit"].store.folder))
    shell.user_ns["gate"] = peft_nb.route(*kinds.values(), "base", encoder=str(encoder))
    shell.user_ns["fruit"] = peft_nb.route(kinds["tool"], encoder=str(encoder))
    assert "fruit is the name of a router and of a run" in refused(shell, "%peft serve gate fruit", RunError)
    shell.user_ns["pair"] = peft_nb.route(*kinds.values(), encoder=str(encoder), blend=2, policy=never_for_guests)
    shown = run(shell, f"%peft serve gate pair {SMALL} --log {tmp_path / 'log.jsonl'}")
    server = shown.server
    try:
        assert server.names == ("fruit", "tool", "gate", "pair")
        for prompt in ("plum fig plum apple", "nail saw nail drill"):
            expected = shell.user_ns["gate"].route(prompt)
            answer = post(server, "gate", prompt)
            assert answer.headers["X-Routed-To"] == expected.name
            assert float(answer.headers["X-Route-Confidence"]) == pytest.approx(expected.confidence, abs=2e-3)
            assert answer.json()["choices"] == post(server, expected.name, prompt).json()["choices"]
        assert "write one of fruit, tool, gate, pair, base" in post(server, "gat").text
        assert httpx.get(f"{server.address}/v1/models").json()["data"][2]["id"] == "gate"
        mixed = "plum saw plum saw"
        expected = shell.user_ns["pair"].route(mixed)
        answer = post(server, "pair", mixed)
        weights = [part.split("=") for part in answer.headers["X-Blended"].split(", ")]
        assert {name: float(weight) for name, weight in weights} == expected.weights
        assert answer.headers["X-Routed-To"] == expected.name
        guest = post(server, "pair", mixed, user="guest")
        assert guest.headers["X-Routed-To"] == "base"
        assert "X-Blended" not in guest.headers
        told = server.status()["models"]["gate"]
        assert (told["answered"], sum(told["by_version"].values())) == (2, 2)
        first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
        assert (first["router"], first["why"]) == ("gate", "nearest rows")
        assert 0 < first["confidence"] <= 1
    finally:
        server.stop()
