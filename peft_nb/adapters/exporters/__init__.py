"""The formats that a run can be written in: one registry, one file a format.

A format is added by one entry, here or as an entry point ``peft_nb.exporters`` of another package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft_nb.adapters.exporters import adapter, gguf, hub, lora, lora_gguf, merged, ollama, onnx, script, vllm, yaml
from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter, Live, Side
from peft_nb.errors import RunError, nearest
from peft_nb.system import plugins

__all__ = ["EXPORTERS", "Exportable", "Exported", "Exporter", "Live", "Side", "export", "register"]

EXPORTERS: dict[str, Exporter] = {}


def register(exporter: Exporter) -> None:
    """Make a format known to ``Run.export``, magics and help; its name must be new."""
    EXPORTERS[exporter.name] = exporter


def export(run: Exportable, path: Path, as_: str, **options: Any) -> Path | Exported:
    """Write a run in a format that others can use.

    Parameters
    ----------
    run : Exportable
        The run.
    path : Path
        Where it shall appear.
    as_ : str
        The name of the format.
    **options
        Those of :attr:`Exporter.options`.

    Returns
    -------
    Path or Exported
        What was written; of some formats with what is to be known of it.

    Raises
    ------
    RunError
        If there is no such format or option, or the run cannot be written so.
    StoreError
        If the disk refuses, or something else would be lost; nothing half-written stays.
    """
    if as_ not in EXPORTERS:
        raise RunError(f"as_: {as_!r} is not one of {', '.join(EXPORTERS)}{nearest(as_, EXPORTERS)}")
    exporter = EXPORTERS[as_]
    for unknown in options.keys() - exporter.options.keys():
        offered = f"its options are {', '.join(exporter.options)}" if exporter.options else "it has none"
        raise RunError(f"{unknown}: no option of {as_}; {offered}{nearest(unknown, exporter.options)}")
    if why := exporter.obstacle(run):
        raise RunError(why)
    return exporter.write(run, path, **options)


for _format in (script, yaml, adapter, merged, gguf, lora_gguf, ollama, vllm, lora, hub, onnx):
    register(_format.EXPORTER)
for _, _exporter in plugins.load("peft_nb.exporters", Exporter):
    register(_exporter)
