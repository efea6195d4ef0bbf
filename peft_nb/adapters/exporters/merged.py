"""A run as a plain model: its base with the adapter in the weights."""

from __future__ import annotations

from pathlib import Path

from peft_nb.adapters.exporters.base import Exportable, Exporter


def write(run: Exportable, folder: Path) -> Path:
    """Merge a run into a folder, once that is proven to do the same; errors as of ``Run.merge``."""
    run.merge(folder)
    return folder


EXPORTER = Exporter("merged", "a plain model with the adapter in its weights", "-merged", write)
