"""A classifier to try: what it says of a text, and how probable each class is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape

from peft_nb.errors import RunError
from peft_nb.runs.run import Run
from peft_nb.system.display import Displayed, panel_of
from peft_nb.ui.differences import clean
from peft_nb.ui.side_by_side import FOREIGN
from peft_nb.ui.style import MUTED, NUMBERS

OWN = {f"p({name})": name for name in ("text", "label", "probability")}  # classes of these names, and these columns
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
        The answer in short, such as ``praise (93%)``.
    probabilities : dict of str to float
        By class, the most probable first; empty for a task that knows no classes.
    """

    text: str
    said: str
    probabilities: dict[str, float]


class Trial(Displayed):
    """A run that gives labels, to try on texts.

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

    def ask(self, text: str) -> Tried:
        """Ask about a text.

        Parameters
        ----------
        text : str
            Cut as in training where it is too long.

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
            raise RunError("no text was given; write one to be classified")
        found = self.run.predict(text)
        classes = {name: OWN.get(name, name) for name in found.columns if name not in OWN.values()}
        ranked = sorted(((called, float(found[name][0])) for name, called in classes.items()), key=lambda one: -one[1])
        self.tried.append(Tried(text, self.run.adapter.task.said(found)[0], dict(ranked)))
        return self.tried[-1]

    def __repr__(self) -> str:
        lines = [f'{self.run.id} gives labels; ask("…") classifies a text']
        for one in self.tried:
            lines += ["", one.text, *(f"  {share:6.1%}  {name}" for name, share in one.probabilities.items())]
            lines += [f"  {one.said}"] * (not one.probabilities)
        return clean("\n".join(lines))

    def _repr_html_(self) -> str:
        return "".join(map(html, reversed(self.tried))) or f"<p>{escape(repr(self))}</p>"


def html(tried: Tried) -> str:
    """Draw a text and the probabilities of its classes, all escaped."""
    rows = [_bar(name, share) for name, share in tried.probabilities.items()]
    more = f"<details><summary>{len(rows) - SHOWN:,} more classes</summary>{''.join(rows[SHOWN:])}</details>"
    answer = "".join(rows[:SHOWN]) + (more if len(rows) > SHOWN else "")
    said = f"<div><strong>{escape(tried.said)}</strong></div>"
    text = f'<div style="{FOREIGN};{MUTED}" dir="auto">{escape(tried.text)}</div>'
    return clean(f'<section style="margin-top:12px;max-width:520px">{text}{said}{answer}</section>')


def _bar(name: str, share: float) -> str:
    line = f'<span dir="auto">{escape(name)}</span><span style="{NUMBERS}">{share:.1%}</span>'
    style = "display:flex;justify-content:space-between;gap:16px;overflow-wrap:anywhere"
    bar = f'<div style="{BAR};width:{100 * share:.1f}%"></div>'
    return f'<div style="margin-top:4px"><div style="{style}">{line}</div>{bar}</div>'


def only(runs: Mapping[str, Run]) -> Run | None:
    """The one run of several to choose from, if it is one that gives labels."""
    found = list(runs.values())
    return found[0] if len(found) == 1 and not found[0].adapter.task.generates else None
