"""What every panel is made of: a box, buttons that work in the background, and one line that says how it went.

Callbacks return at once. Work is done in a thread of its own, one piece at a time; another thread, and nothing else,
writes what it says into the panel, five times a second at most. What goes wrong is shown in the panel.

A panel is two outputs: the widgets, and right below them its page (:meth:`Panel.page`), static HTML under a display id
which :meth:`Panel.keep` brings up to date. One of the two is seen at a time; what each front end does:

* JupyterLab and Notebook 7: while the widgets live, their style hides the page. Once the kernel is gone (restarted,
  died, shut down) the widgets give way to one line, ``kernel gone: COMMAND``, and the page is shown. In a notebook that
  is opened without its kernel the page alone is shown: its style hides "model not found". An untrusted notebook lets
  no style through; there that line stands above the page.
* VS Code and Colab: the same rule hides the page while the widgets live, if all outputs of the cell are in one
  document; in a notebook that is opened again the page stands below whatever they write for a widget without a kernel.
* nbconvert, nbviewer, GitHub: the page alone; the widgets' output is an empty text there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import anywidget
import ipywidgets
import traitlets

from peft_nb.events import Progress
from peft_nb.system import ipykernel_private
from peft_nb.ui.style import staying
from peft_nb.ui.wording import spoken

TICK_S = 0.2
# A field whose label is never cut off, and which takes the width there is.
LABEL = {"description_width": "initial"}
FIELD = {"width": "auto", "max_width": "calc(100% - 4px)"}  # 2 px of margin on both sides
Tell = Callable[[str], None]
Work = Callable[[Tell], str]


class Keyboard(anywidget.AnyWidget):
    """Shows nothing; gives the panel that it lies in its style, and lets what is pressed there stay there.

    Attributes
    ----------
    views : int or None
        How often a page shows the panel; None before any has.
    key : str
        Ties the widgets to the page below them.
    again : str
        What brings the panel back once its kernel is gone.
    """

    _esm = Path(__file__).with_name("panel.js")
    _css = Path(__file__).with_name("panel.css")
    views = traitlets.Int(None, allow_none=True).tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)
    again = traitlets.Unicode().tag(sync=True)


class Panel:
    """A box of widgets with a line at its end that says what happens; panels are made of it.

    Parameters
    ----------
    name : str
        What it is, for the text that stands in where there are no widgets.
    children : sequence of ipywidgets.Widget
        What it shows, from top to bottom.

    Attributes
    ----------
    box : ipywidgets.VBox
        All of it.
    command : str
        What brings the panel back once its kernel is gone, such as ``%peft runs``; of the class or of the panel.
    result : object or None
        The result that is shown by the panel; its own HTML and text are then the page.
    """

    command = ""
    result: Any = None

    def __init__(self, name: str, children: Sequence[ipywidgets.Widget]) -> None:
        self.name = name
        self._outcome = ipywidgets.HTML()
        self._outcome.add_class("peft-nb-outcome")
        self._busy = threading.Lock()
        self._key, self._kept = uuid4().hex, ""
        self._keyboard = Keyboard(key=self._key)
        self.box = ipywidgets.VBox([self._keyboard, *children, self._outcome])
        self.box.add_class("peft-nb")

    def __repr__(self) -> str:
        return f"<peft_nb {self.name}>"

    def page(self) -> str:
        """Return what is left of the panel where no kernel runs, as HTML; a panel over no result overrides it."""
        return f"<p>{escape(self.text())}</p>" if self.result is None else self.result._repr_html_()

    def text(self) -> str:
        """Say the page in plain text, for front ends without HTML."""
        again = f"{self.name}: to show it, run {self.command or 'the cell again'}"
        return again if self.result is None else repr(self.result)

    def keep(self) -> None:
        """Bring the page up to date; called after work in the background, and by a panel whenever its page changes.

        Does nothing for a panel that is not displayed by itself, such as one inside another.
        """
        if self._kept and (page := self.page()) != self._kept:
            self._publish(page, update=True)

    def _publish(self, page: str, *, update: bool) -> None:
        from IPython.display import publish_display_data

        self._kept = page
        publish_display_data(
            {"text/html": staying(page, self._key), "text/plain": self.text()},
            transient={"display_id": self._key},
            update=update,
        )

    def _ipython_display_(self) -> None:
        from IPython.display import publish_display_data

        _let_through(self.box)
        self._keyboard.again = self.command
        publish_display_data({**self.box._repr_mimebundle_(), "text/plain": ""})
        self._publish(self.page(), update=bool(self._kept))

    @property
    def closed(self) -> bool:
        """Whether the panel was closed, or no page shows it any more."""
        return self.box.comm is None or self._keyboard.views == 0

    def say(self, text: str) -> None:
        """Say what has happened, which screen readers announce."""
        self._outcome.value = f'<div role="status">{escape(text)}</div>'

    def fail(self, error: Exception) -> None:
        """Say what went wrong: a user's mistake in its line, anything else with its kind, and in the log."""
        self._outcome.value = f'<div role="alert">Error: {escape(spoken(error))}</div>'

    def attempt(self, act: Callable[[], str | None]) -> None:
        """Do at once what takes no time, and say what it returns or what went wrong."""
        try:
            said = act()
        except Exception as error:
            self.fail(error)
        else:
            if said is not None:
                self.say(said)

    def in_background(
        self,
        doing: str,
        work: Work,
        then: Callable[[], None] = lambda: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Work in a thread of its own, and say how far it is and how it went.

        Parameters
        ----------
        doing : str
            Such as ``merging``; said until the work says more.
        work : callable
            Gets a function to say how far it is, and returns what to say at the end. It touches no widget.
        then : callable
            What to do to the panel afterwards, however the work went.
        meanwhile : callable
            What to do to the panel five times a second until then, such as to show what grows.
        """
        if not self._busy.acquire(blocking=False):
            self.say(f"{doing}: wait, something else is still running here")
            return
        self.say(f"{doing} …")
        steps = (doing, work, then, meanwhile)
        threading.Thread(target=self._pump, args=steps, name=f"peft_nb-{doing}", daemon=True).start()

    def _pump(self, doing: str, work: Work, then: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        told: list[str] = []
        found: list[str | Exception] = []

        def job() -> None:
            try:
                found.append(work(told.append))
            except BaseException as error:
                found.append(error if isinstance(error, Exception) else RuntimeError(f"{doing} was interrupted"))

        worker = threading.Thread(target=job, daemon=True)
        worker.start()
        said = 0
        while worker.is_alive():
            worker.join(TICK_S)
            if len(told) > said:
                said = len(told)
                self.say(told[-1])
            self.attempt(meanwhile)
        self._busy.release()
        try:
            then()  # what is said to be there is seen by then
            self.keep()
        except Exception as error:
            found[0] = error
        outcome = found[0]
        self.fail(outcome) if isinstance(outcome, Exception) else self.say(outcome)


def progress(tell: Tell) -> Progress:
    """Make a progress whose share and stage are said in a panel."""
    return lambda share, what: tell(f"{what} ({share:.0%})" if share else f"{what} …")


def _let_through(widget: ipywidgets.Widget) -> None:
    """Let what is pressed arrive while a cell is running."""
    if widget.comm is not None:
        ipykernel_private.answer_where_sent(widget.comm)
    for child in getattr(widget, "children", ()):
        _let_through(child)


def button(label: str, act: Callable[[], None], *, help: str = "", primary: bool = False) -> ipywidgets.Button:
    """Make a button.

    Parameters
    ----------
    label : str
        What stands on it.
    act : callable
        Called in the kernel when it is pressed; returns at once (:meth:`Panel.attempt`, :meth:`Panel.in_background`).
    help : str
        Shown when the pointer rests on it.
    primary : bool
        Whether it is what people mostly want next.
    """
    made = ipywidgets.Button(description=label, tooltip=help or label, button_style="primary" if primary else "")
    made.on_click(lambda _: act())
    return made


def put(box: ipywidgets.Box, *children: ipywidgets.Widget) -> None:
    """Show these, and nothing else, in a box that may be on display already."""
    for child in children:
        _let_through(child)
    box.children = children


def row(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Put widgets beside each other, on as many lines as the width needs."""
    box = ipywidgets.Box(children)
    box.add_class("peft-nb-row")
    return box
