"""The panel of a server: its state and traffic while it runs, how to ask it, and a button that stops it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import anywidget
import ipywidgets
import traitlets

from peft_nb.ui import serve
from peft_nb.ui.panels.panel import Panel, Tell, button, row
from peft_nb.ui.serve import OVER, Serving

LOOK_S = 1.0
KEEP_S = 10.0  # between two writings of the page that stays


class Snippet(anywidget.AnyWidget):
    """Code to copy.

    Attributes
    ----------
    name, code : str
        What it is for, and what is copied.
    """

    _esm = Path(__file__).with_name("snippet.js")
    _css = Path(__file__).with_name("snippet.css")
    name = traitlets.Unicode().tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)


class ServePanel(Panel):
    """Watch a server and stop it.

    Parameters
    ----------
    serving : Serving
        What ``%peft serve`` gives.

    Attributes
    ----------
    state : ipywidgets.HTML
        How it stands, brought up to date every second.
    stop : ipywidgets.Button
        Stops it.
    """

    command = "%peft serve"

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.state = ipywidgets.HTML()
        self.stop = button("Stop", self.end, help="Stop the server; what takes longer than 5 s to answer is cut off")
        self.snippets = [Snippet(name=name, code=code) for name, code in serving.snippets().items()]
        super().__init__("server", [self.state, row(self.stop), *self.snippets])
        self.draw()
        threading.Thread(target=self._watch, name="peft_nb-serve", daemon=True).start()

    def draw(self) -> bool:
        """Show how the server stands, and tell whether it is over."""
        status = self.serving.look()
        over = status["state"] in OVER
        self.state.value = serve.html(self.serving.server.address, status)
        self.stop.disabled = over
        for snippet in self.snippets:
            snippet.layout.display = "none" if over else None
        return over

    def end(self) -> None:
        """Stop the server."""
        self.in_background("stopping the server", self._end)

    def _end(self, tell: Tell) -> str:
        self.serving.server.stop()
        return "the server is stopped"

    def _watch(self) -> None:
        kept = time.monotonic()
        over = False
        while not over and not self.closed:
            time.sleep(LOOK_S)
            over = self.draw()
            if over or time.monotonic() - kept > KEEP_S:
                kept = time.monotonic()
                self.keep()
