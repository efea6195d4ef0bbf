"""Clips to listen to, what is said in them and what a model wrote down, as HTML that stays in a saved notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from peft_nb.ui.differences import marked
from peft_nb.ui.style import MUTED

# Whatever else a store may hold is not played.
DATA_URI = re.compile(r"data:audio/(mpeg|wav);base64,[A-Za-z0-9+/=]+")
LINE = "display:flex;flex-wrap:wrap;gap:2px 12px;margin:4px 0"  # the text below its player where there is little room
TEXT = "flex:1 1 200px;min-width:0;text-align:left;overflow-wrap:anywhere"


class Shown(NamedTuple):
    """A clip as a data URI, what is said in it, what was written down, and more, such as how much of that is wrong."""

    audio: str
    reference: str
    answer: str = ""
    more: str = ""


def player(audio: str, told: str) -> str:
    """Draw a player; nothing but a small data URI is ever loaded.

    Parameters
    ----------
    audio : str
        A data URI of an MP3 or WAV.
    told : str
        What it is, for who cannot hear it.

    Returns
    -------
    str
        An HTML element; empty for anything else.
    """
    if not DATA_URI.fullmatch(audio):
        return ""
    style = "width:220px;max-width:100%;height:32px"
    return f'<audio controls preload="none" src="{audio}" aria-label="{escape(told)}" style="{style}"></audio>'


def table(title: str, shown: Iterable[Shown], folded: bool = False) -> str:
    """Draw clips, one a line, with the words marked in which a transcript differs.

    Parameters
    ----------
    title : str
        What they are.
    shown : iterable of Shown
        The clips.
    folded : bool, default False
        Whether they are shown only when asked for.

    Returns
    -------
    str
        An HTML fragment that needs neither scripts nor style sheets; foreign text is escaped.
    """
    lines = []
    for one in shown:
        said = marked(one.reference, one.answer) if one.answer else escape(one.reference)
        written = f'<br/><span dir="auto">→ {marked(one.answer, one.reference)}</span>' if one.answer else ""
        more = f'<br/><span style="{MUTED}">{escape(one.more)}</span>' if one.more else ""
        lines.append(
            f'<div style="{LINE}"><div style="flex:0 1 220px">{player(one.audio, one.reference)}</div>'
            f'<div style="{TEXT}"><span dir="auto">{said}</span>{written}{more}</div></div>'
        )
    return f"<details{'' if folded else ' open'}><summary>{escape(title)}</summary>{''.join(lines)}</details>"
