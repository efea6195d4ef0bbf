"""Long work that follows what is typed: only the newest request counts, and the one before it is broken off."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

PAUSE_S = 0.5  # of typing, before it is worth the work

RaiseIfSuperseded = Callable[[], None]


class SupersededError(Exception):
    """A newer request has come in, so that nobody waits for this one any more."""


class Debouncer:
    """Does the newest of many requests in a thread of its own, which ends when nothing is left to do."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._wanted: Callable[[RaiseIfSuperseded], None] | None = None
        self._due = 0.0
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[RaiseIfSuperseded], None], pause_s: float = PAUSE_S) -> None:
        """Do this next, after a pause, unless something newer is asked for.

        Parameters
        ----------
        work : callable
            Gets a function to call now and then, which raises :class:`SupersededError` once something newer is wanted.
        pause_s : float
            Seconds to wait first.
        """
        with self._news:
            self._wanted, self._due = work, time.monotonic() + pause_s
            self._news.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="peft_nb-debouncer", daemon=True)
                self._thread.start()

    def cancel(self) -> None:
        """Break off what is being done, and do nothing of what was asked for."""
        self.submit(lambda superseded: None, 0.0)

    def wait(self) -> None:
        """Wait until nothing is left to do."""
        while (thread := self._thread) is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._news:
                work, wait_s = self._wanted, self._due - time.monotonic()
                if work is None:
                    self._thread = None
                    return
                if wait_s > 0:
                    self._news.wait(wait_s)
                    continue
                self._wanted = None
            try:
                work(self._raise_if_superseded)
            except SupersededError:
                continue
            except Exception:
                logging.getLogger(__name__).exception("what follows the typing")

    def _raise_if_superseded(self) -> None:
        if self._wanted is not None:
            raise SupersededError
