"""What an exporter is, and what it is given of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from html import escape
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.events import Progress, silent

if TYPE_CHECKING:
    import pandas
    from peft import PeftModel

    from peft_nb.adapters.merge import Merged
    from peft_nb.data.examples import Examples
    from peft_nb.data.layouts import Layout
    from peft_nb.models.load import Base
    from peft_nb.spec import RunSpec
    from peft_nb.store import Facts


PROMPTS, LONGEST = 4, 128  # prompts for other programs to go on from, and tokens of each


@dataclass(frozen=True)
class Side:
    """Training or evaluation examples, and the rows they come from where these can still be read."""

    examples: Examples
    rows: Sequence[Mapping[str, Any]] | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class Live:
    """A run's model in memory, and what to compare with it whatever is written of it.

    Attributes
    ----------
    model : peft.PeftModel
        The base with the adapter, in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.
    facts : Facts
        What it takes to open the run again.
    examples : sequence of Answered or Example
        Texts as token ids; what counts for the loss is marked.
    compared_on : str
        What these are called, such as ``16 evaluation examples``.
    """

    model: PeftModel
    tokenizer: Any
    facts: Facts
    examples: Sequence[Any]
    compared_on: str

    @property
    def prompts(self) -> list[list[int]]:
        """The beginnings of some of the examples, up to what counts for the loss."""
        step = max(1, len(self.examples) // PROMPTS)
        return [_prompt(one) for one in list(self.examples)[::step][:PROMPTS]]


def _prompt(example: Any) -> list[int]:
    marks: Sequence[Any] = list(example.supervised)
    stop = next((place for place, on in enumerate(marks) if on and place), len(marks))
    return [int(token) for token in example.ids[:stop]][:LONGEST]


def _not_live() -> AbstractContextManager[Live]:
    raise NotImplementedError("no model was given")


def _no_folder() -> Path:
    raise NotImplementedError("no folder was given")


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
        Writes its base with the adapter in it, see ``Run.merge``, whose ``dtype`` it takes.
    examples : callable
        Loads its base and finds its training and evaluation examples.
    init_adapter : callable
        Finds the folder of the adapter that it started from, if any.
    live : callable
        Gives its model in memory as a context, in which nobody else uses it.
    adapter : callable
        Finds the folder of its adapter.
    base : callable
        Finds the folder of its base's original weights, fetched where it is not there yet.
    config : callable
        Gives the config of its base where that takes no fetching, else nothing.
    progress : callable
        Called with the share that is done (0 to 1) and what is being done.
    """

    id: str
    spec: RunSpec
    metrics: Mapping[str, Any]
    save: Callable[[Path], Path]
    merge: Callable[..., Merged]
    examples: Callable[[], tuple[Base, Side, Side]]
    init_adapter: Callable[[], Path | None] = lambda: None
    live: Callable[[], AbstractContextManager[Live]] = _not_live
    adapter: Callable[[], Path] = _no_folder
    base: Callable[[], Path] = _no_folder
    config: Callable[[], Mapping[str, Any]] = dict
    progress: Progress = silent


@dataclass(frozen=True)
class Exported(os.PathLike[str]):
    """What was written, and what is to be known of it; shows itself.

    Attributes
    ----------
    path : Path
        What was written.
    told : str
        A few lines on it, the first a summary.
    table : pandas.DataFrame, optional
        How near it is to the run.
    """

    path: Path
    told: str
    table: pandas.DataFrame | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return self.told if self.table is None else f"{self.told}\n{self.table.to_string(index=False)}"

    def _repr_html_(self) -> str:
        first, *lines = self.told.split("\n")
        told = f"<p>{escape(first)}</p>" + (f"<pre>{escape(chr(10).join(lines))}</pre>" if lines else "")
        return told if self.table is None else told + self.table.to_html(index=False)


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
        Writes a run to a path, and gives that of what was written, or an :class:`Exported` that tells more.
    obstacle : callable
        Says why a run cannot be written so, in one line, or nothing; found out before anything is loaded.
    options : mapping of str to str
        What else ``write`` takes by name, with a help for each; one whose default is False is a switch.
    """

    name: str
    help: str
    suffix: str
    write: Callable[..., Path | Exported]
    obstacle: Callable[[Exportable], str] = lambda run: ""
    options: Mapping[str, str] = field(default_factory=dict)

    def is_switch(self, option: str) -> bool:
        """Whether an option is either on or off."""
        return signature(self.write).parameters[option].default is False
