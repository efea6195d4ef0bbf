"""A run's LoRA as a GGUF file, to be put on its base's GGUF file in llama.cpp."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter
from peft_nb.adapters.exporters.gguf import asked, check, explained, kept, workspace
from peft_nb.adapters.gguf.lora import lora_obstacle
from peft_nb.adapters.gguf.model import obstacle as unlike
from peft_nb.methods import REGISTRY
from peft_nb.system.files import atomic_file
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS


def obstacle(run: Exportable) -> str:
    """Say why llama.cpp cannot load a run's adapter, in one line, or nothing."""
    if not TASKS[run.spec.task].generates:
        return f"task: {run.spec.task} trains a head, which GGUF files do not hold; --as adapter writes it as it is"
    if (held := REGISTRY[run.spec.method].quantization(run.spec)) != "none":
        return (
            f"quantization: the LoRA was trained on a base in {held} and differs on its original; --as gguf measures it"
        )
    settings = json.loads((run.adapter() / "adapter_config.json").read_text(encoding="utf-8"))
    if why := lora_obstacle(settings):
        return why
    config = run.config()
    return unlike(config) if config else ""


def write(run: Exportable, file: Path) -> Exported:
    """Write a run's LoRA as a GGUF file, its numbers in float32; the proof is kept beside it as JSON.

    Parameters
    ----------
    run : Exportable
        A run to which :func:`obstacle` has no objection.
    file : Path
        The file; there must be none yet.

    Returns
    -------
    Exported
        With how near llama.cpp's answers, with the base in float16 and this file, are to the run's.

    Raises
    ------
    MergeError
        llama.cpp answers otherwise; nothing is kept.
    ModelError
        The base or the adapter cannot be written so.
    StoreError
        The file exists, or the disk refuses; nothing half-written stays.
    """
    from peft_nb.adapters.gguf import prove, write_lora, write_model
    from peft_nb.adapters.gguf.model import notes

    check(file, "f16")
    base, adapter = run.base(), run.adapter()
    with run.live() as live:
        prompts = asked(live)
    with atomic_file(file) as staging:
        write_lora(adapter, base, staging)
        with workspace(file) as work:
            whole = write_model(base, work / "base.gguf", outtype="f16", progress=run.progress)
            found = partial(prove, whole, base, prompts, adapter=adapter, lora=staging, progress=run.progress)
            proof = explained(partial(found, notes=notes(base)), "f16")
        size = staging.stat().st_size / MB
    told = f"{run.id} is exported to {file}: LoRA for its base's GGUF file, {size:,.1f} MB; {proof.told}"
    return kept(file, told, proof)


EXPORTER = Exporter("lora-gguf", "the LoRA alone for llama.cpp, beside its base's GGUF", "-lora.gguf", write, obstacle)
