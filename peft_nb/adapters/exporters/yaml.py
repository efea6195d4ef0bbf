"""A run as the YAML file of its spec."""

from __future__ import annotations

from pathlib import Path

from peft_nb.adapters.exporters.base import Exportable, Exporter
from peft_nb.errors import StoreError
from peft_nb.spec.paths import named
from peft_nb.system.files import atomic_text


def write(run: Exportable, file: Path) -> Path:
    """Write the spec of a run, its paths by their names alone, unless the file holds something else.

    Raises
    ------
    StoreError
        If it does, or the disk refuses.
    """
    text = type(run.spec)(**named(run.spec.changed())).to_yaml()
    if file.exists() and (file.is_dir() or file.read_text(encoding="utf-8", errors="replace") != text):
        raise StoreError(f"cannot write {file}: it holds something else; choose another name")
    atomic_text(file, text)
    return file


EXPORTER = Exporter("yaml", "the spec", ".yaml", write)
