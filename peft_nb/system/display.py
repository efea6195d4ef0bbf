"""How a result shows itself: by the panel registered for its type where widgets are shown, else by its text and HTML.

Results know no widgets. Which panel shows them is registered by name, so that a panel, and the widget libraries with
it, is imported when the first result is shown by it.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from peft_nb.system import frontend

PANELS: dict[str, str] = {}
"""What makes the panel of a result, as ``"module:name"``, by the type of the result, as ``"module.Type"``."""

PAGES: dict[str, str] = {}
"""What draws a result as static HTML, likewise."""


def panel_of(result: Any, *arguments: Any) -> Any:
    """Make the panel registered for the type of a result.

    Parameters
    ----------
    result : object
        What the panel shows.
    *arguments : object
        What else the panel needs.

    Returns
    -------
    peft_nb.ui.panels.panel.Panel
        A new one.
    """
    return _registered(PANELS, result)(result, *arguments)


def _registered(table: dict[str, str], result: Any) -> Any:
    types = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(result).__mro__)
    return resolve_name(next(table[name] for name in types if name in table))


class Paged:
    """A result for whose type a page is registered; it brings its text."""

    def _repr_html_(self) -> str:
        page: str = _registered(PAGES, self)(self)
        return page


class Displayed:
    """A result for whose type a panel is registered; it brings its text and its HTML."""

    @property
    def panel(self) -> Any:
        """A new panel over all of this; what a front end that has widgets shows."""
        return panel_of(self)

    def _ipython_display_(self) -> None:
        if not frontend.widgets():
            raise NotImplementedError  # then IPython shows its own text and HTML
        panel = self.panel
        panel.result = self
        panel._ipython_display_()
