"""A run that writes down speech, to try on clips and one's own voice, beside its base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.system.display import Displayed, panel_of
from peft_nb.ui.clips import player
from peft_nb.ui.differences import clean, marked
from peft_nb.ui.style import MUTED


@dataclass(frozen=True)
class Heard:
    """A clip and what was written down of it.

    Attributes
    ----------
    audio : str
        The clip as a small data URI, to listen to.
    text, base : str
        The transcripts of the run and of its base model.
    seconds : float
        Of the clip.
    """

    audio: str
    text: str
    base: str
    seconds: float


class Transcription(Displayed):
    """A run that writes down speech, to try on clips.

    Attributes
    ----------
    run : Run
        Who is asked.
    heard : list of Heard
        What it was asked about so far.
    """

    panel = cached_property(panel_of)  # always the same one, which shows what was heard

    def __init__(self, run: Run) -> None:
        self.run = run
        self.heard: list[Heard] = []

    def ask(self, clip: Any) -> Heard:
        """Let the run and its base model write down a clip.

        Parameters
        ----------
        clip : str, bytes or dict
            A path, the bytes of a file, or ``array`` and ``sampling_rate``.

        Returns
        -------
        Heard
            Also the last of :attr:`heard`.

        Raises
        ------
        RunError
            If the clip cannot be read, or the run cannot be asked now.
        """
        from peft_nb.data.audio.clip import at_rate
        from peft_nb.data.audio.clip import clip as read
        from peft_nb.data.audio.player import compressed, data_uri

        try:
            samples = at_rate(read(clip), None).open()
        except RowProblem as problem:
            raise RunError(f"a clip {problem.reason}; {problem.fix}") from None
        found, base = (self.run.adapter.predict(clip, adapter=adapter) for adapter in (True, False))
        texts = found["text"][0], base["text"][0]
        self.heard.append(Heard(data_uri(compressed(samples)), *texts, float(found["seconds"][0])))
        return self.heard[-1]

    def __repr__(self) -> str:
        lines = [f"{self.run.id} writes down speech; ask(clip) transcribes one"]
        for one in self.heard:
            lines += ["", f"clip of {one.seconds:.1f} s", f"  run:  {one.text}", f"  base: {one.base}"]
        return clean("\n".join(lines))

    def _repr_html_(self) -> str:
        return "".join(map(html, reversed(self.heard))) or f"<p>{escape(repr(self))}</p>"


def html(heard: Heard) -> str:
    """Draw a player and both transcripts with the words marked that differ, all escaped."""
    lines = "".join(
        f'<div style="overflow-wrap:anywhere"><span style="{MUTED}">{name}: </span>'
        f'<span dir="auto">{marked(text, other)}</span></div>'
        for name, text, other in (("run", heard.text, heard.base), ("base", heard.base, heard.text))
    )
    told = f"clip of {heard.seconds:.1f} s"
    return clean(f'<section style="margin-top:12px">{player(heard.audio, told)}{lines}</section>')


def listener(runs: Mapping[str, Run]) -> Run | None:
    """The one run of several to choose from, if it takes clips."""
    found = list(runs.values())
    return found[0] if len(found) == 1 and "audio" in found[0].adapter.task.accepts else None
