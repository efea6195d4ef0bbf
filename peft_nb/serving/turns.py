"""Whose turn it is: requests for one adapter at a time, as many together as there are slots.

llama.cpp computes only requests with the same adapter in one batch. Given others too it works on those of its first
slot until they end, and lets the rest wait in slots that nobody else gets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

PATIENCE_S = 2.0  # after which nobody is let past the request that has waited for longest


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request that waits, since when, and what tells it that it is its turn."""

    kind: str
    since: float
    come: asyncio.Future[None]


class Turns:
    """Lets requests of one kind work together, and the others wait.

    Parameters
    ----------
    slots : int
        How many work at once.
    clock : callable
        Gives the time in seconds.
    """

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.slots, self._clock = slots, clock
        self._waiting: list[Waiting] = []
        self._kind = ""  # of those at work
        self._working = 0

    @asynccontextmanager
    async def of(self, kind: str) -> AsyncIterator[None]:
        """Wait for the turn of a kind, and hold a slot inside the ``with``."""
        one = Waiting(kind, self._clock(), asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._call()
        try:
            await one.come
            yield
        finally:
            if one in self._waiting:
                self._waiting.remove(one)
            else:
                self._working -= 1
            self._call()

    def _call(self) -> None:
        """Call whoever can begin: the kind at work while nobody has waited too long, else that of the first in line."""
        while self._waiting and self._working < self.slots:
            first = self._waiting[0]
            if not self._working:
                self._kind = first.kind
            elif first.kind != self._kind and self._clock() - first.since > PATIENCE_S:
                return
            called = next((one for one in self._waiting if one.kind == self._kind), None)
            if called is None:
                return
            self._waiting.remove(called)
            self._working += 1
            if not called.come.done():
                called.come.set_result(None)
