"""The choice of a format to export a run in: what each writes, what it offers besides, or why it is not possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import ipywidgets

from peft_nb.adapters.exporters import EXPORTERS
from peft_nb.ui.panels.controls import choice, prose
from peft_nb.ui.panels.panel import FIELD, LABEL, button, put, row


class ExportForm:
    """Lets a format be chosen.

    Parameters
    ----------
    obstacles : mapping of str to str
        By the name of a format, why the run cannot be written so; empty where it can.
    write : callable
        Writes the run: gets the name of the format and its options.
    """

    def __init__(self, obstacles: Mapping[str, str], write: Callable[[str, dict[str, Any]], None]) -> None:
        self._obstacles, self._write = obstacles, write
        self._options: dict[str, Any] = {}
        self.format = choice(list(obstacles), description="Format", style=LABEL)
        self.format.observe(lambda _: self._show(), "value")
        self.button = button("Write", self._press, help="Write the run in this format", primary=True)
        self._told, self._result, self._more = prose(), ipywidgets.HTML(), row()
        self.box = ipywidgets.VBox([row(self.format, self.button), self._told, self._more, self._result])
        self._show()

    def _show(self) -> None:
        """Say what the chosen format is, and offer its options."""
        one = EXPORTERS[self.format.value]
        why = self._obstacles[one.name]
        self._told.value = f"<p>{escape(f'not possible: {why}' if why else one.help)}</p>"
        self.button.disabled = bool(why)
        self._options = (
            {} if why else {name: _input(one.is_switch(name), name, help) for name, help in one.options.items()}
        )
        put(self._more, *self._options.values())

    def _press(self) -> None:
        options = {name: field.value for name, field in self._options.items()}
        self._write(self.format.value, {name: value for name, value in options.items() if value not in ("", False)})

    def show(self, html: str) -> None:
        """Show what came of it."""
        self._result.value = html


def _input(switch: bool, name: str, help: str) -> Any:
    label = name.replace("_", " ")
    if switch:
        return ipywidgets.Checkbox(description=label, tooltip=help, indent=False)
    return ipywidgets.Text(description=label, tooltip=help, placeholder=help, style=LABEL, layout=FIELD)
