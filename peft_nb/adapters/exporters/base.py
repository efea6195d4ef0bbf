"""What an exporter is, and what it is given of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft_nb.data.examples import Examples
    from peft_nb.data.layouts import Layout
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec


@dataclass(frozen=True)
class Side:
    """Training or evaluation examples, and the rows they come from where these can still be read."""

    examples: Examples
    rows: Sequence[Mapping[str, Any]] | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class Exportable:
    """What exporters are given of a run.

    Attributes
    ----------
    id : str
        The run's.
    spec : RunSpec
        Its completed settings.
    metrics : mapping
        What it measured.
    save : callable
        Writes its adapter as a PEFT folder, see ``Run.save``.
    merge : callable
        Writes its base with the adapter in it, see ``Run.merge``.
    examples : callable
        Loads its base and finds its training and evaluation examples.
    init_adapter : callable
        Finds the folder of the adapter that it started from, if any.
    """

    id: str
    spec: RunSpec
    metrics: Mapping[str, Any]
    save: Callable[[Path], Path]
    merge: Callable[[Path], object]
    examples: Callable[[], tuple[Base, Side, Side]]
    init_adapter: Callable[[], Path | None] = lambda: None


@dataclass(frozen=True)
class Exporter:
    """One format to write a run in.

    Attributes
    ----------
    name : str
        What ``as_`` and ``--as`` say.
    help : str
        What is written, in some words.
    suffix : str
        What comes after the run's name where no path is given.
    write : callable
        Writes a run to a path, and gives that of what was written.
    obstacle : callable
        Says why a run cannot be written so, in one line, or nothing; found out before anything is loaded.
    """

    name: str
    help: str
    suffix: str
    write: Callable[[Exportable, Path], Path]
    obstacle: Callable[[Exportable], str] = lambda run: ""
