"""The adapter of the lowest eval loss, kept on disk, and when to stop looking for a better one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from peft_nb.system.files import atomic_folder

STATE = "best.json"


class Best:
    """What was best so far in a run; found again when it resumes.

    Parameters
    ----------
    folder : Path
        Where the best adapter is kept.
    patience : int, optional
        Evaluations in a row without a lower loss after which to stop; without it there is no end.

    Attributes
    ----------
    step, loss : int, float
        When it was best, and its eval loss; step 0 while there is none.
    since : int
        Evaluations since then.
    """

    def __init__(self, folder: Path, patience: int | None) -> None:
        self.folder, self.patience, self.since = folder, patience, 0
        self.step, self.loss = 0, math.inf
        if (folder / STATE).exists():
            kept = json.loads((folder / STATE).read_text(encoding="utf-8"))
            self.step, self.loss = kept["step"], kept["loss"]

    @property
    def exhausted(self) -> bool:
        """Whether patience has come to its end."""
        return self.patience is not None and self.since >= self.patience

    def offer(self, step: int, loss: float, save: Callable[[Path], None] | None) -> None:
        """Take note of an evaluation, and keep its adapter if none was better.

        Parameters
        ----------
        step : int
            Optimizer steps done.
        loss : float
            Eval loss.
        save : callable, optional
            Writes the adapter into a folder; None in a process that writes nothing.

        Raises
        ------
        StoreError
            If the disk refuses; what was best before stays.
        """
        if not loss < self.loss:
            # Between a checkpoint and its resumption the best may already have been found: it comes again, equal.
            self.since = 0 if step == self.step else self.since + 1
            return
        if save is not None:
            with atomic_folder(self.folder, overwrite=True) as staging:
                save(staging)
                (staging / STATE).write_text(json.dumps({"step": step, "loss": loss}), encoding="utf-8")
        self.step, self.loss, self.since = step, loss, 0
