"""The panel of labelling: one row after the other, by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from peft_nb.runs.labelling import Item
from peft_nb.ui import label as page
from peft_nb.ui import wording
from peft_nb.ui.label import Labels
from peft_nb.ui.panels.panel import FIELD, LABEL, Panel, Tell, button, row

ACCEPT, SKIP, UNDO, WRITE = "enter", " ", "backspace", "/"


class Sheet(anywidget.AnyWidget):
    """A row whose keys and buttons can be pressed.

    Parameters
    ----------
    act : callable
        Gets what was pressed: ``key`` or the ``name`` of a class, and ``row``, for which row.
    """

    _esm = Path(__file__).with_name("label.js")
    _css = Path(__file__).with_name("label.css")
    value = traitlets.Unicode().tag(sync=True)

    def __init__(self, act: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self.add_class("peft-nb-label")
        self.on_msg(lambda widget, content, buffers: act(content))


class LabelPanel(Panel):
    """Label rows.

    Parameters
    ----------
    labels : Labels
        What :func:`peft_nb.label` gives.

    Attributes
    ----------
    sheet : Sheet
        The row; Enter accepts the guess, digits and letters choose, Space skips, Backspace takes back, / writes.
    written : ipywidgets.Combobox or ipywidgets.Textarea
        Another class, of which Enter takes it, or the answer.
    item : Item or None
        The row that is shown.
    """

    command = "%peft label"

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.item: Item | None = None
        self._waiting = False  # for the answers to the next row
        work, self._state = labels.labelling, ipywidgets.HTML()
        self.sheet = Sheet(self.pressed)
        if work.classes:
            self.written: Any = ipywidgets.Combobox(
                options=work.classes, description="Class", placeholder="another one, or +NAME for a new one",
                ensure_option=False, continuous_update=False, style=LABEL, layout=FIELD,
            )  # fmt: skip
            self.written.observe(lambda change: self._typed(change["new"]), "value")
        else:
            self.written = ipywidgets.Textarea(description="Answer", rows=4, style=LABEL, layout=FIELD)
        curve = [button("Curve", self.curve, help="Measure the strategy against random choice on these labels")]
        super().__init__(
            "labelling",
            [
                self.sheet,
                self.written,
                row(
                    button("Accept", lambda: self._do(self._label), help="Take the guess (Enter)", primary=True),
                    *([] if work.classes else [button("Use the answer", self._use, help="Take what is written")]),
                    button("Skip", lambda: self._do(work.skip), help="Leave this row out (Space)"),
                    button("Undo", lambda: self._do(work.undo), help="Take back the last decision (Backspace)"),
                ),
                self._state,
                row(
                    *(curve if work.classes else []),
                    button("Retrain", self.retrain, help="Train from this adapter on its rows and the labelled ones"),
                ),
            ],
        )
        self._show()

    def pressed(self, told: Mapping[str, Any]) -> None:
        """Do what a key or a button of the sheet stands for, unless another row is shown by now."""
        item, key = self.item, told.get("key", "")
        if told.get("row", "") != (item.key if item else "") and key != UNDO:
            return
        work = self.labels.labelling
        if key == UNDO:
            self._do(work.undo)
        elif item is None:
            return
        elif key == WRITE:
            self.written.focus()
        elif key in (ACCEPT, SKIP):
            self._do(self._label if key == ACCEPT else work.skip)
        elif name := told.get("name") or self._named(item, key):
            self._do(self._label, name)

    def _named(self, item: Item, key: str) -> str:
        """The class or answer that a key stands for."""
        choices = [*item.probabilities] or [*item.answers]
        place = page.KEYS.find(key)
        return choices[place] if key and 0 <= place < len(choices) else ""

    def _typed(self, name: str) -> None:
        """Take the class that was written, and make room for the next one."""
        if name.strip():
            self._do(self._label, name)
            self.written.value = ""

    def _label(self, answer: str | None = None) -> None:
        self.labels.labelling.label(answer)

    def _use(self) -> None:
        self._do(self._label, self.written.value)

    def _do(self, act: Callable[..., Any], *given: str) -> None:
        """Decide, and show the next row; where texts are written that takes its time."""
        if self._waiting or (self._busy.locked() and not self.labels.labelling.classes):
            self.say("wait, something else is still running here")
            return

        def decided() -> str:
            act(*given)
            return ""

        self.attempt(decided)
        self._show()

    def _show(self) -> None:
        if self.labels.labelling.classes:
            self.item = self.labels.next()
            self._draw()
        else:
            self._waiting = True
            self.in_background("answering", self._answered, self._draw)

    def _answered(self, tell: Tell) -> str:
        self.item = self.labels.next()
        return ""

    def _draw(self) -> None:
        work, self._waiting = self.labels.labelling, False
        self.sheet.value = page.card(self.item, work)
        self.written.value = self.item.guess if self.item and not work.classes else ""
        self._state.value = page.page(work)
        self.keep()

    def curve(self) -> None:
        """Measure the strategy against random choice."""
        self.in_background("measuring the curve", lambda tell: self.labels.curve().verdict, self._draw)

    def retrain(self) -> None:
        """Train a new run with the labelled rows."""
        self.in_background("training", self._retrain, self._draw)

    def _retrain(self, tell: Tell) -> str:
        work = self.labels.labelling
        run = work.retrain()
        tell(f"{run.id} is training; %peft show {run.id} shows it")
        run.wait()
        before, after = (one.metrics for one in (work.run, run))
        name = next(name for name in ("accuracy", "eval_loss", "train_loss") if name in after)
        say = partial(wording.measured, unit="share" if name == "accuracy" else "loss")
        was = f", before {say(before[name])}" if name in before else ""
        return f"{run.version or run.id} is trained: {name.replace('_', ' ')} {say(after[name])}{was}"
