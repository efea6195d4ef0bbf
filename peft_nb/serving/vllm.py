"""vLLM's server in a process of its own, on an NVIDIA GPU: the base once, and one LoRA for each version.

Written after vLLM's documentation and its source, and run with a stand-in of its commands alone, for want of a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

from peft_nb.adapters.exporters.vllm import CHAT_TEMPLATE, ENDS, RANKS
from peft_nb.errors import RunError
from peft_nb.events import Progress
from peft_nb.serving import adapter_gguf
from peft_nb.serving.engine import Engine, Files, Load, here, tell, told
from peft_nb.serving.requests import RefusedError
from peft_nb.serving.targets import BASE, Version

LOADING_S = 60.0  # longest that one adapter may take
ENDING_S = 2.0  # after which what is asked to end is killed
# What llama.cpp calls otherwise, and what it alone has; vLLM leaves out in silence what it does not know.
RENAMED = {"repeat_penalty": "repetition_penalty"}
LACKING = {"grammar": "response_format", "json_schema": "response_format"}
ELSEWHERE = "--engine llama.cpp serves it"


class Vllm(Engine):
    """vLLM, on a GPU."""

    name = "vllm"
    mixes = True

    def __init__(self, load: Load) -> None:
        self.rank, self.template = rank(load.adapters), template(load.adapters)
        self.wanted = load.adapters
        super().__init__(load)

    @staticmethod
    def missing() -> str:
        """Look for vLLM's command and for a GPU."""
        if not command_path():
            return "--engine vllm: vLLM is not installed: pip install vllm"
        return "" if which("nvidia-smi") else "--engine vllm: there is no NVIDIA GPU; leave it out for llama.cpp"

    @staticmethod
    def refusal(version: Version) -> str:
        """Say why a version is no LoRA that vLLM loads."""
        why = version.no_vllm or version.merged
        return f"{version.label}: {why}; {ELSEWHERE}" if why else ""

    @staticmethod
    def base(folder: Path, outtype: str, progress: Progress) -> Path:
        """Take the folder itself."""
        return folder

    @staticmethod
    def files(version: Version, base: str, folder: Path, outtype: str, apart: bool = True) -> Files:
        """Write the adapter as ``%peft export --as vllm`` does, always apart: the GPU's memory is the engine's."""
        if why := Vllm.refusal(version):
            raise RunError(why)
        target = version.folder.parent / f"vllm-{adapter_gguf.digest(version)}"
        adapter_gguf.exported(version, target, "vllm", CUDA_VISIBLE_DEVICES="")
        if (target / "tokenizer_config.json").exists():
            raise RunError(f"{version.label} has a tokenizer of its own, and vLLM one for all adapters; {ELSEWHERE}")
        return Files(base, str(target))

    @contextmanager
    def slot(self, adapters: Mapping[str, float], asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Name the adapter, and what vLLM calls otherwise."""
        adapter = next(iter(adapters), None)
        for field in LACKING.keys() & asked.keys():
            raise RefusedError(400, f"{field}: not known to vLLM; write {LACKING[field]}", field=field)
        if adapter is not None and adapter not in self.load.adapters:
            raise RunError(f"{Path(adapter).name} is not loaded")
        renamed = {theirs: asked[ours] for ours, theirs in RENAMED.items() if ours in asked}
        ends = Path(adapter, ENDS) if adapter else None
        if ends and ends.is_file():
            renamed["stop_token_ids"] = [json.loads(ends.read_text(encoding="utf-8"))["eos_token_id"]]
        yield {"model": name_of(adapter) if adapter else BASE, **renamed}

    def adopt(self, load: Load) -> bool:
        """Load what is lacking, and unload what was not wanted last time either: of the rest somebody may be asking."""
        new = [one for one in load.adapters if one not in self.load.adapters]
        if rank(new) > self.rank:
            raise RunError(f"its rank is {rank(new)}, and this server was started for {self.rank}; start it anew")
        if new and template(new) not in ("", self.template):
            raise RunError("its chat template is not that of this server; start it anew")
        for one in new:
            self._tell("load_lora_adapter", lora_name=name_of(one), lora_path=one)
        keep = tuple(dict.fromkeys((*load.adapters, *self.wanted)))
        for one in {*self.load.adapters} - {*keep}:
            self._tell("unload_lora_adapter", lora_name=name_of(one))
        self.wanted, self.load = load.adapters, replace(self.load, adapters=keep)
        return True

    def _tell(self, what: str, **said: str) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            here(Request(f"{self.address}/v1/{what}", json.dumps(said).encode(), headers), timeout=LOADING_S).close()
        except HTTPError as error:
            raise RunError(f"vLLM refuses {what}: {error.read(500).decode(errors='replace')}") from None
        except OSError as error:
            raise RunError(f"vLLM does not answer to {what}: {error}") from None


def name_of(adapter: str) -> str:
    """What vLLM calls an adapter: by its run and what it holds, so that one name never stands for two."""
    return f"{Path(adapter).parent.name}-{Path(adapter).name}"


def rank(adapters: Sequence[str]) -> int:
    """The smallest rank that vLLM can be started with for some adapters."""
    configs = [json.loads(Path(one, "adapter_config.json").read_text(encoding="utf-8")) for one in adapters]
    highest = max((config["r"] for config in configs), default=RANKS[0])
    return next(one for one in RANKS if one >= highest)


def template(adapters: Sequence[str]) -> str:
    """The chat template that adapters bring where their base has none.

    Raises
    ------
    RunError
        If they bring different ones.
    """
    files = [file for one in adapters if (file := Path(one, CHAT_TEMPLATE)).is_file()]
    found = {file.read_text(encoding="utf-8"): str(file) for file in files}
    if len(found) > 1:
        raise RunError(f"these runs have different chat templates, and vLLM one for all adapters; {ELSEWHERE}")
    return next(iter(found), "")


def command_path() -> str | None:
    """Find vLLM's command, first beside this Python."""
    return which("vllm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def command(load: Load, port: int) -> list[str]:
    """Write the command that starts vLLM; its key comes by the environment."""
    config = json.loads(Path(load.model, "config.json").read_text(encoding="utf-8"))
    context = min(load.context, config.get("max_position_embeddings") or load.context)
    words = [command_path() or "vllm", "serve", load.model, "--served-model-name", BASE]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    words += ["--max-model-len", str(context), "--max-num-seqs", str(load.slots)]
    words += ["--generation-config", "vllm"]  # else the base's own temperature and penalties would hold
    if load.adapters:
        together = min(len(load.adapters), load.slots)
        words += ["--enable-lora", "--max-lora-rank", str(rank(load.adapters)), "--max-loras", str(together)]
        words += ["--max-cpu-loras", str(2 * len(load.adapters)), "--lora-modules"]
        words += [json.dumps({"name": name_of(one), "path": one}) for one in load.adapters]
    if template(load.adapters):
        files = [Path(one, CHAT_TEMPLATE) for one in load.adapters]
        words += ["--chat-template", next(str(file) for file in files if file.is_file())]
    return words


def main() -> None:
    """Be an engine: told on standard input what to load, it starts vLLM and works until that input closes."""
    load, key = told()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        command(load, port),
        env={**os.environ, "VLLM_API_KEY": key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # a group of its own, as vLLM starts processes too
    )

    def end() -> None:
        """Wait until nobody needs it any more."""
        sys.stdin.read()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_S)
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    address = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            here(f"{address}/health", timeout=ENDING_S).close()
            break
        except OSError:
            time.sleep(0.2)
    if process.poll() is None:
        tell(address=address)
        process.wait()
    else:
        tell(error=f"vLLM cannot serve {Path(load.model).name} with its adapters; the server's log says why")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
