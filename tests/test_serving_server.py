"""A server from the notebook's side."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import psutil
import pytest

from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.serving import server
from peft_nb.serving.server import Server
from peft_nb.store import Store
from peft_nb.system import files
from tests.conftest import Python
from tests.serving import post, serve

STARTS = """
import sys
from peft_nb.store import Store
from tests.serving import serve
server = serve(Store(sys.argv[1]), "manners@v1", detach=sys.argv[2] == "detach")
print(server.owner, server.address, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store(desk: dict[str, Run]) -> Store:
    return Store(desk["manners@v2"].folder.parents[1])


def gone(owner: str) -> bool:
    """Wait until a process has ended."""
    until = time.monotonic() + 15
    while files.alive(owner) and time.monotonic() < until:
        time.sleep(0.05)
    return files.alive(owner) is False


def test_a_key_is_required_and_stands_nowhere(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_KEY", "s3cret-of-mine")
    one = serve(store, "manners@v1", key_from="SERVE_KEY")
    try:
        assert post(one, "manners@v1").status_code == 401
        assert one.status()["state"] == "ready"
        assert [found.address for found in server.running(store) if found.key_from] == [one.address]
        for file in (store.folder / "servers").iterdir():
            assert "s3cret" not in file.read_text()
        assert "s3cret" not in " ".join(psutil.Process(int(one.owner.partition("-")[0])).cmdline())
    finally:
        one.stop()
    assert one.status() == {"state": "stopped", "why": "stopped"}
    with pytest.raises(httpx.ConnectError):
        post(one, "manners@v1")
    assert one.address not in [found.address for found in server.running(store)]


def test_a_server_ends_with_its_kernel_unless_detached(store: Store, python: Python) -> None:
    import subprocess

    for detach in ("", "detach"):
        process = python("-c", STARTS, store.folder, detach, stdin=subprocess.PIPE, cwd=Path(__file__).parents[1])
        assert process.stdout
        owner, address = process.stdout.readline().split()
        engines = psutil.Process(int(owner.partition("-")[0])).children()
        assert len(engines) == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not detach:
            assert gone(owner)
            continue
        time.sleep(1.2)  # two looks
        (left,) = [one for one in server.running(store) if one.address == address]
        assert post(left, "manners@v1").status_code == 200
        os.kill(int(owner.partition("-")[0]), signal.SIGKILL)
        assert gone(owner)
        until = time.monotonic() + 15
        while engines[0].is_running() and engines[0].status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            time.sleep(0.05)
        assert not engines[0].is_running() or engines[0].status() == psutil.STATUS_ZOMBIE
        assert left.status() == {"state": "ended", "why": "its process has ended"}


def test_what_others_can_reach_needs_a_key(store: Store) -> None:
    with pytest.raises(RunError, match=r"--host 0\.0\.0\.0 can be reached by others; require a key with --key-from"):
        serve(store, "manners@v1", host="0.0.0.0")


def test_why_it_did_not_start_is_one_line(store: Store, served: Server) -> None:
    port = int(served.address.rpartition(":")[2])
    with pytest.raises(RunError, match=f"port {port} .*choose another with --port"):
        serve(store, "manners@v1", port=port)
