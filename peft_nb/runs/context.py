"""What the steps of a run have in common: what was asked, what was passed, where it lives, and whom it tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peft_nb.data.quality.fixes import Change
from peft_nb.data.table import Table
from peft_nb.events import Event, Preparing
from peft_nb.spec import RunSpec
from peft_nb.store import Facts
from peft_nb.system import resources
from peft_nb.tasks import TASKS, Task
from peft_nb.training.stop import Abandoned, StopFlag, agreed

PROGRESS_S = 0.5  # between two words on how far something is


@dataclass(frozen=True)
class Inputs:
    """What was passed to a run in place of the names in its spec.

    Attributes
    ----------
    data, eval_data : object, optional
        Training and evaluation rows.
    model : tuple, optional
        A live ``(model, tokenizer)`` pair.
    score : callable, optional
        How an answer is scored.
    reward : callable, or list of callable and str, optional
        What an answer is rewarded by.
    namespace : mapping
        The notebook's variables, where names are looked up first.
    adapter : Path, optional
        Folder of the adapter to start from, where the one that the spec names was brought along.
    changes : sequence of Change
        What was done to the rows before they came here.
    table : Table, optional
        The rows, where they were read before.
    """

    data: Any = None
    eval_data: Any = None
    model: Any = None
    score: Any = None
    reward: Any = None
    namespace: Mapping[str, Any] = field(default_factory=dict)
    adapter: Path | None = None
    changes: Sequence[Change] = ()
    table: Table | None = None


@dataclass
class Context:
    """One run at work.

    Attributes
    ----------
    spec : RunSpec
        What to do, completed by the method's defaults.
    inputs : Inputs
        What was passed in place of names.
    folder : Path
        The run's folder in the store.
    facts : Facts
        What it takes to open the run again, as far as it is known.
    metrics : dict
        What was measured so far.
    publish : callable
        Takes each event.
    stop : StopFlag
        What the user asked for meanwhile.
    history : list of dict
        Rows logged before, when resuming.
    keep : callable
        Writes facts and metrics down as they are now.
    """

    spec: RunSpec
    inputs: Inputs = field(default_factory=Inputs)
    folder: Path = Path()
    facts: Facts = field(default_factory=Facts)
    metrics: dict[str, Any] = field(default_factory=dict)
    publish: Callable[[Event], None] = lambda event: None
    stop: StopFlag = field(default_factory=StopFlag)
    history: list[dict[str, Any]] = field(default_factory=list)
    keep: Callable[[], None] = lambda: None
    _told: float = 0.0  # when progress was last published

    @property
    def task(self) -> Task:
        """What is learned."""
        return TASKS[self.spec.task]

    def note(self, **facts: Any) -> None:
        """Keep facts."""
        self.facts = replace(self.facts, **facts)

    def progress(self, share: float, what: str) -> None:
        """Say now and then how far something is, and give it up when the user wants to stop."""
        if resources.processes() == 1:  # several would have to ask each other at the same row
            self.heed_stop()
        if time.monotonic() > self._told + PROGRESS_S:
            self._told = time.monotonic()
            self.publish(Preparing(f"{what} ({share:.0%})"))

    def heed_stop(self) -> None:
        """Give the run up if the user wants to stop, before the first step."""
        if agreed(self.stop.soon.is_set()):
            raise Abandoned("before the first step")
