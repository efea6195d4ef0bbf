"""Adapters weighed into one, as prompts between two of them are answered; the last few stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

MOST = 8  # that stay


class Mixtures:
    """Adapters of one base combined by weights, each made when it is first needed.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._made: OrderedDict[tuple[tuple[str, float], ...], Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, weights: Mapping[str, float], folder: Callable[[str], Path], live: Callable[[str], Any]) -> Any:
        """Give the model with some adapters, weighed; their order does not matter.

        Parameters
        ----------
        weights : mapping of str to float
            The adapters and what each counts.
        folder, live : callable
            Give for a name the adapter's folder, and a PeftModel over the base.

        Returns
        -------
        peft.PeftModel
            The base with one adapter, whose update is the weighed sum.

        Raises
        ------
        MethodError
            If PEFT cannot combine one of them rightly, as of :func:`peft_nb.adapters.combine.combine`.
        """
        from peft_nb.adapters.combine import combine

        key = tuple(sorted(weights.items()))
        if key not in self._made:
            names, shares = zip(*key, strict=True)
            folders = {name: folder(name) for name in names}
            self._made[key] = combine(live(names[0]), self._tokenizer, folders, shares, "cat", 1.0, seed=0)
        self._made.move_to_end(key)
        while len(self._made) > MOST:
            self._made.popitem(last=False)
        return self._made[key]

    def clear(self) -> None:
        """Give back the memory of all."""
        self._made.clear()
