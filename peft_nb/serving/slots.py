"""Where a request is computed, so that what is kept there of an earlier prompt was computed with the same adapter.

Each slot of llama.cpp keeps the keys and values of its last prompt and answer. A prompt that begins alike, such as the
next turn of a conversation, takes them over, whatever adapter they are of (its issue 26207): so a request names its
slot, and says whether it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os.path import commonprefix
from typing import Any

Mix = tuple[tuple[str, float], ...]
ALIKE = 0.5  # of a prompt that a slot must hold to be its conversation, and not another one that begins alike


class Slots:
    """The slots of one engine.

    Parameters
    ----------
    count : int
        How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = [*range(count)]  # the one unused for longest first
        self._kept: dict[int, tuple[Mix | None, str]] = {}  # of each slot the adapters and the prompt, where known

    @contextmanager
    def of(self, adapters: Mix, prompt: str, several: bool = False) -> Iterator[dict[str, Any]]:
        """Take a slot inside the ``with``.

        Parameters
        ----------
        adapters : tuple of (str, float)
            The files of the LoRAs and their weights; none for the model alone.
        prompt : str
            What is asked.
        several : bool, default False
            Whether several answers are asked for, which llama.cpp spreads over slots as it likes.

        Yields
        ------
        dict
            What llama.cpp is told: ``cache_prompt``, and ``id_slot`` unless it chooses itself.
        """
        if several or not self._free:
            self._forget()
            try:
                yield {"cache_prompt": False}
            finally:
                self._forget()
            return
        slot = max(self._free, key=lambda one: self._fits(one, adapters, prompt))  # of equals the first
        held, _ = self._kept.pop(slot, (None, ""))
        self._free.remove(slot)
        try:
            yield {"cache_prompt": held == adapters, "id_slot": slot}
            self._kept[slot] = (adapters, prompt)
        finally:
            self._free.append(slot)

    def _fits(self, slot: int, adapters: Mix, prompt: str) -> tuple[int, bool, bool]:
        """What to choose by: the same conversation, then an empty slot, then the same adapters."""
        held, before = self._kept.get(slot, (None, ""))
        same = len(commonprefix([before, prompt])) if held == adapters else 0  # noqa: RUF071 - of letters
        return same if same >= ALIKE * len(prompt) else 0, slot not in self._kept, held == adapters

    def _forget(self) -> None:
        for slot in self._free:
            self._kept.pop(slot, None)
