"""The formats that a run can be written in: one registry, one file a format.

A format is added by one entry, here or as an entry point ``peft_nb.exporters`` of another package.
"""

from __future__ import annotations

from pathlib import Path

from peft_nb.adapters.exporters import adapter, merged, script, yaml
from peft_nb.adapters.exporters.base import Exportable, Exporter, Side
from peft_nb.errors import RunError, nearest
from peft_nb.system import plugins

__all__ = ["EXPORTERS", "Exportable", "Exporter", "Side", "export", "register"]

EXPORTERS: dict[str, Exporter] = {}


def register(exporter: Exporter) -> None:
    """Make a format known to ``Run.export``, magics and help; its name must be new."""
    EXPORTERS[exporter.name] = exporter


def export(run: Exportable, path: Path, as_: str) -> Path:
    """Write a run in a format that others can use.

    Parameters
    ----------
    run : Exportable
        The run.
    path : Path
        Where it shall appear.
    as_ : str
        The name of the format.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    RunError
        If there is no such format, or the run cannot be written so.
    StoreError
        If the disk refuses, or something else would be lost; nothing half-written stays.
    """
    if as_ not in EXPORTERS:
        raise RunError(f"as_: {as_!r} is not one of {', '.join(EXPORTERS)}{nearest(as_, EXPORTERS)}")
    exporter = EXPORTERS[as_]
    if why := exporter.obstacle(run):
        raise RunError(why)
    return exporter.write(run, path)


for _exporter in (script.EXPORTER, yaml.EXPORTER, adapter.EXPORTER, merged.EXPORTER):
    register(_exporter)
for _, _exporter in plugins.load("peft_nb.exporters", Exporter):
    register(_exporter)
