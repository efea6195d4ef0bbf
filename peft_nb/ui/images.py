"""A grid of small images with captions, as HTML that stays in a saved notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from peft_nb.ui.style import MUTED

DATA_URI = re.compile(r"data:image/(jpeg|png);base64,[A-Za-z0-9+/=]+")  # whatever else a store may hold is not shown
CELL = "margin:0;width:96px;font-size:12px;line-height:1.3;overflow-wrap:anywhere"
SIDE, LARGE = 96, 224  # pixels of an image among others, and of one alone, at most
PICTURE = "min-width:48px;max-width:min(100%,{side}px);max-height:{side}px;vertical-align:middle;border-radius:2px"


class Shown(NamedTuple):
    """An image as a data URI, and what is said below it: first the main thing, then more."""

    image: str
    said: str
    more: str = ""


def picture(image: str, told: str, side: int = SIDE) -> str:
    """Draw one image; nothing but a small data URI is ever loaded.

    Parameters
    ----------
    image : str
        A data URI of a JPEG or PNG.
    told : str
        What it is, for who cannot see it.
    side : int, default 96
        Pixels of the longer side, at most.

    Returns
    -------
    str
        An HTML element; empty for anything else.
    """
    if not DATA_URI.fullmatch(image):
        return ""
    return f'<img src="{image}" alt="{escape(told)}" style="{PICTURE.format(side=side)}"/>'


def grid(title: str, shown: Iterable[Shown], folded: bool = False) -> str:
    """Draw images with their captions, as many in a line as there is room.

    Parameters
    ----------
    title : str
        What they are.
    shown : iterable of Shown
        The images.
    folded : bool, default False
        Whether they are shown only when asked for.

    Returns
    -------
    str
        An HTML fragment that needs neither scripts nor style sheets; foreign text is escaped.
    """
    cells = "".join(
        f'<figure style="{CELL}">{picture(one.image, one.said)}<figcaption dir="auto">{escape(one.said)}'
        + (f'<br/><span style="{MUTED}">{escape(one.more)}</span>' if one.more else "")
        + "</figcaption></figure>"
        for one in shown
    )
    return (
        f"<details{'' if folded else ' open'}><summary>{escape(title)}</summary>"
        f'<div style="display:flex;flex-wrap:wrap;gap:8px;margin:4px 0">{cells}</div></details>'
    )
