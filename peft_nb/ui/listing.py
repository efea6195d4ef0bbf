"""Tables as people read them: numbers to the right with separators, text to the left, and nothing cut."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

import pandas

from peft_nb.ui.style import NUMBERS

WIDTH = 120  # letters of a line in a terminal; columns that have no room stand below
SHORT = 20  # letters of a cell, or of a word, that stays on one line


class Listing(pandas.DataFrame):
    """A table that is shown whole; what is taken from it is a plain DataFrame."""

    @property
    def _constructor(self) -> type[pandas.DataFrame]:
        return pandas.DataFrame

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)


def text(table: pandas.DataFrame) -> str:
    """Write a table for a terminal."""
    if table.empty:
        return str(table.to_string())
    shown = {}
    for name in table:
        cells, title = [_cell(value) for value in table[name]], str(name)
        if not _numbers(table[name]):
            width = max(map(len, [title, *cells]))
            cells, title = [cell.ljust(width) for cell in cells], title.ljust(width)
        shown[title] = cells
    lines = pandas.DataFrame(shown, index=table.index).to_string(line_width=WIDTH, max_colwidth=None)
    return "\n".join(line.rstrip() for line in lines.splitlines())


def html(table: pandas.DataFrame) -> str:
    """Draw a table; all of it is escaped."""
    whole = table.reset_index() if table.index.name else table
    align = {name: f"vertical-align:top;text-align:{'right' if _numbers(whole[name]) else 'left'}" for name in whole}
    head = "".join(f'<th scope="col" style="{align[name]}">{escape(str(name))}</th>' for name in whole)
    body = ""
    for row in whole.to_dict("records"):
        cells = ((align[name], _cell(value)) for name, value in row.items())
        shown = (f'<td style="{side}{_wrap(cell)}">{escape(cell, quote=False)}</td>' for side, cell in cells)
        body += f"<tr>{''.join(shown)}</tr>"
    scrolled = 'tabindex="0" role="region" aria-label="table" style="overflow-x:auto"'  # by the keyboard too
    return f"<div {scrolled}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _wrap(cell: str) -> str:
    return ";white-space:nowrap" if len(cell) <= SHORT else ""


def _numbers(column: pandas.Series[Any]) -> bool:
    types = pandas.api.types
    return bool(types.is_numeric_dtype(column) and not types.is_bool_dtype(column))


def _cell(value: Any) -> str:
    if value is None or value is pandas.NA or value != value:  # which a missing number is
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{datetime.fromtimestamp(value.timestamp()) if value.tzinfo else value:%Y-%m-%d %H:%M}"  # local time
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) >= 0.1 or not value else f"{value:.3g}"
    return str(value)


def rows(head: Sequence[str], texts: Sequence[Sequence[str]]) -> str:
    """Draw a small table of texts, one sequence a row, all escaped."""
    names = "".join(f'<th scope="col" {left(name)}>{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(f'<td {left(cell)}>{escape(cell)}</td>' for cell in row)}</tr>" for row in texts)
    inside = f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody>"
    return f'<div style="overflow-x:auto"><table style="border-collapse:collapse;{NUMBERS}">{inside}</table></div>'


def left(cell: str) -> str:
    """The style of a cell of text, which breaks within a word only where one is very long."""
    breaks = ";overflow-wrap:anywhere" if any(len(word) > SHORT for word in cell.split()) else ""
    return f'style="text-align:left;vertical-align:top;padding:2px 16px 2px 0{breaks}"'
