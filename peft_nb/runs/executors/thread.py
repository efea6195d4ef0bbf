"""A thread of this process in which a run is looked after, while the notebook stays free."""

from __future__ import annotations

import threading
from collections.abc import Callable

from peft_nb.events import Listener
from peft_nb.training.stop import StopFlag

Work = Callable[[StopFlag, Listener], None]
"""What is executed: it reads the flag, tells the listener every event, and raises nothing."""


class Thread:
    """Does one piece of work at a time."""

    def __init__(self) -> None:
        self._flag, self._over = StopFlag(), threading.Event()
        self._over.set()

    def start(self, work: Work, events: Listener, name: str) -> None:
        """Begin, and return at once; whoever listens to `events` is told in the thread."""
        flag = self._flag = StopFlag()
        self._over.clear()

        def execute() -> None:
            try:
                work(flag, events)
            finally:
                self._over.set()

        threading.Thread(target=execute, name=name, daemon=True).start()

    def stop(self, *, now: bool = False) -> None:
        """Ask the work to end after its current step, or at once."""
        self._flag.soon.set()
        if now:
            self._flag.now.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the work is over or the seconds have passed; whether it is over."""
        return self._over.wait(timeout)

    @property
    def stopping(self) -> bool:
        """Whether the work was asked to end."""
        return self._flag.soon.is_set()
