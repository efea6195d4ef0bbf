"""A run's LoRA as a GGUF file, to be put on its base's GGUF file in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter
from peft_nb.adapters.exporters.gguf_file import cannot, kept, proven, workspace
from peft_nb.adapters.gguf.lora import lacking
from peft_nb.methods import REGISTRY

if TYPE_CHECKING:
    from peft_nb.adapters.gguf import Proof


def obstacle(run: Exportable) -> str:
    """Say why llama.cpp cannot load a run's adapter, in one line, or nothing."""
    return cannot(run, lambda: _unlike(run))


def _unlike(run: Exportable) -> str:
    if (held := REGISTRY[run.spec.method].quantization(run.spec)) != "none":
        return (
            f"quantization: the LoRA was trained on a base in {held} and differs on its original; --as gguf measures it"
        )
    lacks = lacking(json.loads((run.adapter() / "adapter_config.json").read_text(encoding="utf-8")))
    works = "--as gguf merges it" if REGISTRY[run.spec.method].mergeable else "--as adapter writes it as it is"
    return f"llama.cpp's LoRA files hold no {lacks}; {works}" if lacks else ""


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
    return kept(run, file, "LoRA for its base's GGUF file", lambda staging: _written(run, staging))


def _written(run: Exportable, file: Path) -> Proof:
    from peft_nb.adapters.gguf import write_lora, write_model
    from peft_nb.adapters.gguf.model import notes

    base, adapter = run.base(), run.adapter()
    write_lora(adapter, base, file)
    with workspace(file) as work:
        whole = write_model(base, work / "base.gguf", outtype="f16", progress=run.progress)
        return proven(run, whole, base, "f16", adapter=adapter, lora=file, notes=notes(base))


EXPORTER = Exporter("lora-gguf", "the LoRA alone for llama.cpp, beside its base's GGUF", "-lora.gguf", write, obstacle)
