"""A run that writes no texts, to try: how probable each class of a text or image is, or what is drawn to a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape

from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.system.display import Displayed, panel_of
from peft_nb.ui.differences import clean
from peft_nb.ui.images import DATA_URI, LARGE, picture
from peft_nb.ui.side_by_side import FOREIGN
from peft_nb.ui.style import MUTED, NUMBERS

COLUMNS = ("text", "image", "prompt", "label", "probability")  # of a prediction, beside its classes
OWN = {f"p({name})": name for name in COLUMNS}  # classes of these names
SHOWN = 5  # classes; the others are folded away
BAR = "height:6px;border-radius:3px;background:var(--jp-brand-color1,#1976d2)"


@dataclass(frozen=True)
class Tried:
    """One text and what was said of it.

    Attributes
    ----------
    text : str
        What was asked about.
    said : str
        The answer in short, such as ``praise (93%)``; of what is drawn a small data URI.
    probabilities : dict of str to float
        By class, the most probable first; empty for a task that knows no classes.
    image : str
        What was asked about as a small data URI, if it is an image.
    """

    text: str
    said: str
    probabilities: dict[str, float]
    image: str = ""


class Trial(Displayed):
    """A run that gives labels or draws, to try.

    Attributes
    ----------
    run : Run
        Who is asked.
    tried : list of Tried
        What was asked so far.
    """

    panel = cached_property(panel_of)  # always the same one, which shows what was tried

    def __init__(self, run: Run) -> None:
        if run.adapter.task.generates:
            raise RunError(f"run {run.id} writes texts; chat with it")
        self.run = run
        self.tried: list[Tried] = []

    def ask(self, text: str, image: bytes = b"") -> Tried:
        """Ask about a text or the image of a path, or have something drawn.

        Parameters
        ----------
        text : str
            Cut as in training where it is too long.
        image : bytes, default b""
            The content of an image file, which is asked about then; ``text`` is its name.

        Returns
        -------
        Tried
            Also the last of :attr:`tried`.

        Raises
        ------
        RunError
            If the text is empty, or the run cannot be asked now.
        """
        if not text.strip():
            raise RunError(f"no {'path' if self.wants_a_path else 'text'} was given; write one")
        found = self.run.predict(image or text)
        classes = {name: OWN.get(name, name) for name in found.columns if name not in COLUMNS}
        ranked = sorted(((called, float(found[name][0])) for name, called in classes.items()), key=lambda one: -one[1])
        small = _small(image or text) if self.wants_a_path else ""
        self.tried.append(Tried(text, self.run.adapter.task.said(found)[0], dict(ranked), small))
        return self.tried[-1]

    @property
    def draws(self) -> bool:
        """Whether it draws what is written."""
        return self.run.adapter.task.draws

    @property
    def wants_a_path(self) -> bool:
        """Whether it is asked about files, not about texts."""
        return self.run.adapter.task.base == "vision"

    def __repr__(self) -> str:
        act = "draws" if self.draws else "gives labels"
        lines = [f'{self.run.id} {act}; ask("…") tries it']
        for one in self.tried:
            lines += ["", one.text, *(f"  {share:6.1%}  {name}" for name, share in one.probabilities.items())]
            lines += [f"  {'(an image)' if DATA_URI.fullmatch(one.said) else one.said}"] * (not one.probabilities)
        return clean("\n".join(lines))

    def _repr_html_(self) -> str:
        return "".join(map(html, reversed(self.tried))) or f"<p>{escape(repr(self))}</p>"


def html(tried: Tried) -> str:
    """Draw a text and the probabilities of its classes, all escaped."""
    rows = [_bar(name, share) for name, share in tried.probabilities.items()]
    more = f"<details><summary>{len(rows) - SHOWN:,} more classes</summary>{''.join(rows[SHOWN:])}</details>"
    answer = "".join(rows[:SHOWN]) + (more if len(rows) > SHOWN else "")
    said = picture(tried.said, tried.text, LARGE) or f"<div><strong>{escape(tried.said)}</strong></div>"
    text = f'<div style="{FOREIGN};{MUTED}" dir="auto">{escape(tried.text)}</div>{picture(tried.image, tried.text)}'
    return clean(f'<section style="margin-top:12px;max-width:520px">{text}{said}{answer}</section>')


def _small(image: str | bytes) -> str:
    from peft_nb.data.images.picture import picture as opened
    from peft_nb.data.images.thumbnail import thumbnail

    return thumbnail(opened(image).open())


def _bar(name: str, share: float) -> str:
    line = f'<span dir="auto">{escape(name)}</span><span style="{NUMBERS}">{share:.1%}</span>'
    style = "display:flex;justify-content:space-between;gap:16px;overflow-wrap:anywhere"
    bar = f'<div style="{BAR};width:{100 * share:.1f}%"></div>'
    return f'<div style="margin-top:4px"><div style="{style}">{line}</div>{bar}</div>'


def only(runs: Mapping[str, Run]) -> Run | None:
    """The one run of several to choose from, if it is one that gives labels."""
    found = list(runs.values())
    return found[0] if len(found) == 1 and not found[0].adapter.task.generates else None
