"""``%peft checklist``: a checklist as a page, blanks marked."""

from __future__ import annotations

from html import escape

from peft_nb.runs.checklist import NO_ADVICE, Checklist
from peft_nb.ui.listing import left
from peft_nb.ui.style import BOX, MUTED


class Page:
    """A checklist as a notebook shows it.

    Parameters
    ----------
    made : Checklist
        What is shown.
    """

    def __init__(self, made: Checklist) -> None:
        self.made = made

    def __repr__(self) -> str:
        made = self.made
        lines = [f"{made.title}: {made.run}", NO_ADVICE, f"{made.law}, {made.link}", f"{made.said}", ""]
        lines += [f"{one.at} · {one.asks}: {one.answer or '(blank)'}" for one in made.items]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        made = self.made
        blank = f'<span style="{MUTED}">(blank)</span>'
        rows = "".join(
            f'<tr><th scope="row" {left(one.at)}>{escape(one.at)}</th><td {left(one.asks)}>{escape(one.asks)}</td>'
            f"<td {left(one.answer)}>{escape(one.answer) or blank}</td></tr>"
            for one in made.items
        )
        head = "".join(f'<th scope="col" {left(name)}>{name}</th>' for name in ("where", "what", "answer"))
        source = f'<a href="{escape(made.link)}" target="_blank" rel="noopener">{escape(made.law)}</a>'
        return (
            f'<div style="{BOX}"><div><b>{escape(made.title)}: {escape(made.run)}</b></div><div>{NO_ADVICE}</div>'
            f'<div style="{MUTED}">{source} · {made.said}</div>'
            f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )
