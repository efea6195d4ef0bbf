"""At this end what another process tells of a run becomes events, metrics and an outcome here."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft_nb import errors
from peft_nb.errors import PeftNbError, RunError
from peft_nb.events import Checkpointed, from_json
from peft_nb.runs.context import Context
from peft_nb.runs.pipeline import Outcome
from peft_nb.store import Facts
from peft_nb.training.stop import Abandoned


def take(context: Context, kind: str, told: dict[str, Any]) -> Outcome | None:
    """Take in one message of :mod:`.worker`.

    Parameters
    ----------
    context : Context
        The run; its facts and metrics are filled in, and its events told.
    kind : str
        ``event``, ``state`` or ``end``.
    told : dict
        What is told.

    Returns
    -------
    Outcome or None
        What came of the run, at its end.

    Raises
    ------
    PeftNbError
        What made the run fail there.
    Abandoned
        If it was given up there.
    """
    if kind == "event":
        event = from_json(told["kind"], told["fields"])
        if isinstance(event, Checkpointed):
            event = replace(event, folder=str(context.folder / "checkpoints" / Path(event.folder).name))
        context.publish(event)
        return None
    context.metrics |= told["metrics"]
    place, context.facts = context.facts.place, Facts.from_json(told["facts"])
    context.note(place=place)
    if kind == "state":
        return None
    if told["how"] == "abandoned":
        raise Abandoned(told["reason"])
    if told["how"] == "failed":
        raise _error(context.folder, told)
    return Outcome(told["how"] == "finished", told["evaluation"])


def _error(folder: Path, told: dict[str, Any]) -> PeftNbError:
    """The error as it was raised there; of what nobody foresaw the whole story is kept."""
    kind = getattr(errors, told["error"], RunError) if told["error"] else None
    if kind:
        found: PeftNbError = kind(told["reason"].split("\n") if kind is errors.SpecError else told["reason"])
        return found
    story = folder / "error.txt"
    with suppress(OSError):
        story.write_text(told["story"], encoding="utf-8")
    return RunError(f"{told['reason']} (the whole story is in {story})")
