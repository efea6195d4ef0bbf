"""A run as one GGUF file for llama.cpp, once llama.cpp is shown to do with it what the run does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter
from peft_nb.adapters.exporters.gguf_file import cannot, kept, proven, workspace
from peft_nb.adapters.gguf.model import OUTTYPES
from peft_nb.errors import RunError, nearest
from peft_nb.methods import REGISTRY

if TYPE_CHECKING:
    from peft_nb.adapters.gguf import Proof

OPTIONS = {"outtype": f"how matrices are held: {', '.join(OUTTYPES)}; by default f16"}
EXACT = ("f32", "f16", "bf16")  # all others quantize


def obstacle(run: Exportable) -> str:
    """Say why a run cannot be merged into a GGUF file, in one line, or nothing."""
    method = run.spec.method
    why = f"method: {method} cannot be merged into weights; --as adapter writes it as it is"
    return cannot(run, lambda: "" if REGISTRY[method].mergeable else why)


def write(run: Exportable, file: Path, *, outtype: str = "f16") -> Exported:
    """Merge a run and write it as a GGUF file; the proof is kept beside it as JSON.

    Parameters
    ----------
    run : Exportable
        A run to which :func:`obstacle` has no objection.
    file : Path
        The file; there must be none yet.
    outtype : str, default "f16"
        How matrices are held, as of :func:`peft_nb.adapters.gguf.write_model`.

    Returns
    -------
    Exported
        With how near llama.cpp's answers are to the run's; where the outtype quantizes, also to the base's with the
        base in it.

    Raises
    ------
    MergeError
        llama.cpp answers otherwise; nothing is kept.
    ModelError
        The model or its tokenizer cannot be written so.
    RunError
        There is no such outtype.
    StoreError
        The file exists, or the disk refuses; nothing half-written stays.
    """
    check(outtype)
    return kept(run, file, outtype, lambda staging: merged(run, staging, outtype))


def check(outtype: str) -> None:
    """Refuse an outtype that there is not."""
    if outtype not in OUTTYPES:
        raise RunError(f"outtype: {outtype!r} is not one of {', '.join(OUTTYPES)}{nearest(outtype, OUTTYPES)}")


def merged(run: Exportable, file: Path, outtype: str, seen: Any = None) -> Proof:
    """Merge a run, write it as a GGUF file and give the proof; `seen` is shown the folder of the merged model."""
    from peft_nb.adapters.gguf import write_model
    from peft_nb.adapters.gguf.model import notes

    with workspace(file) as work:
        folder = work / "merged"
        kl = max(run.merge(folder, dtype="float32").kl, 0.0)  # below 0 by rounding alone
        write_model(folder, file, outtype=outtype, progress=run.progress)
        told = (f"merged with a KL divergence from the adapter of {kl:.2g} nats per token", *notes(folder))
        alone = None if outtype in EXACT else _alone(run, work / "base.gguf", outtype)
        proof = proven(run, file, folder, outtype, notes=told, alone=alone)
        if seen:
            seen(folder)
    return proof


def _alone(run: Exportable, file: Path, outtype: str) -> tuple[Path, Path] | None:
    """The base's own file and folder, to tell what an outtype costs without a run; nothing where it has no files."""
    from peft_nb.adapters.gguf import write_model

    try:
        folder = run.base()
    except RunError:  # it was made in memory
        return None
    return write_model(folder, file, outtype=outtype, progress=run.progress), folder


EXPORTER = Exporter("gguf", "a GGUF file for llama.cpp, the adapter in its weights", ".gguf", write, obstacle, OPTIONS)
