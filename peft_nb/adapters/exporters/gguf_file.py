"""What the formats of llama.cpp have in common: why there can be no file, its proof, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters.base import Exportable, Exported
from peft_nb.adapters.gguf.model import obstacle as unlike
from peft_nb.errors import MergeError, StoreError
from peft_nb.system.files import atomic_file, atomic_text, writing
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    from peft_nb.adapters.gguf import Proof


def cannot(run: Exportable, adapter: Callable[[], str]) -> str:
    """Say why a run cannot be written for llama.cpp, in one line, or nothing; `adapter` says it of the adapter."""
    if not TASKS[run.spec.task].generates:
        return f"task: {run.spec.task} trains a head, which GGUF files do not hold; --as adapter writes it as it is"
    if why := adapter():
        return why
    config = run.config()
    return unlike(config) if config else ""


def free(path: Path) -> None:
    """Refuse a path that exists, before anything is loaded."""
    if path.exists():
        raise StoreError(f"cannot write {path}: it exists already; choose another name")


def kept(run: Exportable, file: Path, what: str, write: Callable[[Path], Proof]) -> Exported:
    """Write a file with its proof beside it as JSON, both or neither; `write` gives the proof."""
    free(file)
    with atomic_file(file) as staging:
        proof = write(staging)
        size = staging.stat().st_size / MB
    atomic_text(file.with_suffix(".proof.json"), proof.written())
    return Exported(file, f"{run.id} is exported to {file}: {what}, {size:,.1f} MB; {proof.told}", proof.table)


@contextmanager
def workspace(file: Path) -> Iterator[Path]:
    """A folder beside a file, for what is only needed to write it."""
    with writing(file):
        made = TemporaryDirectory(prefix=".peft_nb-", dir=file.parent)
    with made as work:
        yield Path(work)


def proven(run: Exportable, file: Path, folder: Path, outtype: str, **options: Any) -> Proof:
    """The proof of a file, as of :func:`peft_nb.adapters.gguf.prove`; where it fails, with what may work instead."""
    from peft_nb.adapters.gguf import prove

    with run.live() as live:
        prompts = live.prompts
    try:
        return prove(file, folder, prompts, outtype=outtype, progress=run.progress, **options)
    except MergeError as error:
        finer = {"f32": "", "f16": "", "bf16": "f16 rounds"}.get(outtype, "f16 or bf16 rounds")
        works = f"--outtype {finer} less" if finer else "--as merged is for transformers"
        raise MergeError(f"{error}; {works}", error.table) from None
