"""What a panel shows and can be pressed in it, found without a front end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

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


@contextmanager
def published() -> Iterator[list[dict[str, Any]]]:
    """What is published meanwhile: the bundles, in which an update takes the place of what it updates."""
    bundles: list[dict[str, Any]] = []
    places: dict[str, int] = {}

    def publish(data: dict[str, Any], *, transient: dict[str, str] | None = None, update: bool = False) -> None:
        key = (transient or {}).get("display_id", "")
        if update:
            bundles[places[key]] = data
        else:
            places[key] = len(bundles)
            bundles.append(data)

    with patch("IPython.display.publish_display_data", publish):
        yield bundles
