"""The encoded examples that a run began with, found again in its store without its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from peft_nb.data import examples
from peft_nb.data.examples import Examples
from peft_nb.data.legacy import legacy_labelled
from peft_nb.store import space

EXAMPLES, LABELLED = space.ROWS, "labelled.safetensors"


class Sides(NamedTuple):
    """The training and evaluation examples of a run; ``again``, the training ones as later epochs read them."""

    train: Examples
    held_out: Examples
    again: tuple[Examples, ...] = ()


def kept(folder: Path) -> Sides | None:
    """Find the examples that the run in a folder began with; None where they are no longer complete."""
    path, cache = folder / EXAMPLES, cache_of(folder)
    if path.exists():
        own = json.loads(path.read_text(encoding="utf-8"))
        keys, later = own["keys"], own.get("again", [])  # which older runs lack
        found = [loaded.examples for key in (*keys, *later) if (loaded := examples.load(cache / key))]
        if len(found) == len(keys) + len(later):
            train, held_out = (found[0], found[1]) if keys[1:] else found[0].parted(own["held_out"])
            return Sides(train, held_out, tuple(found[len(keys) :]))
    elif (folder / LABELLED).exists():  # of a run that version 0.1 made
        return Sides(*legacy_labelled(folder / LABELLED))
    return None


def cache_of(folder: Path) -> Path:
    """Where encoded rows of all runs of the store lie that a run's folder is in."""
    return folder.parent.parent / "examples"
