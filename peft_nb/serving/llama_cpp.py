"""llama.cpp's own server in a process of its own: a model once, and beside it one LoRA for each version."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from peft_nb.errors import RunError
from peft_nb.events import Progress
from peft_nb.serving import adapter_gguf
from peft_nb.serving.engine import Engine, Files, Load, tell, told
from peft_nb.serving.slots import Slots
from peft_nb.serving.targets import Version
from peft_nb.system.resources import MB


class LlamaCpp(Engine):
    """llama.cpp, on the processor.

    Attributes
    ----------
    slots : Slots
        Where it computes requests.
    """

    name = "llama.cpp"
    blends = True
    options = frozenset({"outtype", "threads"})
    # Threads that wait for each other by spinning keep the ones they wait for from the core, where anything else runs
    # too: on two cores of which one was busy, answers took ten times as long.
    environment: ClassVar = {"OMP_WAIT_POLICY": "passive"}

    def __init__(self, load: Load) -> None:
        self.slots = Slots(load.slots)
        super().__init__(load)

    @staticmethod
    def missing() -> str:
        """Look for xllamacpp."""
        if find_spec("xllamacpp"):
            return ""
        return "to serve, install llama.cpp for Python: pip install 'peft_nb[export]'"

    @staticmethod
    def refusal(version: Version) -> str:
        """Nothing: what it loads as no LoRA answers from a merged model."""
        return ""

    @staticmethod
    def base(folder: Path, outtype: str, progress: Progress) -> Path:
        """Write a GGUF file."""
        return adapter_gguf.base_file(folder, progress, outtype)

    @staticmethod
    def files(version: Version, base: str, folder: Path, outtype: str, apart: bool = True) -> Files:
        """Write the adapter as LoRA GGUF, or what is no LoRA as a merged model."""
        if version.merged:
            file = adapter_gguf.merged_file(version, outtype)
            return Files(str(file), mb=file.stat().st_size / MB)
        write = adapter_gguf.adapter_file_apart if apart else adapter_gguf.adapter_file
        return Files(base, str(write(version, folder)))

    def scales(self, adapters: Mapping[str, float]) -> list[dict[str, float]]:
        """Say how much of each LoRA a request gets: of most nothing.

        llama.cpp takes those that a request leaves out, and all in a request without a list, as they were loaded.
        """
        if lacking := [one for one in adapters if one not in self.load.adapters]:
            raise RunError(f"{Path(lacking[0]).name} is not loaded")
        return [{"id": id, "scale": float(adapters.get(one, 0))} for id, one in enumerate(self.load.adapters)]

    @contextmanager
    def slot(self, adapters: Mapping[str, float], asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Say how much of each LoRA a request gets, and where it is computed."""
        prompt = asked.get("prompt") or "\n".join(str(one.get("content")) for one in asked["messages"])
        with self.slots.of(tuple(sorted(adapters.items())), prompt, several=(asked.get("n") or 1) != 1) as place:
            yield {"lora": self.scales(adapters), **place}

    def adopt(self, load: Load) -> bool:
        """Hold no more than it was started with."""
        return {*load.adapters} <= {*self.load.adapters}


def parameters(load: Load, key: str) -> Any:
    """Write down for llama.cpp what it shall load."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = load.model
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in load.adapters]
    params.n_parallel = load.slots
    params.n_ctx = load.slots * load.context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = load.threads
    params.api_keys = [key]
    # Beside what a slot holds, llama.cpp would take what was computed with another adapter (its issue 26207).
    params.cache_prompt = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.fit_params = params.ui = params.endpoint_slots = params.warmup = False
    params.verbosity = 1  # errors alone: texts of requests belong into no log
    return params


def main() -> None:
    """Be an engine: told on standard input what to load, it says its address and works until that input closes."""
    import xllamacpp

    load, key = told()
    try:
        server = xllamacpp.Server(parameters(load, key))
        tell(address=server.listening_address)
        sys.stdin.read()
    except RuntimeError as error:
        tell(error=f"llama.cpp cannot load {Path(load.model).name} with its adapters: {error}")
    os._exit(0)  # its threads are not waited for


if __name__ == "__main__":
    main()
