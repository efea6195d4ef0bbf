"""A run as one GGUF file for llama.cpp, once llama.cpp is shown to do with it what the run does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter, Live
from peft_nb.adapters.gguf.model import OUTTYPES
from peft_nb.adapters.gguf.model import obstacle as unlike
from peft_nb.errors import MergeError, RunError, StoreError, nearest
from peft_nb.methods import REGISTRY
from peft_nb.system.files import atomic_file, atomic_text, writing
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS

ROUNDED = 0.05  # nats per token by which a live model in 16 bits may differ from the same in float32
PROMPTS, LONGEST = 4, 128  # prompts to go on from, and tokens of each
OPTIONS = {"outtype": f"how matrices are held: {', '.join(OUTTYPES)}; by default f16"}


def obstacle(run: Exportable) -> str:
    """Say why a run cannot be merged into a GGUF file, in one line, or nothing."""
    spec = run.spec
    if not TASKS[spec.task].generates:
        return f"task: {spec.task} trains a head, which GGUF files do not hold; --as adapter writes it as it is"
    if not REGISTRY[spec.method].mergeable:
        return f"method: {spec.method} cannot be merged into weights; --as adapter writes it as it is"
    config = run.config()
    return unlike(config) if config else ""


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
        With how near llama.cpp's answers are to the run's.

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
    from peft_nb.adapters.gguf import Proof

    check(file, outtype)
    with atomic_file(file) as staging:
        proof: Proof = merged(run, staging, outtype)
        size = staging.stat().st_size / MB
    told = f"{run.id} is exported to {file}: {outtype}, {size:,.1f} MB; {proof.told}"
    return kept(file, told, proof)


def check(file: Path, outtype: str) -> None:
    """Refuse what can be known before anything is loaded."""
    if outtype not in OUTTYPES:
        raise RunError(f"outtype: {outtype!r} is not one of {', '.join(OUTTYPES)}{nearest(outtype, OUTTYPES)}")
    if file.exists():
        raise StoreError(f"cannot write {file}: it exists already; choose another name")


def merged(run: Exportable, file: Path, outtype: str, seen: Any = None) -> Any:
    """Merge a run, write it as a GGUF file and give the proof; `seen` is shown the folder of the merged model."""
    from transformers import AutoModelForCausalLM

    from peft_nb.adapters.gguf import prove, write_model
    from peft_nb.adapters.gguf.model import notes
    from peft_nb.adapters.merge import BOUND
    from peft_nb.adapters.read_back import compared, read_back
    from peft_nb.models.quiet import quiet

    with run.live() as live:
        prompts, (adapter,) = asked(live), read_back(live, run.adapter())
    with workspace(file) as work:
        folder = work / "merged"
        # A live model in 16 bits rounds in every layer: what is merged is held to the adapter in float32.
        run.merge(folder, dtype="float32", max_kl=ROUNDED)
        with quiet():
            plain = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", local_files_only=True)
        kl = compared(plain, adapter, live, run.spec).kl
        del plain, adapter
        if kl > BOUND:
            raise MergeError(f"merged, it differs from the adapter by {kl:.3g} nats per token; nothing is kept")
        write_model(folder, file, outtype=outtype, progress=run.progress)
        near = f"merged with a KL divergence from the adapter of {kl:.2g} nats per token in float32"
        options: dict[str, Any] = {"outtype": outtype, "notes": (near, *notes(folder)), "progress": run.progress}
        proof = explained(partial(prove, file, folder, prompts, **options), outtype)
        if seen:
            seen(folder)
    return proof


@contextmanager
def workspace(file: Path) -> Iterator[Path]:
    """A folder beside a file, for what is only needed to write it."""
    with writing(file):
        made = TemporaryDirectory(prefix=".peft_nb-", dir=file.parent)
    with made as work:
        yield Path(work)


def explained(proving: Any, outtype: str) -> Any:
    """A proof; where it fails, with what may work instead."""
    try:
        return proving()
    except MergeError as error:
        works = "--outtype f16 rounds less" if outtype not in ("f32", "f16") else "--as merged is for transformers"
        raise MergeError(f"{error}; {works}", error.table) from None


def kept(file: Path, told: str, proof: Any) -> Exported:
    """What was exported, with its proof beside it."""
    atomic_text(file.with_suffix(".proof.json"), proof.written())
    return Exported(file, told, proof.table)


def asked(live: Live) -> list[list[int]]:
    """Some of the prompts that a run is evaluated on, as token ids."""
    step = max(1, len(live.examples) // PROMPTS)
    return [_prompt(one) for one in list(live.examples)[::step][:PROMPTS]]


def _prompt(example: Any) -> list[int]:
    marks: Sequence[Any] = list(example.supervised)
    stop = next((place for place, on in enumerate(marks) if on and place), len(marks))
    return [int(token) for token in example.ids[:stop]][:LONGEST]


EXPORTER = Exporter("gguf", "a GGUF file for llama.cpp, the adapter in its weights", ".gguf", write, obstacle, OPTIONS)
