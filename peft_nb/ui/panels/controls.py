"""What a form is made of: controls with what is wrong below them, parts that fold away, lines that follow some work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets

from peft_nb.events import Progress
from peft_nb.spec.names import NAMES
from peft_nb.ui import form
from peft_nb.ui.form import Entry
from peft_nb.ui.panels.debounce import RaiseIfSuperseded, SupersededError
from peft_nb.ui.panels.panel import TICK_S, button
from peft_nb.ui.wording import spoken

LONG = {"system"}  # texts that may have several lines


class Control:
    """One field of a form.

    Parameters
    ----------
    entry : Entry
        What it shows at first.
    offers : mapping of str to list of str
        What there is to choose from, by field, where other things may be written as well.
    changed : callable
        Called when something was typed or chosen.
    """

    def __init__(self, entry: Entry, offers: Mapping[str, list[str]], changed: Callable[[], None]) -> None:
        self.input = _input(entry, offers)
        self.note = prose()
        self.box = ipywidgets.VBox([self.input, self.note])
        self.box.add_class("peft-nb-field")
        self.show(entry)
        self.input.observe(lambda _: changed(), "value")

    @property
    def value(self) -> str | bool:
        """What was typed, chosen or ticked."""
        typed: str | bool = self.input.value
        return typed if isinstance(typed, bool) or isinstance(self.input, ipywidgets.Textarea) else typed.strip()

    @value.setter
    def value(self, value: str | bool) -> None:
        self.input.value = value

    def show(self, entry: Entry, found: bool = True) -> None:
        """Show what is wrong with the field and what it means, or nothing where it has no use or is not looked for."""
        self.input.description = form.label(entry)
        self.input.tooltip = entry.help
        if isinstance(self.input, ipywidgets.Text):
            self.input.placeholder = entry.usual
        self.note.value = form.note(entry)
        (self.box.add_class if entry.problem else self.box.remove_class)("peft-nb-invalid")
        self.box.layout.display = None if entry.used and found else "none"


def _input(entry: Entry, offers: Mapping[str, list[str]]) -> ipywidgets.Widget:
    info = entry.info
    if info.type == "switch":
        return ipywidgets.Checkbox(indent=False)
    if info.name == "method":
        return ipywidgets.Dropdown(options=form.method_names())
    if info.type == "choice":
        return choice([*NAMES.get(info.name, info.choices)], "method's default" if info.default is None else None)
    if info.name in offers:
        # Only what is whole is looked for: half a name could be one on the hub.
        return ipywidgets.Combobox(options=offers[info.name], continuous_update=False)
    return ipywidgets.Textarea(rows=2) if info.name in LONG else ipywidgets.Text()


def choice(words: Sequence[str], none: str | None = None, **traits: Any) -> ipywidgets.Dropdown:
    """Let one of some words be chosen, or also none, which is called by `none`."""
    nothing = [] if none is None else [(none, "")]
    return ipywidgets.Dropdown(options=[*nothing, *((word, word) for word in words)], **traits)


class Collapsible:
    """A part of a panel that is shown when its button is pressed; the button says which it will do.

    The accordion of ipywidgets cannot be opened by keyboard.
    """

    def __init__(self, what: str, children: Sequence[ipywidgets.Widget], *, hidden: bool = False) -> None:
        self._what = what
        self.button = button("", lambda: self.open(self.inside.layout.display == "none"))
        self.inside = ipywidgets.VBox(children)
        self.box = ipywidgets.VBox([self.button, self.inside])
        self.box.add_class("peft-nb-collapsible")
        self.offer(not hidden)
        self.open(False)

    def offer(self, there_is: bool) -> None:
        """Show the button, or nothing while there is nothing to show."""
        self.box.layout.display = None if there_is else "none"

    def open(self, opened: bool = True) -> None:
        """Show the part, or fold it away."""
        self.inside.layout.display = None if opened else "none"
        self.button.description = f"{'▼' if opened else '►'} {self._what}"
        self.button.tooltip = f"{'Hide' if opened else 'Show'}: {self._what}"


class StatusLine:
    """A line that says how far some work is and what came of it, with the whole of it folded away below.

    Parameters
    ----------
    whole : str
        What is folded away.
    """

    def __init__(self, whole: str) -> None:
        self.said = ""
        self.line, self.whole = prose(), prose()
        self.details = Collapsible(whole, [self.whole], hidden=True)
        self.box = ipywidgets.VBox([self.line, self.details.box])

    def say(self, text: str) -> None:
        """Say something, which screen readers announce."""
        self.said = text
        self.line.value = f'<div role="status">{escape(text)}</div>'

    def run(self, doing: str, superseded: RaiseIfSuperseded, work: Callable[[Progress], tuple[str, str]]) -> None:
        """Do some work, in a thread that may take its time, and say how it goes.

        Parameters
        ----------
        doing : str
            Such as ``checking the data``.
        superseded : callable
            Raises :class:`SupersededError` once nobody waits for the work any more.
        work : callable
            Gets a function to tell how far it is; returns what came of it, in a line and the whole of it as HTML.
        """
        self.line.value, told = escape(f"{doing} …"), time.monotonic()

        def tell(share: float, what: str) -> None:
            nonlocal told
            superseded()
            if time.monotonic() - told > TICK_S:
                self.line.value, told = escape(f"{doing}: {what} …"), time.monotonic()

        try:
            said, whole = work(tell)
        except SupersededError:
            raise
        except Exception as error:
            said, whole = f"Error: {spoken(error)}", ""
        superseded()
        self.say(said)
        self.whole.value = whole
        self.details.offer(bool(whole))


def prose() -> ipywidgets.HTML:
    """Make room for text, in which what is too long for a line is broken."""
    made = ipywidgets.HTML()
    made.add_class("peft-nb-text")
    return made


def grid(boxes: Sequence[ipywidgets.Widget]) -> ipywidgets.Box:
    """Put fields beside each other, as many as the width holds."""
    box = ipywidgets.Box(boxes)
    box.add_class("peft-nb-grid")
    return box
