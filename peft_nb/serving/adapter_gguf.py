"""The files that an engine loads, each written once: the base model, an adapter as LoRA, a merged model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from peft_nb.errors import ModelError, PeftNbError, RunError
from peft_nb.events import Progress
from peft_nb.models.cache import prepared
from peft_nb.serving.targets import Version
from peft_nb.system import resources
from peft_nb.system.files import atomic_folder, remove_leftovers
from peft_nb.system.resources import MB

NAME = "adapter.gguf"


def base_folder(model: str, progress: Progress) -> Path:
    """Find a base model's plain folder, fetching it where it is not on this machine."""
    from peft_nb.models.load import located
    from peft_nb.models.resolve import resolve

    return located(resolve(model), progress, [])


def base_file(folder: Path, progress: Progress, outtype: str = "f16") -> Path:
    """Give a base model as a GGUF file in the user's cache, with the chat template that runs on it were trained with.

    Parameters
    ----------
    folder : Path
        Its plain folder.
    progress : callable
        Told how far the writing is.
    outtype : str, default "f16"
        How its matrices are held, as of :func:`peft_nb.adapters.gguf.write_model`.

    Returns
    -------
    Path
        Written anew where a file of the folder has changed.
    """
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    key = hashlib.sha256(repr((str(folder), stats, "answers")).encode()).hexdigest()[:12]

    def fill(staging: Path) -> None:
        from peft_nb.adapters.gguf import write_model

        write_model(folder, staging / "model.gguf", outtype=outtype, answers=True, progress=progress)

    return prepared(f"{folder.name}-{outtype}-{key}", fill, progress) / "model.gguf"


def adapter_file(version: Version, base: Path) -> Path:
    """Give an adapter as a LoRA GGUF file, beside it in its run's folder.

    Parameters
    ----------
    version : Version
        Whose adapter.
    base : Path
        Plain folder of its base model.

    Returns
    -------
    Path
        Written anew where the adapter has changed.

    Raises
    ------
    ModelError
        If it is no LoRA, or one that such a file cannot hold.
    """
    target = folder_of(version)
    if not target.is_dir():
        from peft_nb.adapters.gguf import write_lora

        remove_leftovers(target.parent)
        try:
            with atomic_folder(target, overwrite=True) as staging:
                write_lora(version.folder, base, staging / NAME)
        except ModelError as error:
            raise ModelError(f"{version.label}: {error}") from error
    return target / NAME


def adapter_file_apart(version: Version, base: Path) -> Path:
    """Do the same in a process of its own where there is something to write: a server holds no PyTorch."""
    target = folder_of(version)
    if not target.is_dir():
        told = json.dumps({**asdict(version), "folder": str(version.folder), "base": str(base)})
        command = [sys.executable, "-m", "peft_nb.serving.adapter_gguf"]
        done = subprocess.run(command, input=told, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ModelError(done.stdout.strip() or f"{version.label} could not be written; the server's log says why")
    return target / NAME


def merged_file(version: Version, outtype: str) -> Path:
    """Give a run's merged model as a proven GGUF file in the run's folder, written by ``python -m peft_nb export``.

    Parameters
    ----------
    version : Version
        Of a run that is no LoRA.
    outtype : str
        How its matrices are held.

    Returns
    -------
    Path
        Written anew where the adapter has changed.

    Raises
    ------
    ModelError
        With what the export says.
    """
    target = merged_path(version, outtype)
    exported(version, target, "gguf", "--outtype", outtype)
    return target


def exported(version: Version, target: Path, form: str, *words: str, **environment: str) -> None:
    """Write a run in a form by ``python -m peft_nb export``, unless it is there."""
    if target.exists():
        return
    store = version.folder.parents[2]  # in which runs/<id>/adapter is
    done = subprocess.run(
        [sys.executable, "-m", "peft_nb", "export", version.run, "--as", form, "--to", str(target), *words],
        env={**os.environ, "PEFT_NB_STORE": str(store), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and not target.exists():  # another server may have been faster
        said = done.stderr.strip().splitlines()
        raise ModelError(f"{version.label}: {said[-1] if said else 'the export ended without a word'}")


def check_memory(versions: Sequence[Version], base: Path) -> None:
    """Refuse more merged models than memory has room for; each takes about what the base takes."""
    merged = [version.label for version in versions if version.merged]
    needed, left = base.stat().st_size / MB * (1 + len(merged)), resources.memory_available_mb()
    if merged and needed > left:
        raise RunError(
            f"{', '.join(merged)}: no LoRA for llama.cpp, so each answers from a model of its own; with the base these "
            f"take {needed:,.0f} MB, and {left:,.0f} MB are free; serve fewer of them at once"
        )


def merged_path(version: Version, outtype: str) -> Path:
    """Say where the merged model of a run is, or would be."""
    return version.folder.parent / f"{folder_of(version).name}-{outtype}.gguf"


def folder_of(version: Version) -> Path:
    """Say where an adapter's file is, or would be, by what the adapter holds."""
    return version.folder.parent / f"gguf-{digest(version)}"


def digest(version: Version) -> str:
    """Tell what an adapter holds in a few letters."""
    found = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        found.update((version.folder / name).read_bytes())
    return found.hexdigest()[:12]


def main() -> None:
    """Write the adapter that standard input tells of, and say on standard output why not."""
    told = json.loads(sys.stdin.readline())
    base = Path(told.pop("base"))
    try:
        adapter_file(Version(**{**told, "folder": Path(told["folder"])}), base)
    except PeftNbError as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
