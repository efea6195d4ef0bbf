"""``peft_nb.explain`` and ``%peft explain``: which words made an answer, and which training rows did."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy

from peft_nb.data.prompts import short
from peft_nb.runs.explain import Explanation
from peft_nb.runs.run import Run, load
from peft_nb.ui import listing
from peft_nb.ui.progress_bar import progress_bar
from peft_nb.ui.style import BOX, MUTED

if TYPE_CHECKING:
    from peft_nb.evaluation.attribution import Cells
    from peft_nb.store import Store

FOR, AGAINST = (38, 110, 200), (214, 110, 20)  # blue and orange, which most eyes tell apart, on light and on dark
MARKED = 0.25  # of the strongest weight, from which on a word is marked with its sign
LISTED = 10  # parts in the table
WIDE = 336  # pixels of an image that is shown


def explain(
    run: Run | str,
    prompt: Any,
    *,
    answer: str | None = None,
    by: Literal["ablation", "shapley"] = "ablation",
    rows: int = 0,
    max_new_tokens: int = 64,
    store: Store | None = None,
) -> Explanation:
    """Say which words of a prompt made a run's answer, or which cells of an image, and which training rows did.

    Parameters
    ----------
    run : Run or str
        The run, or its id or name in the store.
    prompt, answer, by, rows, max_new_tokens
        As of :meth:`.Run.explain`.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Explanation
        ``.table``, ``.training_rows``; shown by a notebook.

    Raises
    ------
    DataError, MethodError, RunError
        As :meth:`.Run.explain`.
    """
    found = run if isinstance(run, Run) else load(run, store=store)
    how: dict[str, Any] = {"answer": answer, "by": by, "rows": rows, "max_new_tokens": max_new_tokens}
    with progress_bar() as progress:
        return found.explain(prompt, progress=progress, **how)


def page(found: Explanation) -> str:
    """Draw the words in colour with their signs, the strongest in a table, and the training rows."""
    parts = [f"<div><b>{escape(found.run)}</b> answers: <b>{escape(found.answer)}</b></div>"]
    if found.base_answer is not None:
        parts.append(f'<div style="{MUTED}">its base model answers: {escape(found.base_answer)}</div>')
    unit = f"log-probability of {'the answer' if found.base_answer is not None else 'each class'}, in nats"
    told = "left out alone" if found.by == "ablation" else "by Shapley values"
    what = f"What each {'cell' if found.cells else 'word'} adds to the {unit}, {told}"
    parts.append(f'<div style="{MUTED}">{what}; + and blue for it, − and orange against it.</div>')
    if found.cells:
        parts.append(picture(found.cells, found.weights[0], found.sides[0]))
    else:
        parts += [words(*one, found) for one in zip(found.sides, found.weights, found.ends.T, strict=True)]
    order = found.strongest[:LISTED]
    shown = [[found.parts[place].strip(), *(f"{own[place]:+.2f}" for own in found.weights)] for place in order]
    parts.append(listing.rows(["cell" if found.cells else "word", *found.sides], shown))
    if found.rows:
        parts.append("<div><b>Training rows with the most influence on the answer</b></div>")
        influential = [
            (f"{one.number:,}", short(one.prompt), short(one.answer), f"{one.similarity:+.2f}") for one in found.rows
        ]
        parts.append(listing.rows(("row", "prompt", "answer", "similarity"), influential))
        what = "similarity: the cosine of its gradient with the answer’s (TracIn), from −1 to 1."
        parts.append(f'<div style="{MUTED}">{what}</div>')
    parts += [f'<div style="{MUTED}">{escape(one)}</div>' for one in found.notes]
    return f'<div style="{BOX}">{"".join(parts)}</div>'


def words(side: str, weights: Sequence[float], ends: Sequence[float], found: Explanation) -> str:
    """Draw a text with each word in the colour of its weight, underlined as thick, and marked with the strongest."""
    most = float(numpy.abs(found.weights).max()) or 1.0
    drawn = "".join(_word(part, weight, weight / most) for part, weight in zip(found.parts, weights, strict=True))
    told = f"{escape(side)} <span style='{MUTED}'>({ends[0]:.1f} nats; {ends[1]:.1f} without any word)</span>"
    return f'<div style="margin:6px 0"><div>{told}</div><div style="line-height:2.1">{drawn}</div></div>'


def _word(part: str, weight: float, share: float) -> str:
    bare = part.rstrip()
    colour = ",".join(map(str, FOR if weight > 0 else AGAINST))
    mark = ""
    if abs(share) >= MARKED:
        mark = f'<sup style="font-size:.75em">{"+" if weight > 0 else "−"}{abs(weight):.1f}</sup>'
    line = f"border-bottom:{round(3 * abs(share))}px {'solid' if weight > 0 else 'dashed'} rgb({colour})"
    style = f"background:rgba({colour},{0.45 * abs(share):.2f});{line};border-radius:2px"
    said = f' title="{weight:+.2f}"'
    return f'<span style="{style}"{said}>{escape(bare)}{mark}</span>{escape(part[len(bare) :])}'


def picture(cells: Cells, weights: Sequence[float], side: str) -> str:
    """Draw an image with its cells in colour, the five strongest numbered and signed."""
    from PIL import Image, ImageDraw

    scale = WIDE / cells.image.width
    drawn = cells.image.resize((WIDE, max(1, round(cells.image.height * scale)))).convert("RGBA")
    cover = Image.new("RGBA", drawn.size, (0, 0, 0, 0))
    pen, most = ImageDraw.Draw(cover), float(numpy.abs(weights).max()) or 1.0
    ranks = {int(place): rank for rank, place in enumerate(numpy.argsort(-numpy.abs(weights), kind="stable")[:5], 1)}
    for place, (box, weight) in enumerate(zip(cells.boxes, weights, strict=True)):
        corners = [edge * scale for edge in box]
        pen.rectangle(corners, fill=(*(FOR if weight > 0 else AGAINST), int(150 * abs(weight) / most)))
        if place in ranks and weight:
            text = f"{'+' if weight > 0 else '-'}{ranks[place]}"
            pen.text((corners[0] + 3, corners[1] + 2), text, (255, 255, 255, 255), stroke_width=1, stroke_fill="black")
    file = io.BytesIO()
    Image.alpha_composite(drawn, cover).convert("RGB").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    best = ", ".join(f"{cells.names[place]} {weights[place]:+.2f}" for place in ranks)
    alt = escape(f"what in the image speaks for {side}: {best}")
    return f'<div style="margin:6px 0"><img src="data:image/png;base64,{data}" alt="{alt}" width="{WIDE}"></div>'
