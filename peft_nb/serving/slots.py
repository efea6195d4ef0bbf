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
        self._kept: dict[int, tuple[str | None, str]] = {}  # of each slot the adapter and the prompt, where known

    @contextmanager
    def of(self, adapter: str | None, prompt: str, several: bool = False) -> Iterator[dict[str, Any]]:
        """Take a slot inside the ``with``.

        Parameters
        ----------
        adapter : str or None
            The file of the LoRA; None for the model alone.
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
        slot = max(self._free, key=lambda one: self._fits(one, adapter, prompt))  # of equals the first
        held, _ = self._kept.pop(slot, ("", ""))
        self._free.remove(slot)
        try:
            yield {"cache_prompt": held == adapter, "id_slot": slot}
            self._kept[slot] = (adapter, prompt)
        finally:
            self._free.append(slot)

    def _fits(self, slot: int, adapter: str | None, prompt: str) -> tuple[int, bool, bool]:
        """What to choose by: the same conversation, then an empty slot, then the same adapter."""
        held, before = self._kept.get(slot, ("", ""))
        same = len(commonprefix([before, prompt])) if held == adapter else 0  # noqa: RUF071 - of letters
        return same if same >= ALIKE * len(prompt) else 0, slot not in self._kept, held == adapter

    def _forget(self) -> None:
        for slot in self._free:
            self._kept.pop(slot, None)
