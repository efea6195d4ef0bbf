"""Columns that no role of a layout takes: what could change what is learned is told from what may be left aside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from peft_nb.data import columns_of, looked_at
from peft_nb.data.layouts import filled

SYNTHETIC = "synthetic"  # the column that says who wrote a row, where that was a machine
WORDS = 4  # of which text is content, and no name or code

_NAMELESS = re.compile(r"|Unnamed: \d+|__index_level_\d+__")
_MEDIA = {
    **dict.fromkeys(("image", "images", "img", "picture", "pictures", "photo", "photos", "pixel_values"), "images"),
    **dict.fromkeys(("audio", "audios", "speech", "waveform", "input_features"), "audio"),
    **dict.fromkeys(("video", "videos"), "video"),
}
# Where a row comes from and what it is about.
_ASIDE = re.compile(
    r"(.+_)?(ids?|uuid|guid|index|idx|hash|source|origin|dataset|urls?|link|date|time|timestamp|created(_at)?"
    r"|updated(_at)?|topics?|category|categories|tags?|keywords?|domain|subject|lang(uage)?|locale|licen[cs]e|author"
    r"|user(name)?|model|generator|version|split|fold|metadata|meta|difficulty|level|path|file(name)?|type)"
)
_CONTENT = re.compile(
    r"(.+_)?(context|input|passage|document|evidence|explanation|reasoning|thinking|rationale|thought|cot|solution"
    r"|history|choices|options|distractors?\d*|tools|functions|schema|instructions?|system(_prompt)?|weight|loss(_\w+)?"
    r"|train(able|_on)?|mask)"
)
_JUDGES = re.compile(
    r"(.+_)?(ratings?|scores?|stars|quality|rewards?|grade|votes?|upvotes|downvotes|likes|dislikes|helpful(ness)?"
    r"|correct(ness)?|accepted|approved|good|bad|verdict|preference|feedback|toxic(ity)?|safe|label)(_.+)?"
)
_JUDGEMENTS = {
    *("true", "false", "yes", "no", "good", "bad", "correct", "incorrect", "right", "wrong"),
    *("pass", "fail", "accepted", "rejected", "up", "down", "like", "dislike"),
}
_FLAGS: list[set[str]] = [{"0", "1"}, {"0.0", "1.0"}, {"true", "false"}]

What = Literal["index", "media", "judgement", "content", "aside"]


@dataclass(frozen=True)
class Unused:
    """A column that is not read: its name, what kind of thing it holds, and that in words."""

    column: str
    what: What
    held: str = ""

    def __str__(self) -> str:
        return f"{self.column or repr('')} ({self.held})" if self.held else self.column


def find(rows: Sequence[Mapping[str, Any]], used: Collection[str]) -> list[Unused]:
    """Name the columns that are not used, and tell content from what may be left aside.

    Parameters
    ----------
    rows : sequence of mapping
        The table; some of them are looked at.
    used : collection of str
        Columns that play a role.

    Returns
    -------
    list of Unused
        In the order of the columns. ``content`` could change what is learned, ``judgement`` says which rows are good,
        ``media`` are images, audio and video, ``index`` numbers the rows, ``aside`` is anything else.
    """
    return [_kind(column, cells) for column, cells in _cells(rows, used).items()]


def flags(rows: Sequence[Mapping[str, Any]], used: Collection[str]) -> list[str]:
    """Name the unused columns that hold 0 and 1 or true and false alone, as several labels of a text are written."""
    return [
        column
        for column, cells in _cells(rows, used).items()
        if {str(cell).casefold() for cell in cells} in _FLAGS and _kind(column, cells).what != "index"
    ]


def untrained(media: Sequence[Unused], columns: Mapping[str, str]) -> str:
    """Refuse columns of images, audio or video that are not read: beside texts, images or audio; `columns` by role."""
    named = ", ".join(f"{one.column!r} holds {one.held}" for one in media)
    drop = f"data.drop(columns={[one.column for one in media]})"
    for role in ("image", "audio"):
        if role in columns:
            return f"column {named}, and of each row the {role} in {columns[role]!r} alone is read; pass {drop}"
    fix = f"to train on the texts without them, pass {drop}"
    if any(one.held == "images" for one in media):
        fix += f", or on the images alone, set format: image_label and columns: {{image: {media[0].column}, label: …}}"
    if any(one.held == "audio" for one in media):
        fix += f", or to learn to write speech down, set columns: {{audio: {media[0].column}, text: …}}"
    return f"column {named}, and this task reads text only; {fix}"


def as_lists(columns: Sequence[str], text: str) -> str:
    """Say how columns of 0 and 1 become one column of labels."""
    shown = list(columns)
    fix = f"df['label'] = [[name for name in {shown} if row[name]] for row in df.to_dict('records')]"
    train = f"columns={{'text': {text!r}, 'label': 'label'}}"
    what = f"columns {', '.join(columns)} look like labels written as 0 and 1"
    return f"{what}: make one column of lists, {fix}, and {train}"


def synthetic(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Who wrote the rows that no person wrote, as their column ``synthetic`` says, and how many each did."""
    told = (row.get(SYNTHETIC) for row in rows)
    return dict(Counter("a machine" if one is True else str(one) for one in told if filled(one) and one is not False))


def is_aside(name: str) -> bool:
    """Tell whether a name is that of an id, a topic and the like."""
    return bool(_ASIDE.fullmatch(_plain(name)))


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).casefold()


def _cells(rows: Sequence[Mapping[str, Any]], used: Collection[str]) -> dict[str, list[Any]]:
    """What the columns hold that are not used, in the rows looked at."""
    looked = looked_at(rows).values()
    left = [column for column in columns_of(rows) if column not in used]
    return {column: [cell for row in looked if filled(cell := row.get(column))] for column in left}


def _kind(column: str, cells: list[Any]) -> Unused:
    name = _plain(column)
    if not cells:
        return Unused(column, "aside", "empty")
    if _NAMELESS.fullmatch(column.strip()) and all(re.fullmatch(r"\d+(\.0)?", str(cell)) for cell in cells):
        return Unused(column, "index", "row index")
    if media := _MEDIA.get(name) or next(filter(None, map(_media, cells)), ""):
        return Unused(column, "media", media)
    if name == SYNTHETIC:  # which is told of in the report
        return Unused(column, "aside")
    words = sorted({str(cell).strip().casefold() for cell in cells})
    if all(isinstance(cell, bool) for cell in cells) or (set(words) <= _JUDGEMENTS and len(words) <= 3):
        return Unused(column, "judgement", " and ".join(words))
    numbers = all(isinstance(cell, (int, float)) or re.fullmatch(r"-?\d+(\.\d+)?", str(cell)) for cell in cells)
    if _JUDGES.fullmatch(name) and (numbers or len(words) <= 5):
        return Unused(column, "judgement", "numbers" if numbers else ", ".join(words))
    if _ASIDE.fullmatch(name):
        return Unused(column, "aside")
    if any(isinstance(cell, (list, tuple, Mapping)) for cell in cells):
        return Unused(column, "content", "lists" if isinstance(cells[0], (list, tuple)) else "dicts")
    if not numbers and median(len(str(cell).split()) for cell in cells) >= WORDS:
        return Unused(column, "content", "texts")
    return Unused(column, "content" if _CONTENT.fullmatch(name) else "aside", "numbers" * numbers)


def _media(cell: Any) -> str:
    """Tell what a cell holds as datasets and PIL do, or nothing."""
    if isinstance(cell, Mapping):
        return (
            "audio" if {"array", "sampling_rate"} <= set(cell) else "images" if {"bytes", "path"} == set(cell) else ""
        )
    return "images" if type(cell).__module__.startswith("PIL.") else ""
