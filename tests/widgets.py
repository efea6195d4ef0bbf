"""What a panel shows and can be pressed in it, found without a front end."""

from __future__ import annotations

from collections.abc import Iterator

import ipywidgets


def walk(box: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    """All that lies in a box, from top to bottom."""
    for child in getattr(box, "children", ()):
        yield child
        yield from walk(child)


def words_of(box: ipywidgets.Widget) -> str:
    """All HTML in a box."""
    return "\n".join(one.value for one in walk(box) if isinstance(one, ipywidgets.HTML))


def button_of(box: ipywidgets.Widget, label: str) -> ipywidgets.Button:
    """The first button on which this stands."""
    buttons = (one for one in walk(box) if isinstance(one, ipywidgets.Button))
    return next(one for one in buttons if one.description.removesuffix(" …") == label)
