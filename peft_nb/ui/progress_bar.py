"""A bar while something takes long: its stage, how far it is, and a clock that runs whatever the work does.

It leaves nothing behind: no widget that a saved notebook would miss, and no half-done bar.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from html import escape
from uuid import uuid4

from peft_nb.events import Progress, silent
from peft_nb.system import frontend
from peft_nb.ui import wording
from peft_nb.ui.style import BOX, NUMBERS

DELAY_S = 0.5  # what is over sooner needs no bar
TICK_S = 0.25
WIDE = 78  # letters of a terminal's line

Draw = Callable[[float | None, str, float], None]
"""Called with the share that is done (None: clear the bar), the stage, and the seconds so far."""


@contextmanager
def progress_bar(what: str = "starting", delay_s: float = DELAY_S) -> Iterator[Progress]:
    """Show what is being done, once it takes longer than `delay_s` seconds, where a person looks on.

    Parameters
    ----------
    what : str
        The stage until the work names another.
    delay_s : float
        Seconds until the bar is shown.

    Yields
    ------
    callable
        Takes the share that is done and the stage.
    """
    shown_in = frontend.frontend()
    if shown_in == "notebook-headless" or (shown_in == "terminal" and not sys.stderr.isatty()):
        yield silent
        return
    draw = _in_terminal if shown_in == "terminal" else _in_notebook()
    told: list[tuple[float, str]] = [(0.0, what)]
    done, began = threading.Event(), time.monotonic()

    def pump() -> None:
        if done.wait(delay_s):
            return
        while not done.is_set():
            share, stage = told[0]
            draw(share, stage, time.monotonic() - began)
            done.wait(TICK_S)
        draw(None, "", 0)

    def show(share: float, stage: str) -> None:
        told[0] = share, stage

    # What a thread displays belongs to the cell whose context it runs in.
    thread = threading.Thread(target=copy_context().run, args=(pump,), name="peft_nb-progress", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        done.set()
        thread.join()


def _in_terminal(share: float | None, stage: str, seconds: float) -> None:
    line = "" if share is None else f"{stage} {share:.0%}, {wording.duration(int(seconds))}"
    print(f"\r{line[:WIDE]:<{WIDE}}", end="" if line else "\r", file=sys.stderr, flush=True)


def _in_notebook() -> Draw:
    from IPython.display import publish_display_data

    key, shown = uuid4().hex, threading.Event()

    def draw(share: float | None, stage: str, seconds: float) -> None:
        text = "" if share is None else f"{stage} {share:.0%}, {wording.duration(int(seconds))}"
        bar = {"text/html": "" if share is None else html(share, stage, seconds), "text/plain": text}
        publish_display_data(bar, transient={"display_id": key}, update=shown.is_set())
        shown.set()

    return draw


def html(share: float, stage: str, seconds: float) -> str:
    """Draw the bar: the stage, the share that is done (0 to 1; 0 says no number) and the seconds so far."""
    percent = f"{100 * share:.0f}"
    now = f'aria-valuenow="{percent}" ' if share else ""
    said = f"{stage} {percent} %" if share else stage
    return (
        f'<div style="{BOX};{NUMBERS}">{escape(said)}, {wording.duration(int(seconds))} so far'
        f'<div role="progressbar" aria-label="{escape(stage)}" aria-valuemin="0" aria-valuemax="100" {now}'
        'style="height:6px;max-width:480px;border-radius:3px;overflow:hidden;background:rgba(128,128,128,.3)">'
        f'<div style="height:100%;width:{percent}%;background:var(--jp-brand-color1,#1976d2)"></div></div></div>'
    )
