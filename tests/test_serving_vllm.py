"""vLLM as an engine. There is no GPU here: a stand-in of its command and HTTP interface says what it was told."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from peft_nb.errors import ModelError, RunError
from peft_nb.events import silent
from peft_nb.runs.run import Run
from peft_nb.serving import adapter_gguf, server, targets
from peft_nb.serving.engine import Load
from peft_nb.serving.requests import RefusedError
from peft_nb.serving.server import Server
from peft_nb.serving.service import Service
from peft_nb.serving.vllm import Vllm, command, name_of, rank, template
from peft_nb.store import Store
from tests import test_serving_targets as serving_targets
from tests.serving import post
from tests.test_serving_service import until

STAND_IN = """#!{python}
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port = int(sys.argv[sys.argv.index("--port") + 1])
known = {{"base"}} | {{json.loads(one)["name"] for one in sys.argv if one.startswith("{{")}}
class Vllm(BaseHTTPRequestHandler):
    def do_GET(self):
        self.tell(200, {{}})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            return self.tell(401, {{"error": {{"message": "Unauthorized"}}}})
        if self.path == "/v1/load_lora_adapter":
            assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
            assert os.path.isfile(body["lora_path"] + "/adapter_model.safetensors")
            known.add(body["lora_name"])
        elif self.path == "/v1/unload_lora_adapter":
            known.remove(body["lora_name"])
        elif body["model"] not in known:
            return self.tell(404, {{"error": {{"message": "no " + body["model"], "type": "NotFoundError"}}}})
        said = json.dumps({{"asked": body, "known": sorted(known), "argv": sys.argv[1:]}})
        self.tell(200, {{"choices": [{{"message": {{"content": said}}}}], "usage": {{"completion_tokens": 1}}}})
    def tell(self, status, said):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", port), Vllm).serve_forever()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A machine with a GPU and vLLM, as far as one can tell by their commands."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in {"vllm": STAND_IN.format(python=sys.executable), "nvidia-smi": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        yield


def adapter(where: Path, r: int, chat_template: str = "") -> str:
    where.mkdir(parents=True)
    (where / "adapter_config.json").write_text(json.dumps({"r": r}))
    (where / "adapter_model.safetensors").touch()
    if chat_template:
        (where / "chat_template.jinja").write_text(chat_template)
    return str(where)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a base, as far as vLLM's command depends on it."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "config.json").write_text('{"max_position_embeddings": 256}')
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two versions of tickets, exported for vLLM."""
    store = Store(tmp_path_factory.mktemp("exports"))
    for _ in range(2):
        version = targets.read(store, "tickets", serving_targets.served(store, "tickets")).main
        adapter(version.folder.parent / f"vllm-{adapter_gguf.digest(version)}", 16)
    return store


@pytest.fixture(scope="module")
def served(exports: Store, plain: Path, installed: None) -> Iterator[Server]:
    """A server through vLLM."""
    exports.promote("tickets@v1", "gpu", why="passed")
    names, folder = {"tickets@gpu": "tickets@gpu"}, str(plain)
    service = Service(names, str(exports.folder), folder, folder, engine="vllm", context=10**6, slots=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # which does not lead to this machine
        one = server.start(service)
        assert one.status()["state"] == "ready"
    yield one
    one.stop()


def told(server: Server, model: str = "tickets@gpu", **fields: Any) -> dict[str, Any]:
    """What vLLM was told to answer."""
    found: dict[str, Any] = json.loads(
        post(server, model, **fields).raise_for_status().json()["choices"][0]["message"]["content"]
    )
    return found


def test_vllm_is_told_the_base_its_adapters_and_bounds(served: Server, plain: Path, exports: Store) -> None:
    argv = told(served)["argv"]
    assert argv[:4] == ["serve", str(plain), "--served-model-name", "base"]
    options = dict(zip(argv[4::2], argv[5::2], strict=False))
    assert options["--host"] == "127.0.0.1"
    assert options["--max-model-len"] == "256"  # as much as the base takes
    assert options["--max-num-seqs"] == "3"
    assert options["--generation-config"] == "vllm"
    lora = argv[argv.index("--enable-lora") + 1 :]
    assert lora[:7] == ["--max-lora-rank", "16", "--max-loras", "1", "--max-cpu-loras", "2", "--lora-modules"]
    module = json.loads(lora[7])
    run = exports.get("tickets@v1")
    assert Path(module["path"]).parent == run.folder
    assert module["name"] == f"{run.id}-{Path(module['path']).name}"
    assert not [word for word in argv if "key" in word]
    engine, *_ = psutil.Process(int(served.owner.partition("-")[0])).children()
    assert engine.environ().get("VLLM_API_KEY") is None  # it comes through a pipe, and is in vLLM's environment alone


def test_a_request_names_its_adapter_and_what_vllm_calls_otherwise(served: Server) -> None:
    asked = told(served, repeat_penalty=1.2)["asked"]
    assert asked["model"].startswith("lora-")
    assert (asked["temperature"], asked["top_k"], asked["repetition_penalty"]) == (0.0, 0, 1.2)
    assert told(served, "base")["asked"]["model"] == "base"
    refused = post(served, "tickets@gpu", grammar="root ::= 'a'")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "grammar")
    assert post(served, "tickets@gpu").json()["model"] == "tickets@v1"


def test_promoted_versions_are_loaded_into_the_engine_that_runs(served: Server, exports: Store) -> None:
    children = psutil.Process(int(served.owner.partition("-")[0])).children
    (engine,), first = children(), told(served)["asked"]["model"]
    exports.promote("tickets@v2", "gpu", why="better")
    until(lambda: post(served, "tickets@gpu").json()["model"] == "tickets@v2", 120)
    now = told(served)
    assert now["asked"]["model"] != first
    assert now["known"] == sorted(["base", first, now["asked"]["model"]])  # the first may still be answering
    exports.rollback("gpu")
    until(lambda: post(served, "tickets@gpu").json()["model"] == "tickets@v1")
    assert told(served)["asked"]["model"] == first
    assert children() == [engine]


def test_vllm_ends_with_its_server_and_is_replaced_when_it_dies(served: Server) -> None:
    (engine,) = psutil.Process(int(served.owner.partition("-")[0])).children()
    (vllm,) = engine.children()
    vllm.kill()
    assert told(served)["asked"]["model"].startswith("lora-")  # by the one that took its place
    assert not engine.is_running()
    (engine,) = psutil.Process(int(served.owner.partition("-")[0])).children()
    (vllm,) = engine.children()
    psutil.Process(int(served.owner.partition("-")[0])).kill()
    end = time.monotonic() + 10
    while vllm.is_running() and time.monotonic() < end:
        time.sleep(0.05)
    assert not vllm.is_running()


def test_without_vllm_or_a_gpu_it_is_not_chosen(
    exports: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Vllm.missing() == "--engine vllm: vLLM is not installed: pip install vllm"
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    with pytest.raises(RunError, match="^--engine vllm: there is no NVIDIA GPU; leave it out for llama.cpp$"):
        server.prepared({"a": "tickets@v1"}, exports, silent, engine="vllm")


def test_what_one_server_cannot_hold_together_is_refused(tmp_path: Path) -> None:
    small, large = adapter(tmp_path / "run-1/vllm-a", 4, "one"), adapter(tmp_path / "run-2/vllm-b", 12, "one")
    other = adapter(tmp_path / "run-3/vllm-a", 4, "other")
    assert (rank([]), rank([small]), rank([small, large])) == (1, 8, 16)
    assert (template([small, large]), name_of(small)) == ("one", "run-1-vllm-a")
    with pytest.raises(RunError, match="different chat templates.*--engine llama.cpp serves it"):
        template([small, other])
    (tmp_path / "config.json").write_text("{}")
    load = Load(str(tmp_path), (small,), slots=2, context=100, threads=1)
    words = command(load, 1)
    assert words[words.index("--chat-template") + 1] == f"{small}/chat_template.jinja"
    assert words[words.index("--max-model-len") + 1] == "100"

    engine = Vllm(load)  # whose process ends, as there is no vLLM
    try:
        with pytest.raises(RunError, match="its rank is 16, and this server was started for 8; start it anew"):
            engine.adopt(replace(load, adapters=(small, large)))
        with pytest.raises(RunError, match="its chat template is not that of this server"):
            engine.adopt(replace(load, adapters=(other,)))
        told = "json_schema: not known to vLLM; write response_format"
        with pytest.raises(RefusedError, match=told), engine.slot({small: 1.0}, {"json_schema": {}}):
            pass
        (Path(small) / "generation_config.json").write_text('{"eos_token_id": 7}')
        with engine.slot({small: 1.0}, {}) as place:
            assert place == {"model": "run-1-vllm-a", "stop_token_ids": [7]}
        with pytest.raises(RunError, match="vllm-b is not loaded"), engine.slot({large: 1.0}, {}):
            pass
    finally:
        engine.close()


def test_an_adapter_is_exported_once_and_what_is_no_lora_refused(
    desk: dict[str, Run], base: Path, installed: None
) -> None:
    store = Store(desk["manners@v2"].folder.parents[1])
    service = server.prepared({"a": "tickets@v1"}, store, silent)
    assert (service.engine, service.base_file) == ("vllm", str(base))  # chosen by itself
    lora, dora = (targets.read(store, word, word).main for word in ("tickets@v1", "manners@v2"))
    written = Path(Vllm.files(lora, str(base), base, "f16").adapter or "")
    assert written.parent == desk["tickets@v1"].folder
    stamp = (written / "adapter_model.safetensors").stat().st_mtime_ns
    Vllm.files(lora, str(base), base, "f16")
    assert (written / "adapter_model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(RunError, match="^manners@v2: vLLM loads no adapter with use_dora; .*; --engine llama.cpp ser"):
        Vllm.files(dora, str(base), base, "f16")
    four = replace(lora, merged="it was trained on the base in 4bit")
    assert Vllm.refusal(four) == "tickets@v1: it was trained on the base in 4bit; --engine llama.cpp serves it"


def test_an_adapter_is_unloaded_one_promotion_after_it_was_replaced(installed: None, tmp_path: Path) -> None:
    first, second, third = (adapter(tmp_path / f"run-{n}/vllm-a", 8) for n in (1, 2, 3))
    (tmp_path / "config.json").write_text("{}")
    load = Load(str(tmp_path), (first,), slots=2, context=100, threads=1)
    engine = Vllm(load)
    try:
        engine.wait()
        assert httpx.post(f"{engine.address}/v1/chat/completions", json={"model": "base"}).status_code == 401

        def known() -> list[str]:
            body, key = {"model": "base"}, {"Authorization": f"Bearer {engine.key}"}
            answer = httpx.post(f"{engine.address}/v1/chat/completions", json=body, headers=key).json()
            names: list[str] = json.loads(answer["choices"][0]["message"]["content"])["known"]
            return names

        names = [name_of(one) for one in (first, second, third)]
        assert known() == ["base", names[0]]
        assert engine.adopt(replace(load, adapters=(second,)))
        assert known() == ["base", *names[:2]]  # somebody may still be asking the first
        assert engine.adopt(replace(load, adapters=(third,)))
        assert known() == ["base", *names[1:]]
        assert engine.adopt(replace(load, adapters=(third,)))
        assert known() == ["base", names[2]]
        assert engine.load.adapters == (third,)
    finally:
        engine.close()


def test_a_vllm_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "config.json").write_text("{}")
    engine = Vllm(Load(str(tmp_path), (), slots=1, context=64, threads=1))
    with pytest.raises(ModelError, match="vLLM cannot serve .* with its adapters; the server's log says why"):
        engine.wait()
    assert not engine.alive
