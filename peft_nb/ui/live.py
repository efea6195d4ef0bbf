"""The pump: follows one run and keeps one output area up to date.

Events only advance a view, in whatever thread they come. Drawing happens elsewhere, at most five times a
second: in the cell that waits for the run, or in a thread of its own while the kernel stays free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from peft_nb.events import ACTIVE, Event, Listener, StatusChanged
from peft_nb.spec.paths import local
from peft_nb.system import frontend, resources
from peft_nb.ui.surfaces import Surface, surface
from peft_nb.ui.view import RunView, advance, replay

if TYPE_CHECKING:
    from peft_nb.runs.run import Run

LAST_WORD_S = 0.5  # how long after its end a run may take to say how it ended
LAST_DRAWING_S = 5.0  # how long a background run waits at its end for its summary to be drawn


class Live:
    """Follows one run; pass it to the run as a listener.

    Parameters
    ----------
    view : RunView, optional
        What is known already, such as that of a run which is resumed.
    name : str, optional
        The variable that holds the run, for the next steps of the summary.
    on : Surface, optional
        Where it is shown; by default where the caller's output goes.
    """

    def __init__(self, view: RunView | None = None, name: str | None = None, on: Surface | None = None) -> None:
        self._view = replace(view or RunView(), memory_limit_mb=resources.memory_limit_mb())
        self._name = name
        self._surface = on or surface()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._drawn: tuple[float, RunView | None, int] = (-1.0, None, 0)
        self._ended = threading.Event()
        self._closed = threading.Event()
        self._following = False

    def __call__(self, event: Event) -> None:
        """Take in one event; draws nothing."""
        with self._lock:
            self._view = advance(self._view, event)
        if isinstance(event, StatusChanged) and event.status not in ACTIVE:
            self._ended.set()
            if self._following:
                # Whoever waits for the run may leave the cell next, and then nbclient would miss the summary.
                self._closed.wait(LAST_DRAWING_S)

    @property
    def view(self) -> RunView:
        """What is known now."""
        with self._lock:
            return self._view

    def attach(self, run: Run) -> None:
        """Tell which run is followed."""
        with self._lock:
            self._view = _identified(self._view, run)
        self._surface.attach(run, partial(self.resume, run))

    def join(self, run: Run) -> None:
        """Follow a run that is at work already."""
        with self._lock:
            self._view = replay(run.listen(self), self._view)
            if not self._view.active:  # it has told its end just before
                self._ended.set()
        self.attach(run)
        self.refresh()
        self.follow(run)

    def refresh(self) -> None:
        """Draw the running state if it is due and anything has changed, if only the clock."""
        clock = time.monotonic() - self._began
        view = self.view
        last, drawn, second = self._drawn
        changed = view is not drawn or int(clock) > second
        if changed and (last < 0 or clock - last >= self._surface.interval_s):
            self._drawn = (clock, view, int(clock))
            with self._drawing():
                self._surface.running(view, clock)

    def close(self, metrics: Mapping[str, Any]) -> None:
        """Draw the summary for good."""
        with self._drawing():
            self._surface.ended(self.view, metrics, self._name)
        self._closed.set()

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """Say in a line what goes wrong while something is drawn; what happens next is drawn again."""
        try:
            yield
        except Exception as error:
            with suppress(Exception):
                self._surface.broke(error)

    def _sum_up(self, run: Run) -> None:
        metrics: dict[str, Any] = {}
        with self._drawing():
            metrics = _told(run)
        self.close(metrics)

    def settle(self, run: Run) -> None:
        """Draw the summary; of a run that was aborted and still works, once it has ended."""
        if self._ended.wait(LAST_WORD_S):
            self._sum_up(run)
        else:
            self.follow(run)

    def follow(self, run: Run) -> None:
        """Keep drawing from a thread of its own until the run has ended.

        The thread starts in an empty context on purpose: its updates then belong to the cell that runs when
        they are sent, and nbclient takes no others; front ends find the output area by its display id.
        """
        self._following = True
        threading.Thread(target=self._pump, args=(run,), name=f"peft_nb-panel-{run.id}", daemon=True).start()

    def resume(self, run: Run) -> None:
        """Let a run that has ended go on, shown where it was shown before; returns at once.

        Raises
        ------
        PeftNbError
            If it cannot go on.
        """
        self._ended.clear()
        self._closed.clear()
        self._following = True
        try:
            run.resume(background=True, listeners=[self])
        except BaseException:
            self._ended.set()
            raise
        self._began, self._drawn = time.monotonic(), (-1.0, None, 0)
        self.follow(run)

    def _pump(self, run: Run) -> None:
        while not self._ended.wait(self._surface.interval_s):
            self.refresh()
        self._sum_up(run)


def watch(
    start: Callable[[Sequence[Listener]], Run],
    *,
    background: bool = False,
    view: RunView | None = None,
    name: str | None = None,
    on: Surface | None = None,
) -> Run:
    """Start a run and show it until it ends.

    Parameters
    ----------
    start : callable
        Takes listeners, starts the run and returns it at once.
    background : bool
        Return at once and keep showing the run from a thread; by default the call blocks.
    view : RunView, optional
        What is known already, when a run is resumed.
    name : str, optional
        The variable that will hold the run, for the next steps of the summary.
    on : Surface, optional
        Where to show it; by default in the output of the cell, or the terminal.

    Returns
    -------
    Run
        What `start` returned.

    Raises
    ------
    PeftNbError
        If the run failed while the call was blocking.
    """
    live = Live(view, name, on)
    run = start([live])
    live.attach(run)
    if background:
        live.refresh()
        live.follow(run)
        return run
    try:
        run.wait(tick=live.refresh)
    finally:
        try:
            live.settle(run)
        except KeyboardInterrupt:  # came when there was nothing left to stop but the drawing
            live.settle(run)
    return run


def view_of(run: Run) -> RunView:
    """Read what is known about a run from the events that the store kept."""
    view = replay(run.events(), _identified(RunView(memory_limit_mb=resources.memory_limit_mb()), run))
    # A process that died could not tell its end; the store knows of it.
    return replace(view, status=run.status, reason=run.reason)  # type: ignore[arg-type]


def show(run: Run, name: str | None = None, on: Surface | None = None) -> None:
    """Show how a run stands, or its summary when it has ended; where widgets are shown, go on until it has.

    Parameters
    ----------
    run : Run
        A run of this process or from the store.
    name : str, optional
        The variable that holds it, for the next steps of the summary.
    on : Surface, optional
        Where to show it; by default in the output of the cell, or the terminal.
    """
    from peft_nb.runs.run import active

    if run in active() and frontend.widgets():
        Live(name=name, on=on).join(run)
        return
    live = Live(view_of(run), name, on)
    live.attach(run)
    live.refresh() if live.view.active else live.close(_told(run))


def _told(run: Run) -> dict[str, Any]:
    return run.metrics | run.facts.task | {"tags": run.tags, "init_adapter": run.facts.init_adapter}


def _identified(view: RunView, run: Run) -> RunView:
    spec = run.spec
    model, data = local(spec.model), local(spec.data)  # a saved notebook keeps them, and tells no path of this machine
    return replace(view, id=run.id, name=spec.name or "", method=spec.method, model=model, data=data, task=spec.task)
